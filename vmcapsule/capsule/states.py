"""Who is at work on a capsule, and how far it came.

Whoever builds, runs or delivers a capsule holds the lock in its folder, which ends with
the process: what nobody holds can be swept up when nothing else needs it either.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Iterator

LOCK = "lock"
#: Empty files that say what became of the outputs.
DELIVERING = "delivering"
DELIVERED = "delivered"
#: What of the outputs is still to be delivered when others are: paths of the index, as JSON.
LEFT_OVER = "left-over.json"
#: An empty file: the user wants to keep this capsule.
KEPT = "kept"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a capsule's lock, waiting for whoever has it."""
    fd = _take_lock(folder, wait=True)
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def held_if_free(folder: Path) -> Iterator[bool]:
    """Hold a capsule's lock if nobody else does; tells whether."""
    try:
        fd = _take_lock(folder, wait=False)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(fd)


def _take_lock(folder: Path, *, wait: bool) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(folder / LOCK, flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd
