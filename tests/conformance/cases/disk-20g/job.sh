#!/bin/sh
# A block that stays in memory is written again and again: an emulated guest is spared what
# making other bytes would take.
[ "$(df -k . | awk 'NR == 2 { print $4 }')" -ge 20971520 ] && echo enough
head -c 16777216 /dev/zero | tr '\0' x >block
written=0
while [ "$written" -lt 1280 ]; do
    cat block || exit 1
    written=$((written + 1))
done >data
echo end >>data
stat -c %s data
tail -c 6 data
[ "$(du -k data | cut -f1)" -ge 20971520 ] && echo real
rm data block
