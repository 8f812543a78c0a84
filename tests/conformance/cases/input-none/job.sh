#!/bin/sh
readlink /proc/self/fd/0
wc -c
