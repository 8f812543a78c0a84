"""``vmcapsule gc``: removes the capsules in scratch that nobody owns any more.

A capsule is owned by the process that holds its lock, by a routed job in the queue, or
by a source job that the JobRouter is about to route.  What else is there was left by a
process that was killed, or by a job whose JOB_CLEANUP hook never ran.
"""

from __future__ import annotations

import functools
import importlib
import os
import random
from collections import Counter
from pathlib import Path
from typing import Iterable, Optional, Sequence

from vmcapsule.capsule import making, naming, scratch, states
from vmcapsule.capsule.record import load_capsule
from vmcapsule.errors import CapsuleGone, ToolError, UsageError, VmCapsuleError, one_line
from vmcapsule.named import NamedTuple
from vmcapsule.router import job_queue
from vmcapsule.router.cleanup import settle
from vmcapsule.router.owners import DEADLINE_S, Say, Task, work_for_all

#: Others import these when they need them.  Then they may not be readable any more: for a
#: user, whose rights a process has taken on.
_NEEDED_LATER = ("ctypes", "shutil", "vmcapsule.process")


class _Asked(NamedTuple):
    """What the queue needs; where it did not answer None, and why not."""

    needed: Optional[job_queue.Needed]
    why_not: str = ""


class _OfAnother(Exception):
    """A capsule's job is in the queue of a schedd that was not asked."""


def sweep(folder: Path, min_age_s: float, say: Say, *, deadline_s: float = DEADLINE_S) -> None:
    """Remove what nobody owns in the scratch folder; ``say`` is told a line for each.

    Folders younger than ``min_age_s`` stay, which may be about to get an owner.  Others'
    capsules are left alone, unless root asks: then each is seen to with its owner's rights
    only, since what lies in it was written by a stranger or by a stranger's guest, and for
    ``deadline_s`` at most.
    """
    old = [found for found in scratch.find(folder) if found.age_s >= min_age_s]
    if not old:
        return
    # Asked after looking: what was made since is not among those found.
    asked = _ask(old)
    for name in _NEEDED_LATER:
        importlib.import_module(name)
    owners: dict[int, list[scratch.Found]] = {}
    for found in old:
        if os.getuid() in (0, found.uid):
            owners.setdefault(found.uid, []).append(found)
    # A user can have thousands of uids for containers; they come after those of people.
    work_for_all(
        [
            Task(uid, theirs[0].gid, functools.partial(_sweep, theirs, asked))
            for uid, theirs in sorted(owners.items())
        ],
        say,
        deadline_s=deadline_s,
    )


def _ask(old: Iterable[scratch.Found]) -> _Asked:
    if not any(found.name.kind == naming.ROUTED for found in old):
        return _Asked(None)
    try:
        return _Asked(job_queue.needed())
    except ToolError as error:
        return _Asked(None, error.message)


def _sweep(theirs: Sequence[scratch.Found], asked: _Asked, say: Say) -> None:
    others: Counter[str] = Counter()
    # In any order: what takes long every time does not always keep the same ones waiting.
    for found in random.sample(theirs, len(theirs)):
        try:
            with states.locked_if_free(found.path) as free:
                event = _one(found, asked) if free else None
        except CapsuleGone:
            continue  # somebody else removed it
        except _OfAnother as other:
            others[str(other)] += 1
            continue
        except (VmCapsuleError, OSError, RecursionError, MemoryError) as error:
            event = f"kept {found.path}: {error or type(error).__name__}"
        if event:
            say(f"job {found.name.job_id}: {one_line(event)}")
    for schedd, count in others.items():
        say(f"left alone {count} of the schedd {schedd}, which was not asked")


def _one(found: scratch.Found, asked: _Asked) -> Optional[str]:
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
    needed = asked.needed
    if needed is None:
        return f"kept {found.path}: {asked.why_not}"
    if str(found.path) in needed.folders or made.global_job_id in needed.sources:
        return None
    schedd = job_queue.schedd_of(made.global_job_id)
    if schedd != needed.schedd:
        raise _OfAnother(repr(schedd) if schedd else "that made it and is not named")
    return settle(made, job_queue.status_of)
