"""The route of slots: a vanilla job that boots the capsule with QEMU where it runs.

It ends as the guest's job did.  A run whose guest did not report is repeated, then held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Mapping

from vmcapsule.capsule.packing import Plan, put_obstacles
from vmcapsule.capsule.record import RECORD, RETURNED, WANTED, Capsule
from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.disk import Disk
from vmcapsule.job.source import SourceJob
from vmcapsule.router.route import (
    HELD_WITHOUT_UPDATE_S,
    CapsuleFacts,
    Route,
    file_list,
    size_kib,
)
from vmcapsule.slot.program import PROGRAM, write_program
from vmcapsule.slot.starter import (
    HOLD_CODE,
    HOLD_REASON,
    HOLD_SUBCODE,
    KVM_WORKS,
    NETWORK_WORKS,
)
from vmcapsule.template.template import Template

#: What QEMU needs in the slot beside its guest's memory.
QEMU_MEMORY_MIB = 128
#: What a guest's system and its HTCondor write beside the job, and logs.
GUEST_KIB = 64 << 10


def _finish(planned: Plan, aside: Path) -> Capsule:
    """The program that boots it goes along; system disk and kernel stay in the template."""
    DataDisk(aside / planned.capsule.data_disk.name).make_transferable(aside)
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
        memory_mib=made.memory_mib + QEMU_MEMORY_MIB,
        cpus=made.cpus,
        network=made.network,
        size_kib=size_kib(data_kib, shared),
        data_kib=data_kib,
        program=PROGRAM,
        shared_files=tuple(shared),
        wanted_outputs=tuple(item for item in made.wanted_outputs.split(",") if item),
        demands=tuple(_demands(made)),
    )


def _demands(made: Capsule) -> Iterator[str]:
    if made.network:
        yield NETWORK_WORKS
    if made.require_kvm:
        yield KVM_WORKS


def _attributes(job: SourceJob, template: Ad, capsule: CapsuleFacts) -> Mapping[str, Value]:
    paths = [str(capsule.folder / name) for name in (*capsule.vmdk_files, *capsule.other_files)]
    paths += [str(path) for path in capsule.shared_files]
    outputs = [RETURNED, *(f"{WANTED}/{item}" for item in capsule.wanted_outputs)]
    return {
        "Cmd": quote(str(capsule.folder / capsule.program)),
        "TransferExecutable": True,
        "Out": quote("execute.out"),
        "Err": quote("execute.err"),
        "TransferInput": file_list(paths),
        "TransferOutput": file_list(outputs),
        "PreserveRelativePaths": True,
        "ShouldTransferFiles": quote("YES"),
        "WhenToTransferOutput": quote("ON_EXIT"),
        # The starter tells the job, and the JobRouter the source: both go on counting.
        "NumJobStarts": job.job_starts,
        **_held_for_the_slot(template),
    }


def _held_for_the_slot(template: Ad) -> dict[str, Value]:
    """The hold that `vmcapsule.slot.execute` asks for, where there is no UPDATE_JOB_INFO hook.

    Meanwhile the job matches no machine (see the template's Requirements).
    """
    asked = f"{HOLD_CODE} isnt undefined"
    late = f"{asked} && time() - EnteredCurrentStatus > {HELD_WITHOUT_UPDATE_S}"
    return {
        "PeriodicHold": f"({template.expr('PeriodicHold') or 'false'}) || ({late})",
        **{
            name: f"ifThenElse({asked}, {told}, {template.expr(name) or 'undefined'})"
            for name, told in (
                ("PeriodicHoldReason", HOLD_REASON),
                ("PeriodicHoldSubCode", HOLD_SUBCODE),
            )
        },
    }


def _request_disk_kib(job: SourceJob, capsule: CapsuleFacts) -> int:
    """What is in use at the peak, which is while the guest packs the outputs.

    By then there is what came into the slot; where the guest works, on the layer over its
    system disk or on a work disk, the inputs, unpacked, and what the job wrote, for which it
    has its own request; and on the data disk the outputs once more.  Later the guest's work
    is gone, and the disk that goes back takes less than it did.
    """
    work_kib = capsule.data_kib + job.request_disk_kib + GUEST_KIB
    return capsule.size_kib + work_kib + job.request_disk_kib


ROUTE = Route(
    universe=5,
    vm_type="",
    universe_name="VANILLA",
    has_exit_status=True,
    requirements="",
    finish=_finish,
    facts=_facts,
    attributes=_attributes,
    request_disk_kib=_request_disk_kib,
)
