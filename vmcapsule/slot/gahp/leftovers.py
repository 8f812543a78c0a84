"""What a machine has left running in a job's folder, ended: exactly there, nothing else."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from vmcapsule.slot import hypervisor
from vmcapsule.vm import vmrun

PROC = Path("/proc")


def end_all_in(folder: Path) -> list[int]:
    """Kill this user's processes that work in ``folder``; return their numbers.

    Root ends nobody's: a process can go anywhere, and in a folder of that name be somebody
    else's.  The process that calls is spared, and on whose behalf it does: where HTCondor is
    not root, a starter is the job's user, and works in the job's folder.
    """
    if os.geteuid() == 0:
        return []
    place, spared = folder.resolve(), _callers()
    return [
        int(entry.name)
        for entry in PROC.iterdir()
        if entry.name.isdigit() and int(entry.name) not in spared and _end(entry, place)
    ]


def _callers() -> set[int]:
    """This process, its parent, and so on up to the first that is not to be seen."""
    found, pid = set[int](), os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            status = (PROC / str(pid) / "stat").read_bytes()
        except OSError:
            break
        # Behind the program's name, which may hold anything: the state, and the parent.
        pid = int(status.rpartition(b")")[2].split()[1])
    return found


def switch_off_all_in(folder: Path) -> None:
    """Switch off the machines of ``folder`` that VMware runs for this user.

    Their processes are VMware's, and may work anywhere.
    """
    if os.geteuid() == 0 or not vmrun.is_here():
        return
    product = hypervisor.chosen()
    if product != hypervisor.QEMU:
        for vmx in sorted(folder.glob("*.vmx")):
            vmrun.stop(product, vmx)


def _end(entry: Path, place: Path) -> bool:
    try:
        # From here on the number is nobody else's.
        fd = os.pidfd_open(int(entry.name))
    except OSError:
        return False
    try:
        is_ours = entry.stat().st_uid == os.geteuid() and (entry / "cwd").readlink() == place
        if is_ours:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(fd)
    return is_ours
