"""How far a capsule came, and who is at work on it.

::

    draft ---> made ---> delivering ---> delivered
                ^          |  |  ^
                |  undone  |  |  |  what was in the way is gone
                +----------+  v  |
                           left over

=========== ================================== ===========================================
state       what it means                      who removes it
=========== ================================== ===========================================
draft       being built under a hidden name    its maker; once that was killed, ``gc``
made        waits, runs or has run             ``cleanup`` or ``gc``, unless it holds what
                                               a job that has ended is still to get
delivering  outputs are being put in place     nobody: who finds it so (its delivery was
                                               killed) delivers again
left over   all outputs but a few are there    nobody: its owner delivers them by hand
delivered   all outputs are there              ``cleanup`` or ``gc``
=========== ================================== ===========================================

A capsule can be *kept* in any state: its owner wants it, and ``gc`` leaves it alone.  One
that is booted again by hand is *made* again, whatever was delivered before.

Whoever builds, runs, delivers or removes a capsule holds the lock in its folder, which
ends with the process: what nobody holds can be swept up when nothing else needs it either.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
from pathlib import Path
from typing import Iterator

from vmcapsule.errors import CapsuleGone, InternalError, UsageError
from vmcapsule.files import open_regular

LOCK = "lock"
#: A link to the state's name; there is none while the state is MADE.  A link comes up whole
#: after a power cut, or not at all, without that anybody has to wait for the disk.
STATE = "state"
#: What of the outputs is still to be delivered when others are: paths of the index, as JSON.
LEFT_OVER = "left-over.json"
#: An empty file: the capsule is kept.
KEPT = "kept"


class State(enum.Enum):
    """How far a capsule came; the module's text has the picture."""

    DRAFT = "draft"
    MADE = "made"
    DELIVERING = "delivering"
    LEFT_OVER = "left over"
    DELIVERED = "delivered"


#: What may follow what.  A delivery can be asked for again, and one that was killed is
#: begun again; one that failed as a whole goes back to where it began.  After another run
#: all is to be delivered.
_FOLLOWS = {
    State.DRAFT: {State.MADE},
    State.MADE: {State.DELIVERING},
    State.DELIVERING: {
        State.DELIVERING,
        State.MADE,
        State.LEFT_OVER,
        State.DELIVERED,
    },
    State.LEFT_OVER: {State.DELIVERING, State.MADE},
    State.DELIVERED: {State.DELIVERING, State.MADE},
}


def state_of(folder: Path) -> State:
    """The state of the capsule in ``folder``; raises `UsageError` where none can be read."""
    if folder.name.startswith("."):
        return State.DRAFT
    try:
        return State(str((folder / STATE).readlink()))
    except FileNotFoundError:
        return State.MADE
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it names no state"
        raise UsageError(
            f"cannot tell how far the capsule '{folder}' came: {STATE}: {reason}",
            "remove that file and deliver its outputs with 'vmcapsule extract', or remove all",
        ) from error


def enter(folder: Path, state: State) -> None:
    """Put the capsule in ``folder`` into ``state``; its lock is the caller's."""
    before = state_of(folder)
    if state not in _FOLLOWS[before]:
        raise InternalError(f"'{folder}' is {before.value} and cannot be {state.value} next")
    aside = folder / f".{STATE}"
    aside.unlink(missing_ok=True)
    aside.symlink_to(state.value)
    aside.rename(folder / STATE)


def keep(folder: Path) -> None:
    """Let the capsule in ``folder`` stay until its owner removes it."""
    (folder / KEPT).touch()


def is_kept(folder: Path) -> bool:
    """Whether a person wants the capsule in ``folder``."""
    return os.path.lexists(folder / KEPT)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a capsule's lock, waiting for whoever has it.

    Raises `CapsuleGone` where the capsule is gone, or goes meanwhile.
    """
    fd = _take_lock(folder, wait=True)
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked_if_free(folder: Path) -> Iterator[bool]:
    """Hold a capsule's lock if nobody else does; tells whether.  Raises `CapsuleGone`."""
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
    how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        try:
            fd = open_regular(folder / LOCK, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError as error:
            raise CapsuleGone(folder) from error
        try:
            fcntl.flock(fd, how)
            # Its folder may have been renamed away and removed since it was opened.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.lstat(folder / LOCK)):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
