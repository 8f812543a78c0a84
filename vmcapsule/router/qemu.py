"""The route of slots: a vanilla job that boots the capsule with QEMU where it runs.

It ends as the guest's job did.  A run whose guest did not report is repeated, then held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

from vmcapsule.capsule.packing import Plan, put_obstacles
from vmcapsule.capsule.record import RECORD, Capsule
from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.disk.disk import Disk
from vmcapsule.job.source import SourceJob
from vmcapsule.router import slot_jobs
from vmcapsule.router.route import CapsuleFacts, Route, size_kib
from vmcapsule.slot.program import PROGRAM, write_program
from vmcapsule.template.template import Template


def _finish(planned: Plan, aside: Path) -> Capsule:
    """The program that boots it goes along; system disk and kernel stay in the template."""
    write_program(aside)
    put_obstacles(planned.job, aside)
    return planned.capsule


def _facts(made: Capsule, template: Template, data_kib: int) -> CapsuleFacts:
    files = [*Disk.at(made.system_disk).files, made.kernel, made.initrd]
    shared = [file for file in files if file is not None]
    return CapsuleFacts(
        folder=made.folder,
        vmx="",
        vmdk_files=(made.data_disk.name,),
        other_files=(RECORD,),
        memory_mib=made.memory_mib + slot_jobs.QEMU_MEMORY_MIB,
        cpus=made.cpus,
        network=made.network,
        size_kib=size_kib(data_kib, shared),
        data_kib=data_kib,
        program=PROGRAM,
        shared_files=tuple(shared),
        wanted_outputs=slot_jobs.wanted_outputs(made),
        demands=tuple(slot_jobs.demands(made)),
    )


def _attributes(job: SourceJob, template: Ad, capsule: CapsuleFacts) -> Mapping[str, Value]:
    return {
        "Cmd": quote(str(capsule.folder / capsule.program)),
        "TransferExecutable": True,
        "Out": quote("execute.out"),
        "Err": quote("execute.err"),
        **slot_jobs.transfer(capsule),
        **slot_jobs.counted(job),
        **slot_jobs.held_for_the_slot(template),
    }


ROUTE = Route(
    universe=5,
    vm_type="",
    universe_name="VANILLA",
    unreported=slot_jobs.UNREPORTED,
    requirements="",
    finish=_finish,
    facts=_facts,
    attributes=_attributes,
    request_disk_kib=slot_jobs.request_disk_kib,
)
