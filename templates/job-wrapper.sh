#!/bin/sh
# HTCondor's USER_JOB_WRAPPER: a job with 'WantVMCapsule = true' in its ad runs in a virtual
# machine of its own, all others as they are.  Written by 'vmcapsule config --execute'.

# Shells drop variables of names that cannot be theirs (a-b, say) and set some of
# their own.  What the kernel gave to this one, Python can give to the job.  (Where bash is sh
# it adds SHLVL=0, which any shell makes 1 of, as it does without.)
vmcapsule_kept=${_CONDOR_SCRATCH_DIR:-.}/.vmcapsule-environment.$$
keep() { (umask 077 && set -C && exec 2>/dev/null && /bin/cat /proc/$$/environ >"$vmcapsule_kept"); }
# What the job wants its own programs to load is nothing for ours.
ours() { LD_PRELOAD='' LD_LIBRARY_PATH='' LD_AUDIT='' LC_ALL=C "$@"; }
trap 'echo "cannot run $1" >"${_CONDOR_WRAPPER_ERROR_FILE:-/dev/null}"' EXIT

if ours /bin/grep -q -i '^WantVMCapsule = true$' "${_CONDOR_JOB_AD:-.job.ad}"; then
    keep || exit 1
    unset LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT
    exec /usr/bin/python3 -I %{program} packed%{options} "--environment=$vmcapsule_kept" -- "$@"
fi
vmcapsule_odd='PWD|OLDPWD|SHLVL|SHELLOPTS|_|PPID|E?UID|IFS|OPT(IND|ARG|ERR)|PS[0-9]|[A-Z]*LINENO'
vmcapsule_odd="$vmcapsule_odd|BASH.*|EPOCH.*|S?RANDOM|SECONDS|HISTCMD|COMP_.*|DIRSTACK|FUNCNAME"
vmcapsule_odd="^($vmcapsule_odd|GROUPS|POSIXLY_CORRECT|vmcapsule.*)=|^[0-9]|^[^=]*[^=A-Za-z0-9_]"
if ours /bin/grep -q -z -E "$vmcapsule_odd" /proc/$$/environ && keep; then
    unset LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT
    exec /usr/bin/python3 -ISc '
import os, sys
kept, *command = sys.argv[1:]
with open(kept, "rb") as file:
    entries = file.read().split(b"\0")
os.unlink(kept)
env = dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)
try:
    os.execvpe(command[0], command, env)
except OSError:
    told = os.environ.get("_CONDOR_WRAPPER_ERROR_FILE", os.devnull)
    with open(told, "w") as file:
        file.write(f"cannot run {command[0]}\n")
    sys.exit(127)
' "$vmcapsule_kept" "$@"
fi
unset vmcapsule_kept vmcapsule_odd PWD OLDPWD SHLVL
exec "$@"
