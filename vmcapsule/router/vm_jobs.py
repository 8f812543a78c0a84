"""What routed jobs of HTCondor's VM universe have in common, whatever runs their machines."""

from __future__ import annotations

from vmcapsule.classad.ads import Value, quote
from vmcapsule.router.route import CapsuleFacts
from vmcapsule.slot.starter import HOLD_CODE

#: As ad templates and the JobRouter's configuration call it.
UNIVERSE, UNIVERSE_NAME = 13, "VM"


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
