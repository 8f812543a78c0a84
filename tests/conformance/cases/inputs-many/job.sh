#!/bin/sh
ls in | wc -l
find in -type f -exec cat {} + | LC_ALL=C sort | cksum
