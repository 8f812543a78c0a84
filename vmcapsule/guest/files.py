"""What a starter gives a job, made ready on the host; and HTCondor's configuration there."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Optional

from vmcapsule import contract
from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.job.source import SourceJob
from vmcapsule.resources import resource

SLOT = "slot1_1"
_MACHINE = "capsule"
_ETC = Path("/etc")
_LOCALTIME_BYTES_MAX = 1 << 16

#: HTCondor's default for STARTER_NUM_THREADS_ENV_VARS.
_THREAD_VARIABLES = (
    "CUBACORES GOMAXPROCS JULIA_NUM_THREADS MKL_NUM_THREADS NUMEXPR_NUM_THREADS "
    "OMP_NUM_THREADS OMP_THREAD_LIMIT OPENBLAS_NUM_THREADS PYTHON_CPU_COUNT "
    "ROOT_MAX_THREADS TF_LOOP_PARALLEL_ITERATIONS TF_NUM_THREADS"
)


def machine_ad(job: SourceJob) -> str:
    """Return the text of `vmcapsule.contract.MACHINE_AD`: a dynamic slot's ad.

    A starter that takes its job from a hook is given no machine ad and makes an empty
    file of it, so the guest puts this one in its place.
    """
    attributes: dict[str, Value] = {
        "MyType": quote("Machine"),
        "Name": quote(f"{SLOT}@{_MACHINE}"),
        "Machine": quote(_MACHINE),
        "UidDomain": quote(_MACHINE),
        "FileSystemDomain": quote(_MACHINE),
        "Arch": quote("X86_64"),
        "OpSys": quote("LINUX"),
        "HasFileTransfer": True,
        "MachineResources": quote("Cpus Memory Disk Swap"),
        "SlotID": 1,
        "DSlotID": 1,
        "ParentSlotId": 1,
        "SlotType": quote("Dynamic"),
        "SlotTypeID": 1,
        "DynamicSlot": True,
        "PartitionableSlot": False,
        "TotalSlots": 1,
        "Cpus": job.request_cpus,
        "TotalSlotCpus": job.request_cpus,
        "DetectedCpus": job.request_cpus,
        "Memory": job.request_memory_mib,
        "TotalSlotMemory": job.request_memory_mib,
        "Disk": job.request_disk_kib,
        "State": quote("Claimed"),
        "Activity": quote("Idle"),
    }
    return Ad().with_(attributes).long_form()


def thread_variables(job: SourceJob) -> dict[str, str]:
    """The starter's variables for numbers of threads, up to the first the job sets itself.

    The starter means to pass over those that are set, but sets none after one of them
    (``Starter::PublishToEnv`` in starter.cpp of 23.9 and 25; seen in a real pool).
    """
    given = dict(job.environment)
    names = itertools.takewhile(lambda name: not given.get(name), _THREAD_VARIABLES.split())
    return {name: str(job.request_cpus) for name in names}


def direct_environment(job: SourceJob) -> dict[str, str]:
    """The job's environment with what Starter::PublishToEnv adds (starter.cpp)."""
    scratch = contract.SCRATCH_DIR_MARK
    environment = {**dict(job.environment), **thread_variables(job)}
    for name in ("TMPDIR", "TEMP", "TMP"):
        # Where MOUNT_UNDER_SCRATCH has /tmp, as it has by default, the job has it for itself.
        environment[name] = "/tmp"
    for name in ("APPTAINER_CACHEDIR", "SINGULARITY_CACHEDIR"):
        environment[name] = scratch
    environment.update(
        {
            "_CONDOR_SCRATCH_DIR": scratch,
            "_CONDOR_JOB_IWD": scratch,
            "_CONDOR_JOB_AD": f"{scratch}/.job.ad",
            "_CONDOR_MACHINE_AD": f"{scratch}/.machine.ad",
            "_CONDOR_SLOT": SLOT,
            "_CONDOR_JOB_PIDS": "",
            "_CHIRP_DELAYED_UPDATE_PREFIX": "Chirp*",
            "BATCH_SYSTEM": "HTCondor",
        }
    )
    return environment


def localtime(etc: Path = _ETC) -> Optional[bytes]:
    """Return what is in this machine's /etc/localtime; None where that is no time zone."""
    try:
        data = (etc / "localtime").read_bytes()
    except OSError:
        return None  # without it the time is UTC (localtime(5))
    return data if data.startswith(b"TZif") and len(data) <= _LOCALTIME_BYTES_MAX else None


def time_zone(etc: Path = _ETC) -> Optional[str]:
    """Return the name of this machine's time zone, as in ``Europe/Berlin``, if it has one."""
    try:
        target = os.fspath((etc / "localtime").readlink())
    except OSError:
        return None  # a file, or nothing
    name = target.rpartition("/zoneinfo/")[2]
    return name if re.fullmatch(r"[\w+-]+(/[\w+-]+)*", name, re.ASCII) else None


def condor_config(job: SourceJob, version: str) -> str:
    """Return the text of `vmcapsule.contract.CONDOR_CONFIG` for HTCondor ``version``."""
    # Until 23.9 the startd asks for work as it comes up, in 25.14 at its first update.
    is_old = version.startswith(("8.", "9.", "10.", "23."))
    macros = {
        "HOME": f"/condor-{version}",
        "CPUS": job.request_cpus,
        "MEMORY_MIB": job.request_memory_mib,
        "SLOT": SLOT,
        "ENVIRONMENT": " ".join(f"{n}={v}" for n, v in thread_variables(job).items()),
        "UPDATE_INTERVAL_S": 1_000_000 if is_old else 1,
    }
    lines = [f"VMCAPSULE_{name} = {value}\n" for name, value in macros.items()]
    template = resource("templates/guest-condor.config")
    return "".join(lines) + template.read_bytes().decode("ascii")
