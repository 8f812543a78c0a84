"""The route of VMware jobs: the VM universe of HTCondor up to 9.11 boots the whole VM."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

from vmcapsule.capsule.packing import Plan
from vmcapsule.capsule.record import Capsule
from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.disk import Disk, from_raw
from vmcapsule.disk.extents import copy_sparse
from vmcapsule.job.source import SourceJob
from vmcapsule.router.route import CapsuleFacts, Route, file_list, size_kib
from vmcapsule.template.template import Template

#: The disk that the guest works on, where the job needs more than a little; empty, it takes
#: a few KiB for each GiB.
WORK_DISK = "condor-work.vmdk"
#: What condor_submit would have added to the Requirements of such a job.
_REQUIREMENTS = (
    '(TARGET.Arch == "X86_64") && (TARGET.HasVM =?= true)'
    " && (TARGET.VM_Type == MY.JobVMType) && (TARGET.VM_AvailNum > 0)"
    " && (TARGET.Disk >= RequestDisk) && (TARGET.TotalMemory >= MY.JobVMMemory)"
    " && (TARGET.VM_Memory >= MY.JobVMMemory) && (TARGET.HasFileTransfer)"
)


def _finish(planned: Plan, aside: Path) -> Capsule:
    """A whole VM for a hypervisor, of which the capsule holds what is the job's.

    Its other disks stay in the template, whence HTCondor transfers them.
    """
    made, vmx = planned.capsule, planned.template.vmx
    if made.work_bytes:
        from vmcapsule.guest.work_disk import raw_work_disk  # seldom needed
        from vmcapsule.template.vmx import with_disk

        text = vmx.read_text(encoding="utf-8", errors="surrogateescape")
        text = with_disk(text, WORK_DISK, made.data_disk.name)
        (aside / vmx.name).write_text(text, encoding="utf-8", errors="surrogateescape")
        with raw_work_disk(aside, made.work_bytes) as raw:
            assert raw is not None  # it has a size
            from_raw(raw, aside / WORK_DISK, like=planned.template.data_disk)
    else:
        copy_sparse(vmx, aside / vmx.name)
    DataDisk(aside / made.data_disk.name).make_transferable(aside)
    return made._replace(vmx=made.folder / vmx.name)


def _facts(made: Capsule, template: Template, data_kib: int) -> CapsuleFacts:
    disks = (template.system_disk, *template.other_disks)
    shared = [file for disk in disks for file in Disk.at(disk).files]
    return CapsuleFacts(
        folder=made.folder,
        vmx=template.vmx.name,
        vmdk_files=(made.data_disk.name, *([WORK_DISK] if made.work_bytes else [])),
        other_files=(),
        memory_mib=made.memory_mib,
        cpus=made.cpus,
        network=made.network,
        size_kib=size_kib(data_kib, shared),
        shared_files=tuple(shared),
    )


def _attributes(job: SourceJob, template: Ad, capsule: CapsuleFacts) -> Mapping[str, Value]:
    # In the folder in which HTCondor starts the VM all of them lie, by base name.
    disks = (*capsule.vmdk_files, *(path.name for path in capsule.shared_files))
    files = (capsule.vmx, *capsule.vmdk_files, *capsule.other_files)
    paths = [str(capsule.folder / name) for name in files]
    paths += [str(path) for path in capsule.shared_files]
    return {
        "JobVMType": quote("vmware"),
        "JobVMMemory": capsule.memory_mib,
        "JobVM_VCPUS": capsule.cpus,
        "JobVMNetworking": capsule.network,
        "JobVMCheckpoint": False,
        "VMPARAM_VMware_Dir": quote(str(capsule.folder)),
        "VMPARAM_VMware_VMX_File": quote(capsule.vmx),
        "VMPARAM_VMware_VMDK_Files": file_list(disks),
        "VMPARAM_VMware_Transfer": True,
        # With a snapshot the guest's writes would come back as a redo log that only
        # VMware can read; without one the data disk itself comes back with the outputs.
        "VMPARAM_VMware_SnapshotDisk": False,
        "TransferInput": file_list(paths),
        "ShouldTransferFiles": quote("YES"),
        "WhenToTransferOutput": quote("ON_EXIT"),
    }


def _request_disk_kib(job: SourceJob, capsule: CapsuleFacts) -> int:
    """A suspended VM's memory is saved beside its disks."""
    return capsule.size_kib + capsule.memory_mib * 1024


ROUTE = Route(
    universe=13,
    vm_type="vmware",
    universe_name="VM",
    # A job of the VM universe always ends with ExitCode 0.
    has_exit_status=False,
    requirements=_REQUIREMENTS,
    finish=_finish,
    facts=_facts,
    attributes=_attributes,
    request_disk_kib=_request_disk_kib,
)
