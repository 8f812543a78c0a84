#!/bin/sh
echo $#
printf '<%s>\n' "$@"
exit 0
