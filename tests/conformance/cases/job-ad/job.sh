#!/bin/sh
for name in Arguments Args ClusterId Cmd Environment Err Iwd JobPrio JobUniverse NumJobStarts Out Owner ProcId \
    RequestCpus RequestDisk RequestMemory ShouldTransferFiles TransferInput User UserLog WhenToTransferOutput; do
    grep -i "^$name = " "$_CONDOR_JOB_AD"
done | sed -e "s|$PWD|SCRATCH|g" -e 's/^ClusterId = [0-9]*$/ClusterId = NUMBER/'
