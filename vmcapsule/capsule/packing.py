"""A job packed into a capsule: planned, built aside, and put where capsules are."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Callable, Optional

from vmcapsule.capsule import making, naming
from vmcapsule.capsule.record import WANTED, Capsule, check_size, save_capsule, save_source_ad
from vmcapsule.config import Config
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.guest import bundle, staging
from vmcapsule.job.source import SourceJob
from vmcapsule.named import NamedTuple
from vmcapsule.template.data_disk import data_bytes_for
from vmcapsule.template.tarball import HTCondorTarball, is_in
from vmcapsule.template.template import Template
from vmcapsule.transfer import outputs, places


class Plan(NamedTuple):
    """A capsule that can be made of a job and a template: nothing is written yet."""

    capsule: Capsule
    job: SourceJob
    template: Template
    load: staging.Payload


def plan(
    job: SourceJob,
    template: Template,
    config: Config,
    tarball: Optional[HTCondorTarball],
    kind: str,
) -> Plan:
    """Plan a capsule for ``job``: a folder of its own in scratch, named for its kind.

    Its system disk and kernel are the template's; its data disk has room for what the guest
    is given and for the disk that the job requests.  Raises `InputError` for inputs that
    cannot be read and `TooLarge` for more than a data disk, or a record, can hold.
    """
    load = bundle.payload(
        job,
        init_script=config.init_script,
        tarball=tarball,
        staged=tarball is not None and not is_in(template, tarball),
    )
    name = naming.new_name(kind, job.job_id, job.global_job_id)
    folder = (config.scratch_dir_prefix / name).absolute()
    planned = Capsule(
        folder=folder,
        data_disk=folder / template.data_disk.name,
        system_disk=template.system_disk,
        data_bytes=data_bytes_for(template, load.size_bytes + job.request_disk_kib * 1024),
        cpus=job.request_cpus,
        memory_mib=job.request_memory_mib + config.memory_overhead_mib,
        kernel=template.kernel,
        initrd=template.initrd,
        cmdline=template.cmdline,
        part_offset_bytes=config.disk_part_offset_bytes,
        job_id=job.job_id,
        global_job_id=job.global_job_id,
        network=config.network,
        require_kvm=config.require_kvm or job.require_kvm,
        timeout_s=config.timeout_s,
        wanted_outputs=",".join(outputs.wanted_outputs(job)),
        work_bytes=bundle.work_bytes(load, job),
    )
    check_size(planned, job.long_form())
    return Plan(planned, job, template, load)


def pack(
    planned: Plan,
    finish: Callable[[Plan, Path], Capsule] = lambda planned, aside: planned.capsule,
    *,
    travels: bool = False,
) -> Capsule:
    """Make a capsule as planned: its data disk; the rest stays in the template.

    One that ``travels`` to another machine has a data disk that is one file without holes.
    ``finish`` puts in what else is wanted, into the folder in which the capsule is being
    built, and returns the capsule as it is then.
    """
    made = planned.capsule
    like = DataDisk(planned.template.data_disk, made.part_offset_bytes)
    with making.draft(made.folder) as aside:
        staging.stage(planned.load, like, aside, made.data_bytes, travels=travels)
        save_source_ad(planned.job.long_form(), aside)
        made = finish(planned, aside)
        save_capsule(made, aside)
    return made


def put_obstacles(job: SourceJob, folder: Path) -> None:
    """Make a stand-in below `WANTED` for what is in the way of a listed output.

    It is a folder, or a file that is closed to writing.  When the run has ended HTCondor's
    file transfer fails to write there, and holds the routed job as it would hold the source.
    What gets in the way after this has no stand-in.
    """
    to = outputs.Destinations(job)
    for item in outputs.wanted_outputs(job):
        stand_in, place = folder / WANTED / item, to.place(item)
        if place is None:
            continue
        # Of two items one may lie below the other's stand-in: one of them is enough.
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            if os.path.isdir(place):  # noqa: PTH112 - a place is a string
                stand_in.mkdir(parents=True)
            elif places.obstacle(place):
                stand_in.parent.mkdir(parents=True, exist_ok=True)
                stand_in.touch(0o444)
