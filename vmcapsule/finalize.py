"""The JOB_FINALIZE hook: source and routed ad in, outputs delivered, exit attributes out."""

from __future__ import annotations

from pathlib import Path

from vmcapsule import capsule
from vmcapsule.ads import Ad, parse_ad, split_finalize
from vmcapsule.errors import AdError
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
