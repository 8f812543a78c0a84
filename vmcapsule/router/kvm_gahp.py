"""The route of KVM jobs that our own vm-gahp runs, without libvirt: `vmcapsule.slot.gahp`.

The capsule is that of a slot; what runs it is installed there.  The job ends as the guest's
did.  A run whose guest did not report is repeated, then held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

from vmcapsule.capsule.packing import Plan, put_obstacles
from vmcapsule.capsule.record import Capsule
from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.job.source import SourceJob
from vmcapsule.router import qemu, slot_jobs
from vmcapsule.router.route import CapsuleFacts, Route
from vmcapsule.slot.starter import HYPERVISOR
from vmcapsule.template.template import Template

#: As of VMware jobs, but that HTCondor has a gahp for such jobs itself: not there.
_REQUIREMENTS = (
    '(TARGET.Arch == "X86_64") && (TARGET.VM_Type == MY.JobVMType)'
    f" && (TARGET.{HYPERVISOR} isnt undefined) && (TARGET.VM_AvailNum > 0)"
    " && (TARGET.Disk >= RequestDisk) && (TARGET.TotalMemory >= MY.JobVMMemory)"
    " && (TARGET.VM_Memory >= MY.JobVMMemory) && (TARGET.HasFileTransfer)"
    " && (member(TARGET.Machine, VmCapsuleAvoid) =!= true)"
    " && (ChirpVmCapsuleHoldReasonCode =?= undefined)"
)


def _finish(planned: Plan, aside: Path) -> Capsule:
    put_obstacles(planned.job, aside)
    return planned.capsule


def _facts(made: Capsule, template: Template, data_kib: int) -> CapsuleFacts:
    return qemu.ROUTE.facts(made, template, data_kib)._replace(program="")


def _attributes(job: SourceJob, template: Ad, capsule: CapsuleFacts) -> Mapping[str, Value]:
    return {
        "JobVMType": quote("kvm"),
        "JobVMMemory": capsule.memory_mib - slot_jobs.QEMU_MEMORY_MIB,
        "JobVM_VCPUS": capsule.cpus,
        "JobVMNetworking": capsule.network,
        "JobVMCheckpoint": False,
        **slot_jobs.transfer(capsule),
        **slot_jobs.counted(job),
        **slot_jobs.held_for_the_slot(template),
    }


ROUTE = Route(
    universe=13,
    vm_type="kvm",
    universe_name="VM",
    unreported=slot_jobs.UNREPORTED_BY_A_GAHP,
    requirements=_REQUIREMENTS,
    finish=_finish,
    facts=_facts,
    attributes=_attributes,
    request_disk_kib=slot_jobs.request_disk_kib,
    execute="gahp",
    own_gahp=True,
)
