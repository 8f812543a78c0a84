#!/bin/sh
# What tells of GPUs, chirp and where HTCondor lies is the machine's: by name, and apart.
machines='^(CUDA_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|NVIDIA_VISIBLE_DEVICES|_CONDOR_AssignedGPUs|_CONDOR_BIN|_CONDOR_CHIRP_CONFIG)='
env | grep -E "$machines" | cut -d = -f 1 | LC_ALL=C sort >of-machine
env | grep -v -E "$machines" |
    sed -e "s|$PWD|SCRATCH|g" -e 's/^\(_CONDOR_SLOT=[a-z]*\).*/\1/' -e 's/^PATH=.*/PATH/' |
    grep -v -e '^PWD=' -e '^_=' -e '^OLDPWD=' -e '^SHLVL=' -e '^_CONDOR_ANCESTOR' | LC_ALL=C sort
