"""A job to what its guest needs of it on the data disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Optional

from vmcapsule import contract
from vmcapsule.errors import ConfigError
from vmcapsule.guest import files as guest_files
from vmcapsule.guest.ad import guest_ad, sandbox_ad
from vmcapsule.guest.script import joined
from vmcapsule.guest.staging import NO_RUN_AD, Payload, packed
from vmcapsule.guest.work_disk import work_bytes_for
from vmcapsule.job.source import SourceJob
from vmcapsule.template.tarball import HTCondorTarball
from vmcapsule.transfer import sandbox

CONDOR, DIRECT = "condor", "direct"


def payload(
    job: SourceJob,
    *,
    init_script: Path,
    tarball: Optional[HTCondorTarball],
    staged: bool = True,
) -> Payload:
    """Collect what the guest needs to run ``job``: under HTCondor with a tarball, else not.

    The tarball itself is not among it where it is not to be ``staged``: the guest has that
    very HTCondor.
    Raises `InputError` for inputs that are missing or unreadable and `ConfigError` for
    an init script or tarball that is.
    """
    for knob, path in (
        ("VM_CAPSULE_INIT_SCRIPT_PATH", init_script),
        ("VM_CAPSULE_CONDOR_TARBALL", tarball.path if tarball else init_script),
    ):
        if not (path.is_file() and os.access(path, os.R_OK)):
            raise ConfigError(f"{knob}: there is no readable file '{path}'", f"correct {knob}")
    copies = [(contract.TARBALL, tarball.path)] if tarball and staged else []
    carried = packed(sandbox.input_members(job), [], copies)
    record = job_record(job, tarball, work_bytes(carried, job))
    texts = [
        (contract.INIT_SCRIPT, joined(init_script)),
        (contract.JOB_RECORD, json.dumps(record, indent=1).encode() + b"\n"),
        (contract.JOB_AD, _guest_ad(job).encode(errors="surrogateescape")),
        (contract.SANDBOX_AD, _sandbox_ad(job).encode(errors="surrogateescape")),
        (contract.MACHINE_AD, guest_files.machine_ad(job).encode()),
        (contract.RUN_AD, NO_RUN_AD),
    ]
    zone = guest_files.localtime()
    if zone is not None:
        texts.append((contract.LOCALTIME, zone))
    if tarball:
        config = guest_files.condor_config(job, tarball.version)
        texts.append((contract.CONDOR_CONFIG, config.encode()))
    return carried._replace(texts=(*texts, *carried.texts))


def work_bytes(load: Payload, job: SourceJob) -> int:
    """How large the disk is that the guest works on; 0: there is none."""
    carried = load.packs
    return work_bytes_for(
        len(carried.entries), sum(carried.pack_sizes_bytes), job.request_disk_kib * 1024
    )


def job_record(
    job: SourceJob, tarball: Optional[HTCondorTarball], work_disk_bytes: int
) -> dict[str, Any]:
    """The job record of `vmcapsule.contract`."""
    outputs = job.transfer_output
    return {
        "format": contract.FORMAT,
        "runner": CONDOR if tarball else DIRECT,
        "executable": sandbox.executable_name(job),
        "arguments": list(job.arguments),
        "environment": guest_files.direct_environment(job),
        "stdin": sandbox.stdin_name(job),
        "stdout": sandbox.stdout_name(job),
        "stderr": sandbox.stderr_name(job),
        "outputs": None if outputs is None else list(outputs),
        "omit": [sandbox.executable_name(job)] if job.transfer_executable else [],
        "success_status": job.success_status,
        "failure_outputs": list(job.failure_outputs),
        "time_zone": guest_files.time_zone(),
        "user": job.owner,
        "cpus": job.request_cpus,
        "memory_mib": job.request_memory_mib,
        "disk_kib": job.request_disk_kib,
        "work_disk_bytes": work_disk_bytes,
        "condor_version": tarball.version if tarball else None,
    }


def _guest_ad(job: SourceJob) -> str:
    return guest_ad(
        job,
        executable=sandbox.executable_name(job),
        stdin=sandbox.stdin_name(job),
        stdout=sandbox.stdout_name(job),
        stderr=sandbox.stderr_name(job),
    )


def _sandbox_ad(job: SourceJob) -> str:
    return sandbox_ad(job, stdout=sandbox.stdout_name(job), stderr=sandbox.stderr_name(job))
