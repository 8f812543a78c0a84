"""The route of KVM jobs: HTCondor's own VM universe boots the capsule through libvirt.

An execute point's LIBVIRT_XML_SCRIPT, `vmcapsule.slot.libvirt.script`, says how.  Such a job
always ends with ExitCode 0; what the guest said is on the data disk that comes back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

from vmcapsule.capsule.packing import Plan
from vmcapsule.capsule.record import RETURNED, Capsule
from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.disk.disk import Disk
from vmcapsule.errors import AdError
from vmcapsule.job.source import SourceJob
from vmcapsule.router import vm_jobs
from vmcapsule.router.route import CapsuleFacts, Route, file_list, size_kib
from vmcapsule.router.work_disk import WORK_DISK, put_work_disk
from vmcapsule.slot.libvirt import asked
from vmcapsule.template.template import Template

#: What an execute point advertises whose LIBVIRT_XML_SCRIPT is ours.
HAS_OUR_SCRIPT = "HasVMCapsuleLibvirt"
#: HTCondor's own word for machines where guests of its VM universe get a network.
_NETWORK = "TARGET.VM_Networking =?= true"
#: HTCondor looks after 30 s, then each VM_STATUS_INTERVAL, whether the guest has ended.
NOTICED_S = 90
_REQUIREMENTS = vm_jobs.requirements(
    # A machine where libvirt failed is out of service until its startd is restarted; ten
    # minutes later a job may try it, and success lifts that.
    "TARGET.HasVM =?= true || time() - TARGET.VMOfflineTime > 600",
    f"TARGET.{HAS_OUR_SCRIPT} =?= true",
)


def _finish(planned: Plan, aside: Path) -> Capsule:
    """A folder for what comes back; system disk and kernel stay in the template.

    HTCondor opens the job's folder to all users where it runs (``vm_proc.cpp``): the data disk
    was made for its owner only.
    """
    made = planned.capsule
    if made.work_bytes:
        put_work_disk(planned, aside)
    (aside / RETURNED).mkdir()
    return made


def _facts(made: Capsule, template: Template, data_kib: int) -> CapsuleFacts:
    disks = [Disk.at(disk) for disk in (made.system_disk, *template.other_disks)]
    boot = [file for file in (made.kernel, made.initrd) if file is not None]
    shared = [*(file for disk in disks for file in disk.files), *boot]
    return CapsuleFacts(
        folder=made.folder,
        vmx="",
        vmdk_files=(made.data_disk.name, *([WORK_DISK] if made.work_bytes else [])),
        other_files=(),
        memory_mib=made.memory_mib,
        cpus=made.cpus,
        network=made.network,
        size_kib=size_kib(data_kib, shared),
        data_kib=data_kib,
        shared_files=tuple(shared),
        demands=tuple(vm_jobs.demands(made, _NETWORK)),
        system_disks=tuple(disk.path.name for disk in disks),
        kernel=made.kernel.name if made.kernel else "",
        initrd=made.initrd.name if made.kernel and made.initrd else "",
        cmdline=made.cmdline if made.kernel else "",
        require_kvm=made.require_kvm,
        timeout_s=made.timeout_s,
    )


def _attributes(job: SourceJob, template: Ad, capsule: CapsuleFacts) -> Mapping[str, Value]:
    files = (*capsule.vmdk_files, *capsule.other_files)
    paths = [str(capsule.folder / name) for name in files]
    paths += [str(path) for path in capsule.shared_files]
    data = capsule.vmdk_files[0]
    attributes: dict[str, Value] = {
        **vm_jobs.machine("kvm", capsule.memory_mib, capsule),
        # The user's own words for these would have HTCondor's vm-gahp fail on a machine, which
        # is then out of service.
        "JobVMNetworkingType": quote("nat") if capsule.network else "undefined",
        "JobVMHardwareVT": False,
        asked.DISKS: _disk_list(capsule),
        asked.KERNEL: _plain(capsule.kernel),
        asked.INITRD: _plain(capsule.initrd),
        asked.CMDLINE: _plain(capsule.cmdline),
        asked.REQUIRE_KVM: capsule.require_kvm,
        "TransferInput": file_list(paths),
        # Never over the capsule's own data disk, so that a run can be repeated.
        "TransferOutput": file_list([data]),
        "TransferOutputRemaps": quote(f"{data}={RETURNED}/{data}"),
        "ShouldTransferFiles": quote("YES"),
        "WhenToTransferOutput": quote("ON_EXIT"),
    }
    if capsule.timeout_s is not None:
        attributes["AllowedExecuteDuration"] = int(capsule.timeout_s) + NOTICED_S
    return attributes


def _disk_list(capsule: CapsuleFacts) -> str:
    """The disks in HTCondor's notation, in the order of `vmcapsule.vm.boot`.

    The guest may write to all of them.  Those of the template are copies where it runs, which
    go with the job's folder.  (libvirt's own throw-away layers would be root's.)
    """
    data, *work = capsule.vmdk_files
    first, *others = capsule.system_disks
    names = [first, data, *others, *work]
    for name in names:
        if ":" in name:
            raise AdError(
                f"the template's disk '{name}' has a colon in its name, which separates in "
                f"{asked.DISKS}",
                "rename it, in its .vmx, too",
            )
    letters = "abcdefghijklmnop"
    return file_list([f"{name}:vd{letters[n]}:w:vmdk" for n, name in enumerate(names)])


def _plain(text: str) -> str:
    """A string for the script, which reads none with a quotation mark or a backslash."""
    if not text:
        return "undefined"
    if '"' in text or "\\" in text:
        raise AdError(
            f"libvirt's kernel cannot be told {text!r}: it has a quotation mark or a backslash",
            "build a template whose kernel and command line have none",
        )
    return quote(text)


ROUTE = Route(
    universe=vm_jobs.UNIVERSE,
    vm_type="kvm",
    universe_name=vm_jobs.UNIVERSE_NAME,
    # HTCondor's own vm-gahp ends with 0 whatever its guest did.
    unreported=None,
    requirements=_REQUIREMENTS,
    finish=_finish,
    facts=_facts,
    attributes=_attributes,
    request_disk_kib=vm_jobs.request_disk_kib,
    execute="kvm",
)
