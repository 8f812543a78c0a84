#!/bin/sh
# The starter's .update.ad comes when the job has run for a while.
stat -c '%A %n' .[!.]* * | grep -v -e update.ad -e chirp | LC_ALL=C sort -k 2
ls -A | grep chirp >found-of-it
stat -c 'here %A %U' .
id -un
