"""A job as a starter has set it up in its slot: what the program finds that takes its place.

Natively the job would find the same: nothing of it is read from the job's ad that the starter
has done already (arguments, environment, files, streams).
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from typing import Mapping, Optional, Sequence

from vmcapsule import contract
from vmcapsule.errors import ToolError
from vmcapsule.named import NamedTuple
from vmcapsule.slot import chirp, starter
from vmcapsule.slot.packed.links import Proxy
from vmcapsule.slot.packed.share import Room

#: What a starter without a job wrapper does not set.
_WRAPPERS_OWN = "_CONDOR_WRAPPER_ERROR_FILE"
#: In a slot that says nothing of itself.
_MEMORY_MIB, _DISK_KIB = 128, 1 << 20
#: A slot may claim more of a disk than a job will ever write.
_DISK_KIB_MAX = 1 << 30
#: Where standard input comes from that is no file of the sandbox.
STDIN = "_condor_stdin"


class Found(NamedTuple):
    """A job in its slot.

    ``here`` is its sandbox, ``executable`` and ``stdin`` are relative to it or absolute.
    ``stdin`` is None for /dev/null, and `STDIN` where it is to be read from our own standard
    input.  ``stdout`` and ``stderr`` are names in the sandbox, the same for one merged file,
    None for /dev/null.
    """

    here: Path
    executable: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    stdin: Optional[str]
    stdout: Optional[str]
    stderr: Optional[str]
    user: str
    cpus: int
    room: Room
    job_ad: str
    machine_ad: str
    chirp: Optional[Proxy] = None
    #: What of the sandbox is not put back, whatever the job has made of it.
    omit: tuple[str, ...] = ()


def find(here: Path, command: Sequence[str], environment: Mapping[str, str]) -> Found:
    """Look at what the starter left; ``command`` is the job's program and its arguments.

    ``environment`` is the job's.
    """
    machine_ad = starter.ad_text(here, environment, ".machine.ad")
    given = {name: value for name, value in environment.items() if name != _WRAPPERS_OWN}
    out, error = os.fstat(1), os.fstat(2)
    merged = (out.st_dev, out.st_ino) == (error.st_dev, error.st_ino)
    return Found(
        here=here,
        executable=_inside(here, command[0]) or command[0],
        arguments=tuple(command[1:]),
        environment=tuple(given.items()),
        stdin=_stdin(here),
        stdout=_stream(out, contract.STDOUT),
        stderr=_stream(error, contract.STDOUT if merged else contract.STDERR),
        user=_user(),
        cpus=starter.number(machine_ad, "Cpus") or 1,
        room=Room(
            starter.number(machine_ad, "Memory") or _MEMORY_MIB,
            min(starter.number(machine_ad, "Disk") or _DISK_KIB, _DISK_KIB_MAX),
        ),
        job_ad=starter.ad_text(here, environment, ".job.ad"),
        machine_ad=machine_ad,
        chirp=_proxy(starter.chirp_config(here, environment)),
    )


def _proxy(contact: Path) -> Optional[Proxy]:
    try:
        return Proxy(contact, chirp.read_contact(contact))
    except ToolError:  # an administrator may have switched it off
        return None


def _inside(here: Path, path: str) -> Optional[str]:
    """A path relative to the sandbox, where it lies in there."""
    whole = Path(os.path.normpath(here / path))
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else None


def _stdin(here: Path) -> Optional[str]:
    status = os.fstat(0)
    if _is_null(status):
        return None
    if stat.S_ISREG(status.st_mode):
        return _inside(here, os.readlink("/proc/self/fd/0")) or STDIN  # noqa: PTH115
    return STDIN


def _stream(status: os.stat_result, name: str) -> Optional[str]:
    return None if _is_null(status) else name


def _is_null(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a slot's account need not be in any list
        return str(os.geteuid())
