"""The routed ad of a KVM job that our own vm-gahp runs: a VM whose capsule is a slot's."""

from __future__ import annotations

from pathlib import Path

import classad2
import pytest

from tests.unit.returned import small_template, with_capsule
from tests.unit.router.test_routed_ad import CAPSULE, recorded, routed_ad
from vmcapsule.capsule.record import RECORD, UNREPORTED_SIGNAL
from vmcapsule.classad.ads import Ad, parse_ad
from vmcapsule.config import load_config
from vmcapsule.errors import ConfigError
from vmcapsule.resources import resource
from vmcapsule.router import kvm, kvm_gahp
from vmcapsule.router.routes import route_of
from vmcapsule.router.translate import translate
from vmcapsule.slot.packed.share import QEMU_MEMORY_MIB

HOST = (
    'Arch = "X86_64"; VM_Type = "kvm"; VM_AvailNum = 1; Disk = 10000000; TotalMemory = 2000;'
    "VM_Memory = 1000; HasFileTransfer = true;"
)


def shipped() -> Ad:
    return parse_ad(resource("templates/kvm-gahp.classad").read_text())


def routed(template: Ad) -> Ad:
    return routed_ad(recorded(), template, CAPSULE._replace(vmx=""))


def test_the_ad_template_says_whose_gahp_runs_it() -> None:
    assert route_of(shipped()) is kvm_gahp.ROUTE
    assert route_of(shipped().with_({"VmCapsuleGahp": False})) is kvm.ROUTE
    with pytest.raises(ConfigError, match="JobVMType = xen, VmCapsuleGahp = true; use one"):
        route_of(shipped().with_({"JobVMType": '"xen"'}))


@pytest.mark.parametrize("requirements", [True, False])
def test_it_matches_machines_with_our_gahp_alone(requirements: bool) -> None:
    template = shipped() if requirements else shipped().without(["Requirements"])
    ad = classad2.parseOne(routed(template).long_form(), classad2.ParserType.Old)
    for more, fits in (("", False), ('VMCapsuleHypervisor = "qemu 10.0"', True)):
        host = classad2.ClassAd(f"[ {HOST} {more} ]")
        assert ad.lookup("Requirements").eval(ad, host) is fits
    host["VM_Type"] = "vmware"
    assert ad.lookup("Requirements").eval(ad, host) is False


def test_what_goes_and_what_comes_back() -> None:
    ad = routed(shipped())
    assert (ad.integer("JobUniverse"), ad.string("JobVMType")) == (13, "kvm")
    assert ad.integer("JobVMMemory") == 320 - QEMU_MEMORY_MIB
    assert ad.integer("RequestMemory") == 320, "what boots it takes something, too"
    assert ad.string("TransferOutput") == "returned"
    assert ad.boolean("TransferExecutable") is False


@pytest.mark.parametrize("number", [UNREPORTED_SIGNAL, 9])
def test_a_run_without_a_report_is_repeated(number: int) -> None:
    end = f"ExitBySignal = true\nExitSignal = {number}\nNumJobCompletions = 1\n"
    names = [line.split(" = ")[0] for line in end.splitlines()]
    ad = parse_ad(routed(shipped()).without(names).long_form() + end)
    assert ad.boolean("OnExitRemove") is False and ad.boolean("OnExitHold") is False


def test_the_capsule_is_one_that_our_gahp_finds(tmp_path: Path) -> None:
    param = {**small_template(tmp_path), "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": "kvm-gahp"}
    text = (
        f'ClusterId = 7\nProcId = 0\nCmd = "/bin/true"\nIwd = "{tmp_path}"\nJobUniverse = 5\n'
    )
    ad, made = with_capsule(translate(text, load_config(param)))
    names = [Path(path).name for path in (ad.string("TransferInput") or "").split(",")]
    assert names == ["data.vmdk", RECORD, "system.vmdk"]
    assert made.vmx is None and not list(made.folder.glob("*.pyz"))
