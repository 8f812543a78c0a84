"""The JOB_FINALIZE hook: source and routed ad in, outputs delivered, exit attributes out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Optional

from vmcapsule import capsule
from vmcapsule.ads import Ad, parse_ad, quote, split_finalize
from vmcapsule.errors import AdError, VmCapsuleError, one_line
from vmcapsule.extract import JobExit
from vmcapsule.job import id_of, read_job
from vmcapsule.run import deliver_from


def finalize(text: str) -> tuple[Ad, JobExit, capsule.Capsule]:
    """Deliver the outputs of the routed job whose ads are in ``text``.

    ``text`` is what the JobRouter sends: source ad, ``------``, routed ad.  The ad
    returned has the exit attributes for the source job.  The capsule stays, marked as
    delivered, so that the hook can be repeated.
    """
    source, routed = split_finalize(text)
    folder = routed.string("VmCapsuleDir")
    if folder is None:
        raise AdError(
            "the routed ad has no VmCapsuleDir",
            "give the ad that 'vmcapsule translate' printed",
        )
    made = capsule.load(Path(folder))
    # As it was when the capsule was made: what the queue did to the ad since is not the
    # job's description, and must not stand between a job and its outputs.
    job = read_job(parse_ad(capsule.source_ad(made)))
    job_id = id_of(source)
    if made.job_id != job_id:
        raise AdError(
            f"the capsule '{folder}' is of job {made.job_id}, not of {job_id}",
            "give the source ad that belongs to the routed ad",
        )
    job_exit, _ = deliver_from(made, job)
    return exit_attributes(job_exit), job_exit, made


def undelivered(text: str, error: VmCapsuleError) -> tuple[Ad, str]:
    """The exit attributes of a job whose outputs could not be delivered, and its id.

    The JobRouter loses a job whose JOB_FINALIZE hook fails, so that is told in the ad:
    ``ExitCode`` is the error's exit status and ``ExitReason`` says what happened.  A note
    beside the user's log says how to get the outputs.  Raises `AdError` when ``text`` is
    not what the JobRouter sends.
    """
    source, routed = split_finalize(text)
    job_id = f"{source.integer('ClusterId') or 0}.{source.integer('ProcId') or 0}"
    reason = f"vmcapsule: {one_line(str(error))}"
    folder = routed.string("VmCapsuleDir")
    remedy = f"Then deliver its outputs with: vmcapsule extract {folder}\n" if folder else ""
    _leave_note(source.string("UserLog"), f"Job {job_id}: {reason}\n{remedy}")
    lines = [
        "ExitBySignal = false",
        f"ExitCode = {error.exit_status}",
        f"ExitReason = {quote(reason)}",
    ]
    return parse_ad("\n".join(lines)), job_id


def _leave_note(user_log: Optional[str], text: str) -> None:
    """Append to ``<UserLog>.vmcapsule``; a note that cannot be left is not worth a job."""
    if not user_log:
        return
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(user_log + ".vmcapsule", flags, 0o644)
        with os.fdopen(fd, "wb") as file:
            file.write(text.encode(errors="backslashreplace"))
    except OSError as error:
        print(f"vmcapsule: warning: cannot leave a note: {error}", file=sys.stderr)


def exit_attributes(job_exit: JobExit) -> Ad:
    """The attributes that tell HTCondor how a job ended.

    ``ExitCode`` and ``ExitSignal`` exclude each other, as in the starter's update ad.
    """
    by_signal = job_exit.exit_signal is not None
    lines = [f"ExitBySignal = {str(by_signal).lower()}"]
    if by_signal:
        lines.append(f"ExitSignal = {job_exit.exit_signal}")
    else:
        lines.append(f"ExitCode = {job_exit.exit_code}")
    lines += [
        f"JobCoreDumped = {str(job_exit.core_dumped).lower()}",
        f"RemoteUserCpu = {job_exit.user_cpu_s:.6f}",
        f"RemoteSysCpu = {job_exit.system_cpu_s:.6f}",
        f"ResidentSetSize = {job_exit.max_rss_kib}",
        f"JobDuration = {max(job_exit.ended_at_s - job_exit.started_at_s, 0):.6f}",
    ]
    return parse_ad("\n".join(lines))
