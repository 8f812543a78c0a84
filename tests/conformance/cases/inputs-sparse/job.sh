#!/bin/sh
stat -c %s data
tail -c 5 data
