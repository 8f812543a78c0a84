"""The route of VMware jobs: a job of the VM universe that `vmcapsule.slot.gahp` serves.

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
from vmcapsule.router import vm_jobs
from vmcapsule.router.route import CapsuleFacts, Route, file_list, size_kib
from vmcapsule.router.work_disk import WORK_DISK, put_work_disk
from vmcapsule.slot.packed import share
from vmcapsule.slot.starter import BY_VMWARE, HYPERVISOR, NETWORK_WORKS
from vmcapsule.template.template import Template

#: Where VMware itself runs the capsule, what is around QEMU's network says nothing of it.
_NETWORK = f'TARGET.{NETWORK_WORKS} =?= true || regexp("^{BY_VMWARE} ", TARGET.{HYPERVISOR})'


def _finish(planned: Plan, aside: Path) -> Capsule:
    """A whole VM for a hypervisor, of which the capsule holds what is the job's.

    Its other disks stay in the template, whence HTCondor transfers them.
    """
    from vmcapsule.template import vmx  # no other kind of job needs it

    made, template = planned.capsule, planned.template
    text = template.vmx.read_text(encoding="utf-8", errors="surrogateescape")
    others = [disk.name for disk in (template.system_disk, *template.other_disks)]
    settings = vmx.machine_settings(made.memory_mib, made.cpus, made.network)
    text = vmx.with_settings(text, {**settings, **vmx.never_written(text, others)})
    if made.work_bytes:
        text = vmx.with_disk(text, WORK_DISK, made.data_disk.name)
        put_work_disk(planned, aside)
    target = aside / template.vmx.name
    target.write_text(text, encoding="utf-8", errors="surrogateescape")
    put_obstacles(planned.job, aside)
    return made._replace(vmx=made.folder / template.vmx.name)


def _facts(made: Capsule, template: Template, data_kib: int) -> CapsuleFacts:
    disks = (template.system_disk, *template.other_disks)
    files = [
        *(file for disk in disks for file in Disk.at(disk).files),
        made.kernel,
        made.initrd,
    ]
    shared = [file for file in files if file is not None]
    return CapsuleFacts(
        folder=made.folder,
        vmx=template.vmx.name,
        vmdk_files=(made.data_disk.name, *([WORK_DISK] if made.work_bytes else [])),
        # What boots it without VMware reads the record, and takes the kernel that goes along.
        other_files=(RECORD,),
        memory_mib=made.memory_mib + share.QEMU_MEMORY_MIB,
        cpus=made.cpus,
        network=made.network,
        size_kib=size_kib(data_kib, shared),
        data_kib=data_kib,
        shared_files=tuple(shared),
        wanted_outputs=vm_jobs.wanted_outputs(made),
        demands=tuple(vm_jobs.demands(made, _NETWORK)),
    )


def _attributes(job: SourceJob, template: Ad, capsule: CapsuleFacts) -> Mapping[str, Value]:
    # In the folder in which HTCondor starts the VM all of them lie, by base name.
    shared = [path.name for path in capsule.shared_files if path.suffix == ".vmdk"]
    return {
        **vm_jobs.machine("vmware", capsule.memory_mib - share.QEMU_MEMORY_MIB, capsule),
        "VMPARAM_VMware_Dir": quote(str(capsule.folder)),
        "VMPARAM_VMware_VMX_File": quote(capsule.vmx),
        "VMPARAM_VMware_VMDK_Files": file_list([*capsule.vmdk_files, *shared]),
        "VMPARAM_VMware_Transfer": True,
        # With a snapshot the guest's writes are in a redo log over the data disk, which is
        # read as well.  HTCondor's default for one that is not said would be true.
        "VMPARAM_VMware_SnapshotDisk": template.boolean("VMPARAM_VMware_SnapshotDisk") is True,
        **vm_jobs.transfer(capsule),
        **vm_jobs.counted(job),
        **vm_jobs.held_for_the_slot(template),
    }


def _request_disk_kib(job: SourceJob, capsule: CapsuleFacts) -> int:
    """A VM's memory may be saved beside its disks while it is suspended."""
    return vm_jobs.request_disk_kib(job, capsule) + capsule.memory_mib * 1024


ROUTE = Route(
    universe=vm_jobs.UNIVERSE,
    vm_type="vmware",
    universe_name=vm_jobs.UNIVERSE_NAME,
    unreported=vm_jobs.UNREPORTED,
    # Not HasVM: once a gahp was killed as it started that is false until a VM has run there.
    requirements=vm_jobs.requirements_of_our_gahp(),
    finish=_finish,
    facts=_facts,
    attributes=_attributes,
    request_disk_kib=_request_disk_kib,
    execute="gahp",
)
