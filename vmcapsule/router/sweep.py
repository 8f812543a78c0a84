"""``vmcapsule gc``: removes the capsules in scratch that nobody owns any more.

A capsule is owned by the process that holds its lock, by a routed job in the queue, or
by a source job that the JobRouter is about to route.  What else is there was left by a
process that was killed, or by a job whose JOB_CLEANUP hook never ran.
"""

from __future__ import annotations

import functools
import os
import pwd
import sys
import traceback
from pathlib import Path
from typing import Callable, Iterable, NoReturn, Optional

from vmcapsule.capsule import making, naming, scratch, states
from vmcapsule.capsule.record import load_capsule
from vmcapsule.errors import (
    SYSTEM_ERROR,
    CapsuleGone,
    ToolError,
    UsageError,
    VmCapsuleError,
    one_line,
)
from vmcapsule.router import job_queue
from vmcapsule.router.cleanup import settle

Say = Callable[[str], None]


def sweep(folder: Path, min_age_s: float, say: Say) -> None:
    """Remove what nobody owns in the scratch folder; ``say`` is told a line for each.

    Folders younger than ``min_age_s`` stay, which may be about to get an owner.  Others'
    capsules are left alone, unless root asks: then each is seen to with its owner's rights
    only, since what lies in it was written by a stranger or by a stranger's guest.
    """
    old = [found for found in scratch.find(folder) if found.age_s >= min_age_s]
    if not old:
        return
    # Asked after looking: what was made since is not among those found.
    needed, unknown = _needed(old)
    for uid in sorted({found.uid for found in old}):
        theirs = [found for found in old if found.uid == uid]
        if uid == os.getuid():
            _sweep(theirs, needed, unknown, say)
        elif os.getuid() == 0:
            _as_owner(theirs[0], functools.partial(_sweep, theirs, needed, unknown, say), say)


def _needed(old: Iterable[scratch.Found]) -> tuple[Optional[job_queue.Needed], str]:
    """What the queue needs, and why that is not known."""
    if not any(found.name.kind == naming.ROUTED for found in old):
        return None, ""
    try:
        return job_queue.needed(), ""
    except ToolError as error:
        return None, error.message


def _sweep(
    theirs: Iterable[scratch.Found],
    needed: Optional[job_queue.Needed],
    unknown: str,
    say: Say,
) -> None:
    for found in theirs:
        try:
            with states.held_if_free(found.path) as free:
                event = _one(found, needed, unknown) if free else None
        except CapsuleGone:
            continue  # somebody else removed it
        except (VmCapsuleError, OSError) as error:
            event = f"kept {found.path}: {error}"
        if event:
            say(f"job {found.name.job_id}: {one_line(event)}")


def _one(
    found: scratch.Found, needed: Optional[job_queue.Needed], unknown: str
) -> Optional[str]:
    """See to one folder whose lock is held; None when it is none of our business."""
    if not found.name.is_whole:
        making.remove(found.path)
        return f"removed {found.path}: left over"
    if states.is_kept(found.path):
        return None
    try:
        made = load_capsule(found.path)
    except UsageError as error:
        return f"kept {found.path}: {error.message}"
    if found.name.kind == naming.RUN:
        # Whoever ran it was killed; no queue knows its job.
        return settle(made, lambda _: None)
    if needed is None:
        return f"kept {found.path}: {unknown}"
    if str(found.path) in needed.folders or made.global_job_id in needed.sources:
        return None
    return settle(made, job_queue.status_of)


def _as_owner(found: scratch.Found, work: Callable[[], None], say: Say) -> None:
    """Do ``work`` in a process that has the rights of a folder's owner and no others."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _child(found, work)
    _, status = os.waitpid(child, 0)
    if status:
        say(f"sweeping for user {found.uid} failed, see standard error")


def _child(found: scratch.Found, work: Callable[[], None]) -> NoReturn:
    status = SYSTEM_ERROR
    try:
        try:
            account = pwd.getpwuid(found.uid)
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid)
        except KeyError:
            os.setgroups([])
            os.setgid(found.gid)
        os.setuid(found.uid)
        work()
        sys.stdout.flush()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
