#!/bin/sh
# Where the job is and which slot it has is the machine's own.
env | sed -e "s|$PWD|SCRATCH|g" -e 's/^\(_CONDOR_SLOT=[a-z]*\).*/\1/' -e 's/^PATH=.*/PATH/' |
    grep -v -e '^PWD=' -e '^_=' -e '^OLDPWD=' -e '^SHLVL=' -e '^_CONDOR_ANCESTOR' | LC_ALL=C sort
