#!/bin/sh
echo "$SHELL $LOGNAME"
