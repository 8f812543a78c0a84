"""The process that runs a gahp's machine, as the ad wants it.

It runs as the job's owner, in the job's folder.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Sequence

from vmcapsule.capsule.record import VMWARE, Capsule
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.errors import ToolError
from vmcapsule.slot import hypervisor
from vmcapsule.slot.gahp import run as runs
from vmcapsule.slot.starter import Slot
from vmcapsule.template.vmx import machine_settings, with_settings
from vmcapsule.vm import vmrun


def main(arguments: Sequence[str]) -> int:
    """Run the machine; return the job's exit code, or end as `vmcapsule.slot.gahp.run` does.

    ``arguments``: an open file to say "ready" in; the machine's memory in MiB and its
    processors, 0 where the ad does not say and the capsule's record does; 1 where the ad wants
    a snapshot, which VMware alone can take; and what is to run it, as `hypervisor.chosen` has
    it, or why that is not known.
    """
    *numbers, product = arguments
    ready, memory_mib, cpus, snapshot = (int(each) for each in numbers)
    # A starter lets everybody into the folder of a KVM job.
    os.umask(0o077)
    # Whatever ends us from now on, file transfer finds what it is to bring.
    runs.begin_return(Path.cwd())
    with contextlib.suppress(OSError):  # nobody waits for it any more
        os.write(ready, b"\n")
    os.close(ready)

    def run(made: Capsule, told: Slot) -> str:
        asked = made._replace(memory_mib=memory_mib or made.memory_mib, cpus=cpus or made.cpus)
        if product == hypervisor.QEMU:
            return runs.in_qemu(asked, told)
        if product not in vmrun.PRODUCTS:
            raise ToolError(product)
        return _in_vmware(asked, product, with_snapshot=bool(snapshot))

    return runs.main(run)


def _in_vmware(made: Capsule, product: str, *, with_snapshot: bool) -> str:
    if made.vmx is None:
        raise ToolError(
            "the capsule has no .vmx, and here VMware runs the machines",
            f"route the job with the ad template 'vmware', or set {hypervisor.KNOB} = qemu",
        )
    # Nobody else reads it here, and VMware itself writes into it.
    text = made.vmx.read_text(encoding="utf-8", errors="surrogateescape")
    text = with_settings(text, machine_settings(made.memory_mib, made.cpus, made.network))
    made.vmx.write_text(text, encoding="utf-8", errors="surrogateescape")
    if with_snapshot:
        vmrun.snapshot(product, made.vmx)
    written = DataDisk(made.data_disk).with_redo_log(made.folder)
    vmrun.run(
        product,
        made.vmx,
        data_disk=written.look().files,
        console=made.console,
        timeout_s=made.timeout_s,
    )
    return VMWARE
