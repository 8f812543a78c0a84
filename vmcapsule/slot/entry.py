"""How the execute points' one file begins: in a slot, for a startd, as a vm-gahp, for libvirt.

Python older than 3.9 must be able to read this file (and no other), so as to say so.
"""

import os
import sys

#: As which HTCondor's vm-gahp calls it, as root (LIBVIRT_XML_SCRIPT_ARGS).
LIBVIRT_XML = "libvirt-xml"
#: As which our vm-gahp calls it, as the job's owner, for the machine.
MACHINE = "machine"
#: As which a job wrapper calls it, in the place of a job.
PACKED = "packed"
#: As which a routed job is started, in the place of its source.
ROUTED = "routed"
#: HTCondor's JOB_WRAPPER_FAILURE_FILE: what is in there is why a job could not be run.
FAILURE = ".job_wrapper_failure"
_USAGE = (
    "vmcapsule: this program is HTCondor's to call; 'vmcapsule config --execute' prints the "
    "configuration that has it do so\n"
)
_OLD = "Python %d.%d is too old to run capsules; install Python 3.9 or newer"


def begin():  # type: ignore[no-untyped-def]
    """Do what the arguments say; return the exit status."""
    arguments = sys.argv[1:]
    probing = arguments[:1] in (["probe"], ["templates"])
    if sys.version_info < (3, 9):  # noqa: UP036
        return too_old(probing)  # type: ignore[no-untyped-call]
    if arguments[:1] == ["probe"]:
        from vmcapsule.slot import probe

        return probe.main(arguments[1:])
    if arguments[:1] == ["templates"]:
        from vmcapsule.slot import templates

        return templates.main(arguments[1:])
    if arguments[:1] in ([PACKED], [ROUTED]):
        return run_packed(arguments)  # type: ignore[no-untyped-call]
    if arguments[:1] == [LIBVIRT_XML]:
        from vmcapsule.slot.libvirt import script

        return script.main(arguments[1:])
    if arguments[:1] == [MACHINE]:
        return run_machine(arguments[1:])  # type: ignore[no-untyped-call]
    # After what a job's own arguments may follow.
    if "-M" in arguments:
        from vmcapsule.slot.gahp import modes

        return modes.main(arguments, sys.argv[0])
    sys.stderr.write(_USAGE)
    return 64


def run_machine(arguments):  # type: ignore[no-untyped-def]
    """Run a capsule; whatever fails here, this very file having changed, is no job's end."""
    try:
        from vmcapsule.slot.gahp import machine

        return machine.main(arguments)
    except Exception as error:
        with_traceback = sys.exc_info()
        end_unreported("%s: %s" % (type(error).__name__, error), with_traceback)  # type: ignore[no-untyped-call]  # noqa: UP031


def run_packed(arguments):  # type: ignore[no-untyped-def]
    """Run a job in its slot; whatever fails here is no job's end.

    HTCondor looks for a file of a job wrapper's after each job (``UserProc::JobReaper``).  It
    takes that for a failure of the execute point, and the job is run again.
    """
    try:
        from vmcapsule.slot.packed import arguments as stand_in

        run = stand_in.packed if arguments[0] == PACKED else stand_in.of_route
        return run(arguments[1:])
    except Exception as error:
        reason = str(error)
        if not hasattr(error, "remedy"):  # a fault of ours, or of the machine's
            import traceback

            traceback.print_exc()
            reason = "%s: %s" % (type(error).__name__, reason)  # noqa: UP031
        return fail_packed(reason)  # type: ignore[no-untyped-call]


def fail_packed(reason):  # type: ignore[no-untyped-def]
    """Say that the job could not be run here, in the file that HTCondor looks for."""
    reason = "vmcapsule: %s\n" % " ".join(reason.split())[:500]  # noqa: UP031
    sys.stderr.write(reason)
    # A starter looks for it as HTCondor's own user, who is kept out of a job's sandbox (seen
    # in 23.9.6).  The job is over, and nothing is listed to anybody.
    os.chmod(".", os.stat(".").st_mode & 0o777 | 0o011)  # noqa: PTH101, PTH116
    try:
        with open(FAILURE, "w") as file:  # noqa: PTH123
            file.write(reason)
    except OSError as error:
        # On a full disk, say: that it is there, even empty, is enough for HTCondor.
        sys.stderr.write("vmcapsule: cannot say so to HTCondor: %s\n" % error)  # noqa: UP031
    return 1


def too_old(probing):  # type: ignore[no-untyped-def]
    """Say so as the probe does, or end as a run that did not report."""
    reason = _OLD % tuple(sys.version_info[:2])
    if sys.argv[1:2] == [LIBVIRT_XML]:
        # libvirt rejects it, and says why.
        print('<domain type="vmcapsule: %s"><name>refused</name></domain>' % reason)  # noqa: UP031
        return 0
    if probing:
        print('HasVMCapsule = false\nVMCapsuleReason = "%s"' % reason)  # noqa: UP031
        return 0
    if sys.argv[1:2] in ([PACKED], [ROUTED]):
        return fail_packed(reason)  # type: ignore[no-untyped-call]
    if sys.argv[1:2] == [MACHINE]:
        return end_unreported(reason)  # type: ignore[no-untyped-call]
    # HTCondor's VM universe may have us be root, who makes nothing in a job's folder.
    sys.stderr.write("vmcapsule: %s\n" % reason)  # noqa: UP031
    return 70


def end_unreported(reason, error=None):  # type: ignore[no-untyped-def]
    """Die as a run whose guest did not report, with what file transfer is to bring."""
    try:
        sys.stderr.write("vmcapsule: %s\n" % reason)  # noqa: UP031
        if error is not None:
            import traceback

            traceback.print_exception(*error)
        if not os.path.isdir("returned"):  # noqa: PTH112
            os.mkdir("returned")  # noqa: PTH102
        # What an earlier run handed back is not this one's.
        open(os.path.join("returned", "handed-back"), "w").close()  # noqa: PTH118, PTH123, SIM115
    except Exception:
        # On a full disk, say: it is told by the signal all the same.
        error = None
    os.kill(os.getpid(), 16)
    return 70


if __name__ == "__main__":
    raise SystemExit(begin())  # type: ignore[no-untyped-call]
