"""From a capsule that has run to outputs where its job wants them: each once, and whole.

The capsule's state says how far a delivery came.  One that was killed is begun again by
whoever finds the capsule next; the caller holds the capsule's lock.
"""

from __future__ import annotations

import errno
import json
import os
from itertools import islice
from typing import ContextManager, Iterable, Mapping, Optional

from vmcapsule.atomic import write_file
from vmcapsule.capsule import states
from vmcapsule.capsule.record import Capsule, source_ad
from vmcapsule.capsule.returned import returned_disk
from vmcapsule.capsule.states import State
from vmcapsule.classad.ads import parse_ad
from vmcapsule.contract import INDEX_BYTES_MAX
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import OutputBlocked, OutputMissing, UsageError, VmCapsuleError
from vmcapsule.files import read_regular
from vmcapsule.guest import extract
from vmcapsule.guest.exit_record import JobExit, read_exit, read_record
from vmcapsule.job.source import SourceJob, read_job
from vmcapsule.transfer.outputs import Destinations

#: A path has no more than three times as many bytes there as in the index.
_LEFT_OVER_BYTES_MAX = 3 * INDEX_BYTES_MAX
#: Of more outputs that cannot be sent or put in place only so many are named.
_NAMED_MAX = 3
_WHY = {errno.EACCES: "its user may not read it", errno.EISDIR: "it links to a folder"}


def job_of(made: Capsule) -> SourceJob:
    """The job as it was when the capsule was made.

    What the queue did to its ad since is not the job's description, and must not stand
    between a job and its outputs.
    """
    return read_job(parse_ad(source_ad(made)))


def _returned(made: Capsule) -> ContextManager[FatVolume]:
    """What the guest left, to be read inside a ``with`` block; no larger than it was given."""
    return returned_disk(made).opened(made.folder, made.data_bytes)


def exit_of(made: Capsule) -> JobExit:
    """How the capsule's job ended.  Raises `GuestError` and `DiskError`."""
    with _returned(made) as volume:
        return read_exit(volume)


def top_names(made: Capsule) -> tuple[str, ...]:
    """What came back at the top of the job's folder, streams aside (`Destinations`)."""
    with _returned(made) as volume:
        entries = extract.read_outputs(volume).entries
    return Destinations(job_of(made)).spooled_names(entries.paths)


def reported(made: Capsule) -> bool:
    """Whether a guest left a record there; a disk that cannot be read may hold one."""
    try:
        with _returned(made) as volume:
            return read_record(volume) is not None
    except VmCapsuleError:
        return True


def deliver_from(made: Capsule, job: SourceJob) -> tuple[JobExit, tuple[str, ...]]:
    """Deliver the outputs of a capsule that has run; say how its job ended.

    Raises, after everything else was delivered, `OutputMissing` when the job did not leave
    an output that it was to leave, and `OutputBlocked` when one could not be put in place:
    then that alone is left to be delivered.  What was delivered is on disk then.
    """
    before, only = _begun(made)
    states.enter(made.folder, State.DELIVERING)
    try:
        with _returned(made) as volume:
            job_exit = read_exit(volume)
            files = extract.read_outputs(volume, job_exit)
            token = made.folder.name[-8:]
            done = extract.deliver(volume, files, Destinations(job).place, token, only)
    except VmCapsuleError:
        # It failed and was undone; delivering is the state of one that could not be.
        states.enter(made.folder, before)
        raise
    _settle(made, done.left_over)
    check_left_over(done.left_over)
    check_missing(job_exit)
    return job_exit, done.files


def _begun(made: Capsule) -> tuple[State, Optional[frozenset[str]]]:
    """Where a delivery begins: in which state, and what is left to deliver; None: all.

    One that was killed began where the next one begins.
    """
    if made.state in (State.MADE, State.DELIVERED):
        return made.state, None
    left_over = _left_over(made)
    return (State.MADE if left_over is None else State.LEFT_OVER), left_over


def _left_over(made: Capsule) -> Optional[frozenset[str]]:
    """What an earlier delivery could not put in place, by path in the index."""
    path = made.folder / states.LEFT_OVER
    try:
        paths = json.loads(read_regular(path, _LEFT_OVER_BYTES_MAX))
        if not isinstance(paths, list):
            raise ValueError("not a list")
        return frozenset(map(str, paths))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) else f"not a list of paths: {error}"
        )
        raise UsageError(
            f"cannot tell which outputs are left over: '{path}': {reason}",
            "deliver all of them once more with 'vmcapsule extract --again'",
        ) from error


def forget_left_over(made: Capsule) -> None:
    """Let the next delivery be one of everything, over what is there."""
    (made.folder / states.LEFT_OVER).unlink(missing_ok=True)


def expect_all(made: Capsule) -> None:
    """Let everything be delivered that the run leaves which is about to begin."""
    forget_left_over(made)
    if made.state is not State.MADE:
        states.enter(made.folder, State.MADE)


def _settle(made: Capsule, left_over: Iterable[str]) -> None:
    """Note what is still to be delivered; when nothing is, that all was."""
    paths = list(left_over)
    if not paths:
        states.enter(made.folder, State.DELIVERED)
        forget_left_over(made)
        return
    # First: whoever finds the capsule between the two delivers these alone.
    write_file(made.folder / states.LEFT_OVER, json.dumps(paths).encode())
    states.enter(made.folder, State.LEFT_OVER)


def check_left_over(left_over: Mapping[str, str]) -> None:
    """Raise `OutputBlocked` when outputs, by path, are left over; their values say why."""
    if left_over:
        named = [f"'{path}' ({why})" for path, why in islice(left_over.items(), _NAMED_MAX)]
        more = len(left_over) - _NAMED_MAX
        raise OutputBlocked(
            f"cannot write the job's output {', '.join(named)}"
            f"{f' and {more} more' if more > 0 else ''}",
            "move away what is in the way, or else correct that; 'vmcapsule extract' then "
            "delivers what is left over; the other outputs were delivered",
        )


def check_missing(job_exit: JobExit) -> None:
    """Raise `OutputMissing` when the job left less than it was to leave, or what HTCondor
    does not send."""
    faults = []
    if job_exit.missing_outputs:
        named = [f"'{path}'" for path in job_exit.missing_outputs[:_NAMED_MAX]]
        more = job_exit.missing_count - len(named)
        names = ", ".join(named) + (f" and {more} more" if more else "")
        faults.append(f"did not leave {names}, which transfer_output_files names")
    faults += [
        f"left '{path}', which cannot be sent: {_WHY.get(why) or os.strerror(why)}"
        for path, why in job_exit.unsent_outputs[:_NAMED_MAX]
    ]
    if job_exit.unsent_count > _NAMED_MAX:
        faults.append(f"left {job_exit.unsent_count - _NAMED_MAX} more that cannot be sent")
    if faults:
        raise OutputMissing(
            f"the job (status {job_exit.status}) {' and '.join(faults)}",
            "correct the job or the list; its other outputs were delivered",
        )
