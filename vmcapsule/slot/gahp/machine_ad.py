"""What a startd is told of the machines that can run here, for the test mode."""

from __future__ import annotations

import os

import vmcapsule
from vmcapsule import process
from vmcapsule.errors import VmCapsuleError
from vmcapsule.slot import hypervisor, probe
from vmcapsule.slot.advertise import literal
from vmcapsule.slot.gahp.dialogue import KVM
from vmcapsule.slot.starter import BY_QEMU, BY_VMWARE, HYPERVISOR, REASON
from vmcapsule.vm import vmrun

#: A startd never gives back the memory of one machine (up to 24.7.2 it books each VM under a
#: number that no VM has), so that twice as much leaves room for the largest job.
_ROOM = 2


def lines(vm_type: str) -> list[str]:
    """The attributes that the startd's ad gets; `ToolError` where no machine would run.

    What ``VM_Memory`` says is what counts, and is no limit: the slot's own memory is.
    """
    product = hypervisor.QEMU if vm_type == KVM else hypervisor.chosen()
    if product == hypervisor.QEMU:
        runs = f"{BY_QEMU} {probe.qemu_version()}"
    else:
        process.find(vmrun.PROGRAM)
        runs = f"{BY_VMWARE} {product}"
    return [
        f'VM_GAHP_VERSION = "{vmcapsule.__version__}"',
        f'VM_Type = "{vm_type}"',
        f"VM_Memory = {_memory_mib() * _ROOM}",
        "VM_Networking = false",
        f'{HYPERVISOR} = "{runs}"',
    ]


def refusal(error: VmCapsuleError) -> list[str]:
    """What makes a startd do without VMs, and log why: a reason, and no ``VM_Type``."""
    return [f"{REASON} = {literal(str(error))}"]


def _memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
