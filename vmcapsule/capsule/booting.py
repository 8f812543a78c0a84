"""A capsule is booted, wherever it lies: here, or in a slot."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Optional

from vmcapsule.capsule.record import Capsule
from vmcapsule.errors import ToolError
from vmcapsule.guest.work_disk import raw_work_disk
from vmcapsule.vm import accelerator, boot


def boot_capsule(
    made: Capsule,
    *,
    cache: Path,
    timeout_s: Optional[float],
    alive: Callable[[], None] = lambda: None,
    kvm: Optional[bool] = None,
    line: Optional[Path] = None,
) -> str:
    """Boot a capsule and wait until it has powered off; return the accelerator's name.

    ``kvm`` says whether KVM works on this machine, where that is known; ``line`` is that
    of `vmcapsule.vm.boot.Machine`.  Raises `ToolError`
    where the guest would be emulated and must not be; else as `vmcapsule.vm.boot.boot` does.
    """
    kind = accelerator.choose(made.kernel, cache, kvm)
    if made.require_kvm and kind != accelerator.KVM:
        raise ToolError(
            "the guest was not started: KVM is required (VM_CAPSULE_REQUIRE_KVM, or the job's "
            "VmCapsuleRequireKVM), and here it would be emulated",
            f"use a machine where guests run with {accelerator.DEVICE} and this user may use "
            "it, and a template that has its kernel beside its disks",
        )
    with raw_work_disk(made.folder, made.work_bytes) as work_disk:
        machine = boot.Machine(
            system_disk=made.system_disk,
            data_disk=made.data_disk,
            cpus=made.cpus,
            memory_mib=made.memory_mib,
            accelerator=kind,
            kernel=made.kernel,
            initrd=made.initrd,
            cmdline=made.cmdline,
            network=made.network,
            work_disk=work_disk,
            line=line,
        )
        boot.boot(
            machine, console=made.console, scratch=made.folder, timeout_s=timeout_s, alive=alive
        )
    return kind
