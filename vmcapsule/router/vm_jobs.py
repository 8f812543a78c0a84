"""What routed jobs of HTCondor's VM universe have in common, whatever runs their machines: what
they are given, what they bring back, and when they are held.
"""

from __future__ import annotations

from typing import Iterator, Mapping

from vmcapsule.capsule.record import RETURNED, UNREPORTED_SIGNAL, WANTED, Capsule
from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.job.source import SourceJob
from vmcapsule.router.route import HELD_WITHOUT_UPDATE_S, CapsuleFacts, file_list
from vmcapsule.slot.packed.share import GUEST_KIB
from vmcapsule.slot.starter import (
    HOLD_CODE,
    HOLD_REASON,
    HOLD_SUBCODE,
    KILLED_RUN,
    KVM_WORKS,
    NETWORK_WORKS,
)

#: As ad templates and the JobRouter's configuration call it.
UNIVERSE, UNIVERSE_NAME = 13, "VM"
#: Of a machine: a guest that QEMU runs there gets a network.
_NETWORK = f"TARGET.{NETWORK_WORKS} =?= true"
#: How a run ends whose guest did not report.  What kills a gahp ends the routed job, too; a job
#: that was killed says so before.
UNREPORTED = (
    f"(ExitBySignal =?= true && ExitSignal =?= {UNREPORTED_SIGNAL}) || "
    f"(ExitBySignal =?= true && ExitSignal =?= 9 && {KILLED_RUN} =!= NumJobCompletions)"
)


def requirements(*own: str) -> str:
    """What condor_submit would have added to the Requirements of such a job, but for HasVM.

    ``own`` are a route's own clauses.  A machine where a run has just ended in vain is left
    alone for a while, as the ad template's ``VmCapsuleAvoid`` says.
    """
    clauses = (
        'TARGET.Arch == "X86_64"',
        "TARGET.VM_Type == MY.JobVMType",
        *own,
        "TARGET.VM_AvailNum > 0",
        "TARGET.Disk >= RequestDisk",
        "TARGET.TotalMemory >= MY.JobVMMemory",
        "TARGET.VM_Memory >= MY.JobVMMemory",
        "TARGET.HasFileTransfer",
        "member(TARGET.Machine, VmCapsuleAvoid) =!= true",
    )
    return " && ".join(f"({clause})" for clause in clauses)


def requirements_of_our_gahp(*own: str) -> str:
    """The same where our vm-gahp runs it: a job that it wants to be held runs nowhere."""
    return f"{requirements(*own)} && ({HOLD_CODE} =?= undefined)"


def machine(vm_type: str, memory_mib: int, capsule: CapsuleFacts) -> dict[str, Value]:
    """The machine that is asked for, whose memory is ``memory_mib``."""
    return {
        "JobVMType": quote(vm_type),
        "JobVMMemory": memory_mib,
        "JobVM_VCPUS": capsule.cpus,
        "JobVMNetworking": capsule.network,
        "JobVMCheckpoint": False,
    }


def demands(made: Capsule, network: str = _NETWORK) -> Iterator[str]:
    """What must be true of a machine for it; ``network``: that guests get one there.

    That is another clause where something else than QEMU gives it to them.
    """
    if made.network:
        yield network
    if made.require_kvm:
        yield f"TARGET.{KVM_WORKS} =?= true"


def wanted_outputs(made: Capsule) -> tuple[str, ...]:
    """What the job must leave."""
    return tuple(item for item in made.wanted_outputs.split(",") if item)


def transfer(capsule: CapsuleFacts) -> dict[str, Value]:
    """Which files go and come back: how `vmcapsule.slot.gahp.run` finds and leaves them."""
    names = (capsule.vmx, *capsule.vmdk_files, *capsule.other_files)
    paths = [str(capsule.folder / name) for name in names if name]
    paths += [str(path) for path in capsule.shared_files]
    outputs = [RETURNED, *(f"{WANTED}/{item}" for item in capsule.wanted_outputs)]
    return {
        "TransferInput": file_list(paths),
        "TransferOutput": file_list(outputs),
        "PreserveRelativePaths": True,
        "ShouldTransferFiles": quote("YES"),
        "WhenToTransferOutput": quote("ON_EXIT"),
    }


def counted(job: SourceJob) -> dict[str, Value]:
    """The starter tells the job, and the JobRouter the source: both go on counting."""
    return {"NumJobStarts": job.job_starts}


def held_for_the_slot(template: Ad) -> Mapping[str, Value]:
    """The hold that `vmcapsule.slot.gahp.run` asks for, where there is no UPDATE_JOB_INFO hook.

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


def request_disk_kib(job: SourceJob, capsule: CapsuleFacts) -> int:
    """What is in use at the peak, which is while the guest packs the outputs.

    By then there is what came into the slot; where the guest works, on the layer over its
    system disk or on a work disk, the inputs, unpacked, and what the job wrote, for which it
    has its own request; and on the data disk the outputs once more.  Later the guest's work
    is gone, and the disk that goes back takes less than it did.
    """
    work_kib = capsule.data_kib + job.request_disk_kib + GUEST_KIB
    return capsule.size_kib + work_kib + job.request_disk_kib
