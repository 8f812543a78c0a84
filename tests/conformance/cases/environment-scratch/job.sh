#!/bin/sh
[ "$CASE_WHERE" = "$PWD/below" ] && echo right || echo "$CASE_WHERE" in "$PWD"
