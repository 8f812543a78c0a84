#!/usr/bin/env python3
"""Run the job that lies on the data disk, put its outputs there, and power off.

The guest's init invokes this as root as the machine comes up; it stands alone.  What it
reads and writes on the data disk is described in ``vmcapsule/contract.py``: a job record,
an index and packs go in; an index, packs and an exit record come out.  The job runs
under a personal HTCondor (runner "condor") or right from here (runner "direct").
Whatever fails, a record and a log are left and the machine powers off.

Needs Python 3.6 or newer, the standard library only, and little of it: imports are slow
in an emulated machine.
"""

import os
import signal
import sys
import time

from init.contract import GUEST_LOG
from init.processes import c_library, oom_score
from init.report import Failure, Log
from init.run import Guest

MYPY = False
if MYPY:
    from typing import Any, List, Tuple


def terminated(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise Failure("terminated", f"the guest was told to shut down (signal {number})")


def power_off(libc: "Any", data_dir: str) -> None:
    """Leave the data disk clean and switch the machine off, without asking init."""
    os.chdir("/")
    os.sync()
    if libc is not None:
        place = os.fsencode(data_dir)
        if libc.umount2(place, 0) != 0:
            libc.mount(None, place, None, 1 | 32, None)  # MS_RDONLY | MS_REMOUNT
        libc.reboot(0x4321FEDC)  # RB_POWER_OFF
    # Without ctypes by the kernel's magic keys: remount all read-only, power off.
    for key in "uo":
        with open("/proc/sysrq-trigger", "w") as trigger:
            trigger.write(key)
        time.sleep(2)


def options(argv: "List[str]") -> "Tuple[str, str, bool]":
    """``[--data DIR] [--work DIR] [--no-poweroff]``: data folder, work folder, power off."""
    found = {
        "--data": os.path.dirname(os.path.abspath(__file__)),
        "--work": "/var/lib/vmcapsule",
    }
    rest = [arg for arg in argv if arg != "--no-poweroff"]
    while len(rest) > 1 and rest[0] in found:
        found[rest[0]] = os.path.abspath(rest[1])
        del rest[:2]
    if rest:
        sys.exit("usage: condor-init.py [--data DIR] [--work DIR] [--no-poweroff]")
    return found["--data"], found["--work"], "--no-poweroff" not in argv


def main(argv: "List[str]") -> int:
    data_dir, work, off = options(argv)
    log = Log()
    signal.signal(signal.SIGTERM, terminated)
    guest = Guest(data_dir, work, off, log)
    libc = None
    try:
        with open("/proc/uptime") as stream:
            guest.phases["boot"] = float(stream.read().split()[0])
        log.open(os.path.join(data_dir, GUEST_LOG))
        log(f"condor-init.py under Python {sys.version.split()[0]}, Linux {os.uname()[2]}")
        if off:
            oom_score(-1000)  # when the job takes all memory, this has to report it
        libc = c_library()
        if libc is not None:
            libc.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what the job leaves comes to us
        guest.run()
    except Failure as failure:
        guest.fail(failure.stage, failure.message, failure.number)
    except BaseException as error:  # whatever it is, the host must hear of it
        import traceback

        log(traceback.format_exc())
        guest.fail("internal", f"{type(error).__name__}: {error}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        guest.finish()
    except OSError as error:
        log(f"cannot write the exit record: {error}")
    log.close()
    if off:
        power_off(libc, data_dir)
    return 0 if guest.report["state"] == "exited" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
