#!/bin/sh
cat before after 2>/dev/null
echo ran
