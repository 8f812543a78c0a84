"""The routed ad of a KVM job: where it runs, what travels, and what root's script is told."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import classad2
import pytest

from tests.unit.returned import small_template, with_capsule
from tests.unit.router.test_routed_ad import recorded, routed_ad
from vmcapsule.capsule.record import Capsule
from vmcapsule.classad.ads import Ad, parse_ad
from vmcapsule.config import load_config
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.errors import AdError
from vmcapsule.resources import resource
from vmcapsule.router.route import CapsuleFacts
from vmcapsule.router.routes import route_of
from vmcapsule.router.translate import translate
from vmcapsule.slot.libvirt.asked import AskedDisk, read_asked

CAPSULE = CapsuleFacts(
    folder=Path("/scratch/jr/capsule-11.0"),
    vmx="",
    vmdk_files=("data.vmdk", "condor-work.vmdk"),
    other_files=(),
    memory_mib=320,
    cpus=2,
    size_kib=500_001,
    shared_files=(Path("/t/system.vmdk"), Path("/t/home.vmdk"), Path("/t/vmlinux")),
    system_disks=("system.vmdk", "home.vmdk"),
    kernel="vmlinux",
    cmdline="root=LABEL=x rw",
)
#: What HTCondor adds before it asks the script.
BY_HTCONDOR = 'VMPARAM_VM_NAME = "alice_pool_4.0"\nVM_WORKING_DIR = "/execute/dir_7"\n'
HOST = (
    'Arch = "X86_64"; VM_Type = "kvm"; VM_AvailNum = 1; Disk = 10000000; TotalMemory = 2000;'
    "VM_Memory = 1000; HasFileTransfer = true;"
)


def shipped() -> Ad:
    return parse_ad(resource("templates/kvm.classad").read_text())


def routed(capsule: CapsuleFacts = CAPSULE, source: str = "") -> Ad:
    return routed_ad(recorded(source), shipped(), capsule)


def translated(folder: Path, **knobs: str) -> tuple[Ad, Capsule]:
    param = {**small_template(folder), "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": "kvm"}
    param.update({f"VM_CAPSULE_{name}": value for name, value in knobs.items()})
    text = f'ClusterId = 7\nProcId = 0\nCmd = "/bin/true"\nIwd = "{folder}"\nJobUniverse = 5\n'
    return with_capsule(translate(text, load_config(param)))


def test_the_script_on_the_execute_point_reads_what_the_route_writes() -> None:
    asked = read_asked((routed().long_form() + BY_HTCONDOR).encode())
    assert asked.disks == (
        AskedDisk("system.vmdk", True, "vmdk"),
        AskedDisk("data.vmdk", True, "vmdk"),
        AskedDisk("home.vmdk", True, "vmdk"),
        AskedDisk("condor-work.vmdk", True, "vmdk"),
    )
    assert (asked.memory_mib, asked.cpus) == (320, 2)
    assert (asked.kernel, asked.initrd, asked.cmdline) == ("vmlinux", "", "root=LABEL=x rw")
    assert not asked.network and not asked.require_kvm


def test_a_capsule_that_boots_by_itself_tells_of_no_kernel() -> None:
    ad = routed(CAPSULE._replace(kernel="", cmdline=""), 'VmCapsuleKernel = "of-the-job"\n')
    assert read_asked((ad.long_form() + BY_HTCONDOR).encode()).kernel == ""


@pytest.mark.parametrize(("age_s", "matched"), [(5, ["ep2"]), (500, ["ep1", "ep2"])])
def test_a_machine_where_a_run_ended_in_vain_is_not_tried_at_once(
    age_s: int, matched: list[str]
) -> None:
    """It goes on saying that it has VMs while libvirt does not run there."""
    ended = {"LastVacateTime": int(time.time()) - age_s, "MachineAttrMachine0": '"ep1"'}
    job = classad2.parseOne(routed().with_(ended).long_form(), classad2.ParserType.Old)
    own = "HasVM = true; HasVMCapsuleLibvirt = true"
    hosts = {
        name: classad2.ClassAd(f'[ {HOST} {own}; Machine = "{name}" ]')
        for name in ("ep1", "ep2")
    }
    found = [name for name, host in hosts.items() if job.lookup("Requirements").eval(job, host)]
    assert found == matched


def test_a_users_words_put_no_machine_out_of_service() -> None:
    said = 'jobVMNetworkingType = "x"\nJobVMHardwareVT = true\n'
    for network, kind in ((True, "nat"), (False, None)):
        ad = routed(CAPSULE._replace(network=network), said)
        assert ad.string("JobVMNetworkingType") == kind
        assert ad.boolean("JobVMHardwareVT") is False


def test_outputs_come_back_beside_the_capsules_own_disk() -> None:
    ad = routed()
    assert ad.string("TransferOutput") == "data.vmdk"
    assert ad.string("TransferOutputRemaps") == "data.vmdk=returned/data.vmdk"
    files = [Path(path).name for path in str(ad.string("TransferInput")).split(",")]
    assert files == [
        *("data.vmdk", "condor-work.vmdk"),
        *("system.vmdk", "home.vmdk", "vmlinux"),
    ]


@pytest.mark.parametrize(
    ("said", "matches"),
    [
        ("HasVM = true; HasVMCapsuleLibvirt = true", True),
        ("HasVM = true", False),
        ("HasVM = false; HasVMCapsuleLibvirt = true", False),
        ("HasVM = false; HasVMCapsuleLibvirt = true; VMOfflineTime = {now} - 30", False),
        ("HasVM = false; HasVMCapsuleLibvirt = true; VMOfflineTime = {now} - 700", True),
        ("HasVM = true; HasVMCapsuleLibvirt = true; VM_Memory = 300", False),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_it_runs_where_our_script_is_and_libvirt_works(
    said: str, matches: bool, own: bool
) -> None:
    template = shipped() if own else shipped().without(["Requirements"])
    ad = classad2.parseOne(
        routed_ad(recorded(), template, CAPSULE).long_form(), classad2.ParserType.Old
    )
    host = classad2.ClassAd(f"[ {HOST} ]")
    host.update(classad2.ClassAd(f"[ {said.format(now=int(time.time()))} ]"))
    assert (ad.lookup("Requirements").eval(ad, host) is True) is matches


def test_what_a_capsule_demands_its_machine_must_have() -> None:
    demands = ("TARGET.VM_Networking =?= true", "TARGET.VMCapsuleKVM =?= true")
    text = routed(CAPSULE._replace(demands=demands)).expr("Requirements") or ""
    assert all(f"({demand})" in text for demand in demands)


def test_a_time_limit_is_htcondors_to_keep(tmp_path: Path) -> None:
    assert "AllowedExecuteDuration" not in routed()
    ad, _ = translated(tmp_path, TIMEOUT="600")
    # The guest's end is noticed late: that is not to count.
    assert ad.integer("AllowedExecuteDuration") == 690


def test_kvm_and_a_network_are_demanded_where_they_are_configured(tmp_path: Path) -> None:
    ad, _ = translated(tmp_path, REQUIRE_KVM="true", NETWORK="true")
    text = ad.expr("Requirements") or ""
    assert "TARGET.VMCapsuleKVM" in text and "TARGET.VM_Networking" in text
    assert ad.boolean("VmCapsuleRequireKVM") and ad.boolean("JobVMNetworking")


def test_the_capsule_has_places_for_what_comes_back(tmp_path: Path) -> None:
    _, made = translated(tmp_path)
    assert (made.folder / "returned").is_dir() and made.returned_disk == made.data_disk
    # The job's folder is open to all where it runs; its disk is not.
    assert stat.S_IMODE(made.data_disk.stat().st_mode) == 0o600
    assert DataDisk(made.data_disk).look().files == (made.data_disk,)


@pytest.mark.parametrize(
    "changes",
    [
        {"system_disks": ("sys:tem.vmdk",)},
        {"system_disks": ("sys,tem.vmdk",)},
        {"cmdline": 'a="b"'},
        {"cmdline": "a\\b"},
    ],
)
def test_what_the_script_would_not_read_is_not_sent(changes: dict[str, object]) -> None:
    with pytest.raises(AdError):
        routed(CAPSULE._replace(**changes))


def test_it_ends_with_0_whatever_its_guest_did() -> None:
    assert route_of(shipped()).unreported is None
    ad = routed(source="OnExitHold = ExitCode != 0\n")
    assert (ad.expr("OnExitHold"), ad.expr("OnExitRemove")) == ("false", "true")
