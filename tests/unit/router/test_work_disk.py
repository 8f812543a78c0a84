"""A job that requests more disk than a template has is given one, wherever it is booted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.returned import small_template, with_capsule
from vmcapsule.capsule import booting
from vmcapsule.capsule.record import RECORD, Capsule, load_capsule
from vmcapsule.classad.ads import Ad
from vmcapsule.config import load_config
from vmcapsule.contract import WORK_LABEL
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.disk import Disk
from vmcapsule.router.translate import translate
from vmcapsule.router.work_disk import WORK_DISK
from vmcapsule.template.template import parse_vmx
from vmcapsule.vm import accelerator
from vmcapsule.vm.boot import Machine

GIB_KIB = 1 << 20


def translated(folder: Path, kind: str, request_disk_kib: int) -> tuple[Ad, Capsule]:
    param = {**small_template(folder), "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": kind}
    text = (
        f'ClusterId = 7\nProcId = 0\nCmd = "/bin/true"\nIwd = "{folder}"\nJobUniverse = 5\n'
        f"RequestDisk = {request_disk_kib}\n"
    )
    return with_capsule(translate(text, load_config(param)))


@pytest.mark.parametrize("kind", ["kvm-gahp", "vmware", "kvm"])
def test_a_small_job_has_no_more_disks_than_the_template(tmp_path: Path, kind: str) -> None:
    ad, made = translated(tmp_path, kind, GIB_KIB // 2)
    assert made.work_bytes == 0
    assert WORK_DISK not in str(ad.expr("TransferInput"))
    assert not (made.folder / WORK_DISK).exists()


def test_whoever_boots_it_makes_the_disk_and_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, made = translated(tmp_path, "kvm-gahp", 12 * GIB_KIB)
    loaded = load_capsule(made.folder)
    assert loaded.work_bytes == made.work_bytes > 12 << 30
    before = sorted(made.folder.iterdir())
    seen: list[bytes] = []

    def boot(machine: Machine, **_: object) -> float:
        assert machine.work_disk is not None
        assert machine.work_disk.stat().st_size == made.work_bytes
        seen.append(head(machine))
        raise KeyboardInterrupt

    monkeypatch.setattr(booting.boot, "boot", boot)
    monkeypatch.setattr(accelerator, "choose", lambda *_: accelerator.TCG)
    with pytest.raises(KeyboardInterrupt):
        booting.boot_capsule(loaded, cache=tmp_path, timeout_s=None)
    assert seen == [WORK_LABEL.encode()]
    assert sorted(made.folder.iterdir()) == before


def head(machine: Machine) -> bytes:
    assert machine.work_disk is not None
    with machine.work_disk.open("rb") as file:
        return file.read(2048)[1144:1160].rstrip(b"\0")


def test_a_whole_vm_travels_with_an_empty_one(tmp_path: Path) -> None:
    ad, made = translated(tmp_path, "vmware", 20 * GIB_KIB)
    disk = Disk.at(made.folder / WORK_DISK)
    assert disk.size_bytes == made.work_bytes > 20 << 30
    assert disk.path.stat().st_size < 8 << 20, "its holes would be transferred as zeros"
    assert f"{made.folder}/{WORK_DISK}" in str(ad.expr("TransferInput"))
    assert WORK_DISK in str(ad.expr("VMPARAM_VMware_VMDK_Files"))
    settings = parse_vmx((made.folder / "vm.vmx").read_text())
    assert settings["ide1:0.filename"] == WORK_DISK
    assert settings["ide1:0.mode"] == "independent-nonpersistent"


def test_the_guest_is_told_what_it_is_to_find(tmp_path: Path) -> None:
    _, made = translated(tmp_path, "kvm-gahp", 12 * GIB_KIB)
    with DataDisk(made.data_disk).opened(tmp_path) as volume:
        record = json.loads(volume.read("vmcapsule/job.json", 1 << 20))
    assert record["disk_kib"] == 12 * GIB_KIB
    assert record["work_disk_bytes"] == made.work_bytes


def test_a_capsule_of_before_there_were_such_disks_is_read(tmp_path: Path) -> None:
    _, made = translated(tmp_path, "kvm-gahp", 1000)
    record = json.loads((made.folder / RECORD).read_text())
    del record["work_bytes"]
    (made.folder / RECORD).write_text(json.dumps(record))
    assert load_capsule(made.folder) == made
