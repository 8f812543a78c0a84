"""What a routed job's ad is told of a run: that there was none, or what the job used."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from typing import Mapping, Union

from vmcapsule.errors import ExecFailed, ToolError, VmCapsuleError, one_line
from vmcapsule.guest.exit_record import JobExit
from vmcapsule.slot import chirp
from vmcapsule.slot import starter as slot
from vmcapsule.slot.ending import say
from vmcapsule.slot.starter import Slot

_REASON_CHARS_MAX = 400


def failed(error: Exception, here: Slot) -> None:
    """That the job was not run to its end here, why, and how often that has been.

    At once: the starter is to forget this run.  Where that cannot be told the job is run
    again without a count.
    """
    where = (
        f"{here.machine or socket.gethostname()}: {one_line(_told(error), _REASON_CHARS_MAX)}"
    )
    changes: dict[str, Union[int, str]] = {
        slot.AVOID_UNTIL: int(time.time()) + slot.AVOID_S,
        slot.UNREPORTED_REASON: where,
        slot.UNREPORTED: here.unreported + 1,
    }
    if isinstance(error, ExecFailed):
        changes[slot.HOLD_REASON] = f"vmcapsule: {where}"
        changes[slot.HOLD_SUBCODE] = error.number
        # Last: it says that the others are there.
        changes[slot.HOLD_CODE] = error.hold_code
    try:
        chirp.set_now(changes, here.chirp)
    except ToolError as refused:
        _warn(refused)


def _told(error: Exception) -> str:
    """What went wrong, and what helps; where a program does not start as HTCondor tells it."""
    if isinstance(error, ExecFailed):
        return error.message
    return str(error) if isinstance(error, VmCapsuleError) else repr(error)


def ran(job_exit: JobExit, isolation: str, here: Slot) -> None:
    """The same as `ended` of a job that knows nothing of us: where that cannot be told it is
    not."""
    with contextlib.suppress(ToolError):
        chirp.set_delayed(_used(job_exit, isolation), here.chirp)


def ended(job_exit: JobExit, isolation: str, here: Slot) -> None:
    """What the job used, as its guest measured it: what the slot used is QEMU's."""
    try:
        chirp.set_delayed(_used(job_exit, isolation), here.chirp)
    except ToolError as refused:
        _warn(refused)


def _used(job_exit: JobExit, isolation: str) -> Mapping[str, chirp.Value]:
    return {
        slot.USED_USER_CPU: job_exit.user_cpu_s,
        slot.USED_SYSTEM_CPU: job_exit.system_cpu_s,
        slot.USED_RESIDENT_KIB: job_exit.max_rss_kib,
        slot.USED_IMAGE_KIB: job_exit.image_size_kib,
        slot.USED_DISK_KIB: job_exit.disk_usage_kib,
        slot.CORE_DUMPED: int(job_exit.core_dumped),
        slot.ISOLATION: isolation,
    }


def _warn(refused: ToolError) -> None:
    say(f"vmcapsule: warning: {one_line(str(refused))}", sys.stderr)
