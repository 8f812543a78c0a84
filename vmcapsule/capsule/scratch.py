"""The folder in which capsules are made: whose they are, and what may be deleted there.

It is shared by strangers, so names are not to be guessed, and what is not the caller's
is not looked into.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from pathlib import Path
from typing import Iterator, Optional

from vmcapsule.capsule import making, naming, states
from vmcapsule.capsule.states import State
from vmcapsule.errors import CapsuleGone, UsageError
from vmcapsule.named import NamedTuple


class Found(NamedTuple):
    """A folder in scratch that is a capsule, or what is left of one."""

    path: Path
    name: naming.Name
    uid: int
    gid: int
    #: Since when nothing was put into it or taken out.
    age_s: float


def find(scratch: Path, job_id: Optional[str] = None) -> tuple[Found, ...]:
    """The capsules in ``scratch``, of all users; of one job with ``job_id``."""
    return tuple(sorted(_find(scratch, job_id), key=lambda found: found.path.name))


def _find(scratch: Path, job_id: Optional[str]) -> Iterator[Found]:
    try:
        with os.scandir(scratch) as entries:
            named = [(entry, naming.read_name(entry.name)) for entry in entries]
    except FileNotFoundError:
        return
    capsules = [(e, name) for e, name in named if name and job_id in (None, name.job_id)]
    mounted = _mounted_in(scratch) if capsules else frozenset()
    for entry, name in capsules:
        if entry.name in mounted:
            continue
        # Others delete here, too, and make what nobody else may look at.
        with contextlib.suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                age_s = max(time.time() - status.st_mtime, 0.0)
                yield Found(scratch / entry.name, name, status.st_uid, status.st_gid, age_s)


def _mounted_in(scratch: Path) -> frozenset[str]:
    """What in a folder is a mount point, or has one in it.

    It may be a user's file system, and then his program answers there, or does not.
    """
    above = os.path.realpath(scratch).encode(errors="surrogateescape") + b"/"
    names = set()
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        # The fifth field (proc(5)); blanks and the like in it are octal numbers.
        place = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), line.split(b" ")[4])
        if place.startswith(above):
            names.add(os.fsdecode(place[len(above) :].split(b"/")[0]))
    return frozenset(names)


def clear(scratch: Path, job_id: str, global_job_id: Optional[str]) -> None:
    """Remove what earlier tries to translate this job left behind.

    A job that the JobRouter has translated has no run that counts.  What somebody is at
    work on or wants to keep stays, and so does a result whose delivery has begun.
    """
    digest = naming.digest_of(job_id, global_job_id)
    for found in find(scratch, job_id):
        name = found.name
        if name.kind != naming.ROUTED or name.digest != digest or found.uid != os.getuid():
            continue
        with contextlib.suppress(CapsuleGone), states.locked_if_free(found.path) as free:
            if free and not (states.is_kept(found.path) or _is_begun(found.path)):
                making.remove(found.path)


def _is_begun(folder: Path) -> bool:
    """Whether a delivery was begun and not ended; one that cannot be told may have been."""
    try:
        return states.state_of(folder) is State.DELIVERING
    except UsageError:
        return True
