"""The route of KVM jobs that our own vm-gahp runs, without libvirt: `vmcapsule.slot.gahp`.

System disk and kernel stay in the template, whence HTCondor transfers them.  The job ends as
the guest's did.  A run whose guest did not report is repeated, then held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

from vmcapsule.capsule.packing import Plan, put_obstacles
from vmcapsule.capsule.record import RECORD, Capsule
from vmcapsule.classad.ads import Ad, Value
from vmcapsule.disk.disk import Disk
from vmcapsule.job.source import SourceJob
from vmcapsule.router import vm_jobs
from vmcapsule.router.route import OWN_GAHP, CapsuleFacts, Route, size_kib
from vmcapsule.slot.packed import share
from vmcapsule.slot.starter import HYPERVISOR
from vmcapsule.template.template import Template


def _finish(planned: Plan, aside: Path) -> Capsule:
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
        memory_mib=made.memory_mib + share.QEMU_MEMORY_MIB,
        cpus=made.cpus,
        network=made.network,
        size_kib=size_kib(data_kib, shared),
        data_kib=data_kib,
        shared_files=tuple(shared),
        wanted_outputs=vm_jobs.wanted_outputs(made),
        demands=tuple(vm_jobs.demands(made)),
    )


def _attributes(job: SourceJob, template: Ad, capsule: CapsuleFacts) -> Mapping[str, Value]:
    return {
        **vm_jobs.machine("kvm", capsule.memory_mib - share.QEMU_MEMORY_MIB, capsule),
        **vm_jobs.transfer(capsule),
        **vm_jobs.counted(job),
        **vm_jobs.held_for_the_slot(template),
    }


ROUTE = Route(
    universe=vm_jobs.UNIVERSE,
    vm_type="kvm",
    universe_name=vm_jobs.UNIVERSE_NAME,
    unreported=vm_jobs.UNREPORTED,
    # HTCondor has a gahp for such jobs itself: not there.
    requirements=vm_jobs.requirements_of_our_gahp(f"TARGET.{HYPERVISOR} isnt undefined"),
    finish=_finish,
    facts=_facts,
    attributes=_attributes,
    request_disk_kib=vm_jobs.request_disk_kib,
    execute="gahp",
    mark=OWN_GAHP,
)
