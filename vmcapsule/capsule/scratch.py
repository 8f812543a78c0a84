"""The folder in which capsules are made: whose they are, and what may be deleted there.

It is shared by strangers, so names are not to be guessed, and what is not the caller's
is not looked into.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

from vmcapsule.capsule import making, naming, states
from vmcapsule.capsule.states import State
from vmcapsule.errors import CapsuleGone, UsageError


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
        entries = os.scandir(scratch)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            name = naming.read_name(entry.name)
            if name is None or (job_id is not None and name.job_id != job_id):
                continue
            # Others delete here, too.
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    age_s = max(time.time() - status.st_mtime, 0.0)
                    yield Found(scratch / entry.name, name, status.st_uid, status.st_gid, age_s)


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
        with contextlib.suppress(CapsuleGone), states.held_if_free(found.path) as free:
            if free and not (states.is_kept(found.path) or _is_begun(found.path)):
                making.remove(found.path)


def _is_begun(folder: Path) -> bool:
    """Whether a delivery was begun and not ended; one that cannot be told may have been."""
    try:
        return states.state_of(folder) is State.DELIVERING
    except UsageError:
        return True
