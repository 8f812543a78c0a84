#!/bin/sh
umask
ulimit -a | grep -v -e process -e nofiles
grep -E '^Sig(Blk|Ign)|^NoNewPrivs' /proc/self/status
for n in 0 1 2; do
    link=$(readlink /proc/$$/fd/$n)
    echo "$n is ${link#"$PWD/"}"
done
tty
cut -d ' ' -f 19 /proc/self/stat
