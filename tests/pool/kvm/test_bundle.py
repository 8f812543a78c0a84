"""The virtual machine of a VMware job, as those see it who know nothing of us.

libvirt reads VMware's files for machines of VMware's own products, whose programs it looks for;
stand-ins say that they are there.  qemu-img reads the disks.
"""

from __future__ import annotations

import json
from typing import Dict, List, NamedTuple
from xml.etree import ElementTree

import pytest

from tests.pool.plugin import HOME
from tests.pool.pool import Pool
from vmcapsule.classad.ads import Ad, parse_ad

pytestmark = [pytest.mark.pool, pytest.mark.kvm]
#: Inside: where a starter would have put it all, and the stand-ins.
FOLDER = "/home/alice/bundle"
PROGRAMS = "/opt/vmware-stand-in"
STAND_INS = {
    "vmrun": "#!/bin/sh\necho Total running VMs: 0\n",
    "vmware": "#!/bin/sh\necho VMware Workstation 17.6.2 build-24409262\n",
}
GIB_KIB = 1 << 20


class Machine(NamedTuple):
    """A machine in libvirt's words; disks by file name, with what else is said of each."""

    memory_mib: int
    cpus: int
    arch: str
    disks: Dict[str, List[str]]
    networks: int


def source(**also: object) -> str:
    """A job that wants what no template has by itself."""
    return "".join(
        f"{name} = {value}\n"
        for name, value in {
            "ClusterId": 17,
            "ProcId": 0,
            "JobUniverse": 5,
            "Owner": '"alice"',
            "Cmd": '"job.sh"',
            "Iwd": '"/home/alice/bundled"',
            "Out": '"out"',
            "RequestMemory": 333,
            "RequestCpus": 1,
            **also,
        }.items()
    )


def translated(pool: Pool, ad: str, *knobs: str) -> Ad:
    """The routed job of a source ad, with all that travels for it in `FOLDER`."""
    pool.put("/home/alice/bundled/job.sh", "#!/bin/sh\n", mode=0o755, owner="alice")
    settings = ("CONDOR_CLASSAD_TEMPLATE=vmware", *knobs)
    variables = [f"_CONDOR_VM_CAPSULE_{each}" for each in settings]
    program = ["env", *variables, f"PYTHONPATH={HOME}", "python3", "-m", "vmcapsule"]
    routed = pool.run("alice", [*program, "translate"], stdin=ad).stdout.decode()
    made = parse_ad(routed)
    pool.run("alice", ["rm", "-rf", FOLDER])
    pool.run("alice", ["mkdir", FOLDER])
    files = (made.string("TransferInput") or "").split(",")
    pool.run("alice", ["cp", "-R", "--reflink=auto", "--sparse=always", *files, FOLDER])
    pool.run(
        "alice",
        ["env", f"PYTHONPATH={HOME}", "python3", "-m", "vmcapsule", "cleanup"],
        stdin=routed,
    )
    return made


def machine(pool: Pool, vmx: str) -> Machine:
    """What libvirt reads in a .vmx."""
    for name, script in STAND_INS.items():
        pool.put(f"{PROGRAMS}/{name}", script, mode=0o755)
    path = f"PATH={PROGRAMS}:/usr/bin:/bin"
    reader = ["virsh", "-c", "vmwarews:///session", "domxml-from-native", "vmware-vmx"]
    printed = pool.run("alice", ["env", path, *reader, f"{FOLDER}/{vmx}"]).stdout.decode()
    top = ElementTree.fromstring(printed)
    memory, cpus, kind = top.find("memory"), top.findtext("vcpu"), top.find("os/type")
    assert memory is not None and kind is not None and memory.get("unit") == "KiB", printed
    disks = {}
    for disk in top.iterfind("devices/disk"):
        file = disk.find("source")
        assert file is not None and disk.get("device") == "disk", printed
        said = sorted(each.tag for each in disk if each.tag in ("transient", "readonly"))
        disks[file.get("file") or ""] = said
    networks = len(top.findall("devices/interface"))
    return Machine(
        int(memory.text or "") // 1024, int(cpus or ""), kind.get("arch") or "", disks, networks
    )


def disk_info(pool: Pool, name: str) -> Dict[str, object]:
    """What qemu-img says of a disk, which has no fault that it knows to look for."""
    file = f"{FOLDER}/{name}"
    pool.run("alice", ["qemu-img", "check", "-f", "vmdk", file])
    argv = ["qemu-img", "info", "-f", "vmdk", "--output=json", file]
    found = json.loads(pool.run("alice", argv).stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("cpus", [1, 2, 3])
def test_libvirt_reads_the_machine_that_the_job_asked_for(pool: Pool, cpus: int) -> None:
    ad = translated(pool, source(RequestCpus=cpus))
    found = machine(pool, ad.string("VMPARAM_VMware_VMX_File") or "")
    wanted_mib = ad.integer("JobVMMemory") or 0
    # VMware takes memory in steps.
    assert wanted_mib > 333 and 0 <= found.memory_mib - wanted_mib < 4
    assert (found.cpus, found.arch, found.networks) == (cpus, "x86_64", 0)
    # What the guest writes on the template's disk is thrown away; on the data disk it stays.
    assert found.disks == {"system.vmdk": ["transient"], "data.vmdk": []}


def test_each_disk_is_whole_and_named(pool: Pool) -> None:
    ad = translated(pool, source(RequestDisk=5 * GIB_KIB))
    found = machine(pool, ad.string("VMPARAM_VMware_VMX_File") or "")
    assert len(found.disks) == 3, "the job has a disk of its own to work on"
    sent = {path.name for path in pool.path(FOLDER).glob("*.vmdk")}
    named = set((ad.string("VMPARAM_VMware_VMDK_Files") or "").split(","))
    assert {*found.disks} <= named <= sent
    sizes = {name: disk_info(pool, name)["virtual-size"] for name in found.disks}
    (work,) = {*found.disks} - {"system.vmdk", "data.vmdk"}
    assert found.disks[work] == ["transient"]
    assert isinstance(sizes[work], int) and sizes[work] >= 5 << 30


def test_libvirt_reads_a_machine_with_a_network(pool: Pool) -> None:
    ad = translated(pool, source(), "NETWORK=True")
    found = machine(pool, ad.string("VMPARAM_VMware_VMX_File") or "")
    assert found.networks == 1
