#!/bin/sh
echo $#
printf '<%s>\n' "$@"
