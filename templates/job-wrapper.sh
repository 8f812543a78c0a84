#!/bin/sh
# HTCondor's USER_JOB_WRAPPER: a job with 'WantVMCapsule = true' in its ad runs in a virtual
# machine of its own, all others as they are.  Written by 'vmcapsule config --execute'.
if ! /bin/grep -q -i '^WantVMCapsule = true$' "${_CONDOR_JOB_AD:-.job.ad}"; then
    trap 'echo "cannot run $1" >"${_CONDOR_WRAPPER_ERROR_FILE:-/dev/null}"' EXIT
    exec "$@"
fi
# What the job wants its own programs to load is nothing for Python.
set -- -- "$@"
for name in LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT; do
    eval "value=\${$name-} given=\${$name+yes}"
    if [ "$given" ]; then
        set -- "--set=$name=$value" "$@"
        unset "$name"
    fi
done
unset name value given
exec /usr/bin/python3 -I %{program} packed%{options} "$@"
