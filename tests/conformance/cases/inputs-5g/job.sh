#!/bin/sh
stat -c %s data
tail -c 8 data
