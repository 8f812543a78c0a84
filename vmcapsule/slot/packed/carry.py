"""A capsule made of a job that was found in its slot."""

from __future__ import annotations

import json
import os
import pkgutil
from pathlib import Path
from typing import Any, Iterator, Optional

from vmcapsule import contract
from vmcapsule.capsule.record import Capsule
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.errors import ToolError
from vmcapsule.guest import files, staging
from vmcapsule.guest.work_disk import work_bytes_for
from vmcapsule.named import NamedTuple
from vmcapsule.slot.packed.found import STDIN, Found
from vmcapsule.slot.program import INIT_SCRIPT
from vmcapsule.template.data_disk import data_bytes_for
from vmcapsule.template.template import Template
from vmcapsule.transfer.pack import Member
from vmcapsule.transfer.sandbox import contents, tree

#: What a starter puts into a sandbox for itself, and does not send back.
_STARTERS_TEXT = """
    .job.ad .machine.ad .execution_overlay.ad .update.ad .update.ad.tmp .chirp.config
    .docker_sock .docker_stdout .docker_stderror .condor_container_launched
    .starter.log .starter.log.old .job_wrapper_failure
"""
STARTERS_OWN = frozenset(_STARTERS_TEXT.split())


class Settings(NamedTuple):
    """What an administrator says of machines on an execute point."""

    network: bool = False
    require_kvm: bool = False
    timeout_s: Optional[float] = None
    #: What the guest needs beside the job, and gets on top of the job's memory.
    memory_overhead_mib: int = 256


def make(found: Found, template: Template, settings: Settings, folder: Path) -> Capsule:
    """Make a capsule in ``folder``, which is in the sandbox, and whose name begins with a dot.

    Raises as `staging.packed` and `staging.stage` do.
    """
    load = _payload(found, folder)
    made = Capsule(
        folder=folder,
        data_disk=folder / template.data_disk.name,
        system_disk=template.system_disk,
        data_bytes=data_bytes_for(template, load.size_bytes + found.room.disk_kib * 1024),
        cpus=found.cpus,
        memory_mib=found.room.memory_mib + settings.memory_overhead_mib,
        kernel=template.kernel,
        initrd=template.initrd,
        cmdline=template.cmdline,
        network=settings.network,
        require_kvm=settings.require_kvm,
        timeout_s=settings.timeout_s,
        work_bytes=_work_bytes(found, load.packs.pack_sizes_bytes, len(load.packs.entries)),
    )
    like = DataDisk(template.data_disk, None)
    staging.stage(load, like, folder, made.data_bytes, travels=False)
    return made


def _payload(found: Found, folder: Path) -> staging.Payload:
    carried = staging.packed(_members(found, folder), [])
    sizes = carried.packs.pack_sizes_bytes
    record = job_record(found, _work_bytes(found, sizes, len(carried.packs.entries)))
    texts: list[tuple[str, bytes]] = [
        (contract.INIT_SCRIPT, _init_script()),
        (contract.JOB_RECORD, json.dumps(record, indent=1).encode() + b"\n"),
        (contract.JOB_AD, _bytes(found.job_ad)),
        (contract.SANDBOX_AD, _bytes(found.job_ad)),
        (contract.MACHINE_AD, _bytes(found.machine_ad)),
        (contract.RUN_AD, staging.NO_RUN_AD),
    ]
    zone = files.localtime()
    if zone is not None:
        texts.append((contract.LOCALTIME, zone))
    return carried._replace(texts=(*texts, *carried.texts))


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _work_bytes(found: Found, sizes: tuple[int, ...], count: int) -> int:
    return work_bytes_for(count, sum(sizes), found.room.disk_kib * 1024)


def _init_script() -> bytes:
    data = pkgutil.get_data("vmcapsule", INIT_SCRIPT)
    if data is None:
        raise ToolError(
            f"this program has no {INIT_SCRIPT}", "write it with 'vmcapsule config --execute'"
        )
    return data


def _members(found: Found, folder: Path) -> Iterator[Member]:
    """The sandbox as it is, and what is on standard input where that is no file of it."""
    streams = {found.stdout, found.stderr}
    for member in contents(os.fspath(found.here)):
        top = member.path.partition("/")[0]
        if top not in STARTERS_OWN and top not in streams and top != folder.name:
            yield member
    if found.stdin == STDIN:
        path = folder / STDIN
        with path.open("xb") as file, os.fdopen(0, "rb", closefd=False) as given:
            while data := given.read(1 << 20):
                file.write(data)
        yield from tree(os.fspath(path), STDIN)


def job_record(found: Found, work_disk_bytes: int) -> dict[str, Any]:
    """The job record of `vmcapsule.contract`."""
    return {
        "format": contract.FORMAT,
        "runner": "direct",
        "executable": found.executable,
        "arguments": list(found.arguments),
        "environment": dict(found.environment),
        "stdin": found.stdin,
        "stdout": found.stdout,
        "stderr": found.stderr,
        "outputs": None,
        "omit": [],
        "success_status": None,
        "failure_outputs": [],
        "chirp_config": os.fspath(found.chirp.config) if found.chirp else None,
        "chirp_cookie": found.chirp.contact.cookie if found.chirp else None,
        "time_zone": files.time_zone(),
        "user": found.user,
        "cpus": found.cpus,
        "memory_mib": found.room.memory_mib,
        "disk_kib": found.room.disk_kib,
        "work_disk_bytes": work_disk_bytes,
        "condor_version": None,
        "sandbox": os.fspath(found.here),
        "all_changes": True,
    }
