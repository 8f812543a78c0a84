#!/bin/sh
echo $OMP_NUM_THREADS
[ $(nproc) -ge 2 ] && echo "CPUs enough"
