#!/bin/sh
echo begin >data
truncate -s 20G data
echo end >>data
[ "$(du -k data | cut -f1)" -lt 1024 ] && echo sparse
