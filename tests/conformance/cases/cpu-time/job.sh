#!/bin/sh
# 20 MiB in a variable, and some CPU.
block=$(head -c 10485760 /dev/zero | tr '\0' x)
more=$block$block
n=0
while [ $n -lt 50000 ]; do n=$((n + 1)); done
echo ${#more}
