#!/bin/sh
echo ran as "${0##*/}"
stat -c %a "$0"
