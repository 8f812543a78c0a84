"""What becomes of a capsule when its routed job is over: the JOB_CLEANUP hook, and `settle`."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Mapping, Optional

from vmcapsule.capsule import delivery, making, states
from vmcapsule.capsule.record import UNREPORTED_SIGNAL, Capsule, load_capsule
from vmcapsule.capsule.states import State
from vmcapsule.classad.ads import Ad, Value, parse_ad, quote
from vmcapsule.config import check_scratch
from vmcapsule.errors import (
    HOLD_BY_USER,
    HOLD_JOB_POLICY,
    HOLD_TRANSFER_OUTPUT,
    CapsuleGone,
    OutputMissing,
    ToolError,
    UsageError,
    VmCapsuleError,
    one_line,
)
from vmcapsule.job.attributes import SOURCE_PREFIX
from vmcapsule.router import job_queue, user_log

#: Where a job's outputs are still wanted; unknown is None.
_WANTED = (job_queue.COMPLETED, None)


def cleanup(text: str) -> tuple[str, str]:
    """Do away with the capsule of the routed job whose ad is in ``text``.

    Returns the source job's id and what happened, in words.  Can be repeated (but that without
    a capsule its user's hold is logged again), and a capsule that is gone already, or was never
    made, is no error: the JobRouter runs this hook after success, removal and failed submission
    alike, and again after a restart.
    """
    routed = parse_ad(text)
    job_id = routed.string("VmCapsuleSourceJobId") or "?"
    folder = routed.string("VmCapsuleDir")
    if folder is None:
        ended = routed.integer("JobStatus") in (None, job_queue.COMPLETED)
        source = routed.string(f"{SOURCE_PREFIX}GlobalJobId")
        said = "" if ended else _tell_users_hold(routed, source)
        return job_id, f"there is no capsule{said}"
    if not Path(folder).exists():
        return job_id, f"{folder} is gone already"
    check_scratch(Path(folder).parent)
    try:
        made = load_capsule(Path(folder))
    except UsageError as error:
        return job_id, f"kept {folder}: {error.message}"
    try:
        with states.locked(made.folder):
            return job_id, _over(made, routed)
    except CapsuleGone:
        return job_id, f"{folder} is gone already"


def _over(made: Capsule, routed: Ad) -> str:
    """What becomes of a capsule whose lock is held."""
    # Only a run that came to its end can have brought outputs back.  By hand, the ad
    # may be the one that never was in a queue.
    if routed.integer("JobStatus") in (None, job_queue.COMPLETED):
        return settle(made, job_queue.status_of)
    if _held_after_its_run(routed) and delivery.reported(made):
        # HTCondor's file transfer delivers what there is before it holds a job.
        if made.state is not State.DELIVERED:
            states.enter(made.folder, State.DELIVERING)
        return settle(made, job_queue.status_of)
    making.remove(made.folder)
    said = _tell_users_hold(routed, made.global_job_id)
    return f"removed {made.folder}: its run did not end{said}"


def _tell_users_hold(routed: Ad, source: Optional[str]) -> str:
    """Log the hold that ended a routed job, if one did; say what came in between.

    ``source`` is its source's GlobalJobId.
    """
    # The routed ad may be one from before its removal.  Its own hold was logged when seen.
    is_held = routed.integer("JobStatus") == job_queue.HELD
    if is_held or routed.boolean("VmCapsuleHoldSeen") or not source:
        return ""
    try:
        tell_users_hold(routed, job_queue.hold_of(source))
    except (VmCapsuleError, OSError) as error:
        return f"; a hold of its source is not in the user's log: {error}"
    return ""


def tell_users_hold(routed: Ad, hold: Optional[Mapping[str, object]]) -> None:
    """Log a source's ``hold`` when its user's it is: that ended the routed job.

    The schedd logs the eviction alone, and other holds were logged as they were made.
    """
    if hold is not None and hold.get("HoldReasonCode") == HOLD_BY_USER:
        changes: dict[str, Value] = {
            "HoldReason": quote(one_line(str(hold.get("HoldReason", "")))),
            "HoldReasonCode": HOLD_BY_USER,
            "HoldReasonSubCode": 0,
        }
        user_log.tell_hold(routed.with_(changes))


def _held_after_its_run(routed: Ad) -> bool:
    """Whether the routed job is, or was, held because of how its run ended.

    That is because the job left less than it was to, or its owner's on_exit_hold said so;
    nothing else in a routed ad holds by policy, but for runs whose guest did not report.
    """
    codes = (routed.integer("HoldReasonCode"), routed.integer("LastHoldReasonCode"))
    if HOLD_TRANSFER_OUTPUT in codes:
        return True
    silent = (
        routed.boolean("ExitBySignal") is True
        and routed.integer("ExitSignal") == UNREPORTED_SIGNAL
    )
    return HOLD_JOB_POLICY in codes and not silent


def settle(made: Capsule, status_of: Callable[[str], object]) -> str:
    """Remove a capsule that has run, unless outputs would be lost; say what was done.

    A delivery that was killed is done again.  Outputs that were not delivered are kept
    where their job has ended; ``status_of`` tells a source job's JobStatus.  The caller
    holds the capsule's lock.
    """
    folder = made.folder
    if made.state is State.DELIVERING:
        try:
            delivery.deliver_from(made, delivery.job_of(made))
        except OutputMissing:
            return _removed(made, "delivered what there was")
        except VmCapsuleError as error:
            return f"kept {folder}: {error.message}"
        return _removed(made, "finished its delivery")
    if made.state is State.DELIVERED:
        return _removed(made, "delivered")
    if not delivery.reported(made):
        return _removed(made, "its guest did not report")
    try:
        status = status_of(made.global_job_id) if made.global_job_id else None
    except ToolError as error:
        return f"kept {folder}: its outputs were not delivered, and {error.message}"
    if status in _WANTED:
        return f"kept {folder}: its outputs were not delivered"
    return _removed(made, f"its job ended otherwise (JobStatus {status})")


def _removed(made: Capsule, why: str) -> str:
    making.remove(made.folder)
    return f"removed {made.folder}: {why}"
