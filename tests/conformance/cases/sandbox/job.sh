#!/bin/sh
stat -c '%A %n' .[!.]* * | LC_ALL=C sort -k 2
stat -c 'here %A %U' .
id -un
