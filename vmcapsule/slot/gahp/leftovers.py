"""What a machine has left running in a job's folder, ended: exactly there, nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Sequence

from vmcapsule.errors import ToolError
from vmcapsule.slot import hypervisor
from vmcapsule.slot.gahp.child import hypervisor_or_why, identity_of, owner_at
from vmcapsule.vm import vmrun

PROC = Path("/proc")


#: VMware is asked twice for each machine of a folder.
OWNER_TIMEOUT_S = 300.0


def end_as_owner(folder: Path, call: Sequence[str]) -> None:
    """Root has the owner of ``folder`` do ``call``, our own program and what it is asked.

    What runs the machines root has asked HTCondor before; the owner is not asked.  Of root's
    environment the owner, who could read it, gets nothing else.
    """
    path = os.environ.get("PATH", os.defpath)
    env = {"PATH": path, f"_CONDOR_{hypervisor.KNOB}": hypervisor_or_why()}
    try:
        subprocess.run(
            [sys.executable, "-I", *call],
            cwd="/", env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr,
            timeout=OWNER_TIMEOUT_S, check=True, **identity_of(owner_at(folder)),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolError(f"what is left in '{folder}' is not ended: {error}") from error


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
        # Where VMware leaves what it has to say.
        os.chdir(folder)
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
