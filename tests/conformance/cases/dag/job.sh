#!/bin/sh
cat from-* 2>/dev/null
echo "$1" >from-$1
