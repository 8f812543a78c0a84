#!/bin/sh
# HTCondor's USER_JOB_WRAPPER: a job with 'WantVMCapsule = true' in its ad runs in a virtual
# machine of its own, all others as they are.  Written by 'vmcapsule config --execute'.

# Where bash is sh it would end with a program that it cannot start, and older ones forget the
# trap then: it is set again.
(shopt -s execfail) 2>/dev/null && shopt -s execfail
vmcapsule_kept=${_CONDOR_SCRATCH_DIR:-.}/.vmcapsule-environment.$$
vmcapsule_tell='/bin/rm -f "$vmcapsule_kept" 2>/dev/null
echo "cannot run $1" >"${_CONDOR_WRAPPER_ERROR_FILE:-/dev/null}"'
trap "$vmcapsule_tell" EXIT
trap 'trap - EXIT; kill -TERM $$' TERM
# Shells drop variables of names that cannot be theirs (a-b, say) and set some of their own.
# What the kernel gave to this one, Python can give to the job.  (Where bash is sh it adds
# SHLVL=0, which any shell makes 1 of, as it does without.)
vmcapsule_python=/usr/bin/python3
# What the job wants its own programs to load is nothing for ours.
ours() (
    exec 2>/dev/null
    LD_PRELOAD='' LD_LIBRARY_PATH='' LD_AUDIT='' GREP_OPTIONS='' LC_ALL=C exec "$@"
)
keep() {
    (umask 077 && set -C && : >"$vmcapsule_kept") 2>/dev/null || return 1
    ours /bin/cat /proc/$$/environ >>"$vmcapsule_kept" && return
    ours /bin/rm -f "$vmcapsule_kept"
    return 1
}

vmcapsule_ad=${_CONDOR_JOB_AD:-.job.ad}
vmcapsule_asks=1
[ -e "$vmcapsule_ad" ] && {
    ours /bin/grep -q -i '^WantVMCapsule = true$' "$vmcapsule_ad"
    vmcapsule_asks=$?
}
# Who cannot be asked is not run outside of a machine.
[ $vmcapsule_asks -le 1 ] || exit 1
if [ $vmcapsule_asks = 0 ]; then
    keep || exit 1
    unset LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT
    exec $vmcapsule_python -I %{program} packed%{options} "--environment=$vmcapsule_kept" -- "$@"
    trap "$vmcapsule_tell" EXIT
    exit 1
fi
vmcapsule_odd='PWD|OLDPWD|SHLVL|SHELLOPTS|_|PPID|E?UID|IFS|OPT(IND|ARG|ERR)|PS[0-9]|[A-Z]*LINENO'
vmcapsule_odd="$vmcapsule_odd|BASH.*|EPOCH.*|S?RANDOM|SECONDS|HISTCMD|COMP_.*|DIRSTACK|FUNCNAME"
vmcapsule_odd="^($vmcapsule_odd|GROUPS|POSIXLY_CORRECT|vmcapsule.*)=|^[0-9]|^[^=]*[^=A-Za-z0-9_]"
if [ -x $vmcapsule_python ] && ours /bin/grep -q -z -E "$vmcapsule_odd" /proc/$$/environ && keep
then
    unset LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT
    exec $vmcapsule_python -ISc '
import errno, os, signal, sys
kept, *command = sys.argv[1:]
try:
    with open(kept, "rb") as file:
        entries = file.read().split(b"\0")
    os.unlink(kept)
    env = dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)
    # Python ignores it, and who is ignored stays so.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, env)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        # As shells do.
        os.execve("/bin/sh", ["sh", *command], env)
except Exception:
    told = os.environ.get("_CONDOR_WRAPPER_ERROR_FILE", os.devnull)
    with open(told, "w") as file:
        file.write(f"cannot run {command[0]}\n")
    sys.exit(127)
' "$vmcapsule_kept" "$@"
    trap "$vmcapsule_tell" EXIT
    exit 1
fi
unset vmcapsule_odd vmcapsule_python vmcapsule_ad vmcapsule_asks
unset PWD OLDPWD SHLVL
exec "$@"
trap "$vmcapsule_tell" EXIT
exit 127
