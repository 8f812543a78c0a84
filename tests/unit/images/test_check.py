"""'template check' without a boot, and what the probe's record means."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.config import Config, load_config
from vmcapsule.disk.empty_disk import build_data_disk
from vmcapsule.disk.vmdk.vmdk import create_vmdk
from vmcapsule.errors import DiskError
from vmcapsule.images.check import Finding, check_template, judge, parse_probe
from vmcapsule.template.tarball import HTCondorTarball, described

MIB = 1 << 20
GOOD: Dict[str, Any] = {
    "python": "3.13.5",
    "kernel": "6.12",
    "glibc": "2.41",
    "uid": 0,
    "condor_user": True,
    "mount_point": "/condor-data",
    "fs_type": "vfat",
    "writable_by_all": True,
    "condor": "23.9.6 25.1",
    "memory_kib": 475136,
    "free_root_bytes": 2 << 30,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "t/condor_vm_capsule"
    folder.mkdir(parents=True)
    (folder / "a.vmx").write_text(
        'ide0:0.fileName = "system.vmdk"\nide0:1.fileName = "data.vmdk"\n'
    )
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(MIB))
    create_vmdk(raw, folder / "system.vmdk", "monolithicSparse")
    build_data_disk(raw, size_bytes=600 * MIB, offset_bytes=32256)
    create_vmdk(raw, folder / "data.vmdk", "monolithicFlat")
    return folder


def check(folder: Path, **knobs: str) -> List[Finding]:
    param = {
        "VM_CAPSULE_TEMPLATE": str(folder.parent),
        "VM_CAPSULE_SCRATCH_DIR_PREFIX": str(folder.parent / "scratch"),
        **knobs,
    }
    config: Config = load_config(param)
    return check_template(config, boot=False, progress=lambda step: None)


def errors(findings: List[Finding]) -> List[str]:
    return [f"{f.text}; {f.remedy}" for f in findings if f.level == "error"]


def test_a_root_with_little_room_costs_a_warning() -> None:
    findings = judge({**GOOD, "free_root_bytes": (2 << 30) - 1}, "/condor-data")
    (found,) = [finding for finding in findings if finding.level == "warning"]
    assert "has 2047 MiB free, and jobs that need up to 2048 MiB" in found.text


def test_a_compressed_data_disk_costs_a_warning(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("data*.vmdk"):
        path.unlink()
    create_vmdk(tmp_path / "raw", folder / "data.vmdk", "streamOptimized")
    (found, _) = [finding for finding in check(folder) if finding.level == "warning"]
    assert found.text == "data.vmdk is compressed: it is converted anew for each job"
    assert "qemu-img convert -O vmdk" in found.remedy


def test_good_template_leaves_only_what_a_boot_would_tell(folder: Path) -> None:
    findings = check(folder)
    assert errors(findings) == []
    assert [f.remedy for f in findings if f.level == "warning"] == [
        "check it without --no-boot"
    ]
    assert any("FAT32 at 32256" in f.text for f in findings)
    assert list((folder.parent / "scratch").iterdir()) == []


def test_wrong_offset_names_the_right_one(folder: Path) -> None:
    (said,) = errors(check(folder, VM_CAPSULE_DISK_PART_OFFSET="1048576"))
    assert "1048576" in said
    assert "32256" in said.split(";")[1]


def test_missing_disk(folder: Path) -> None:
    (folder / "data.vmdk").unlink()
    (said,) = errors(check(folder))
    assert "no disk at" in said


def test_disk_that_is_no_vmdk(folder: Path) -> None:
    (folder / "system.vmdk").write_bytes(b"not a disk")
    assert len(errors(check(folder))) == 1


def test_kernel_without_a_command_line(folder: Path) -> None:
    (folder / "vmlinuz").touch()
    (said,) = errors(check(folder))
    assert "no template.json" in said


def test_label_that_our_guest_does_not_look_for(folder: Path) -> None:
    (folder / "template.json").write_text('{"format": 1, "cmdline": ""}')
    at = 32256 + 71
    with (folder / "data-flat.vmdk").open("r+b") as file:
        os.pwrite(file.fileno(), b"OTHER      ", at)
        data = file.read(2 * MIB)
        file.seek(data.rindex(b"CONDOR-DATA"))
        file.write(b"OTHER      ")
    assert any("label is 'OTHER'" in f.text for f in check(folder) if f.level == "warning")


def test_good_probe() -> None:
    findings = judge(GOOD, "/condor-data")
    assert {finding.level for finding in findings} == {"ok"}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("python", "3.5.2", "3.5.2 is too old"),
        ("python", "2.7.18", "2.7.18 is too old"),
        ("python", "", "too old"),
        ("uid", 1000, "uid 1000"),
        ("condor_user", False, "no user 'condor'"),
        ("mount_point", "/data", "VM_CAPSULE_DATA_DISK_MOUNT_POINT = /data"),
        ("writable_by_all", False, "not writable by all"),
    ],
)
def test_bad_probe(field: str, value: object, said: str) -> None:
    found = errors(judge({**GOOD, field: value}, "/condor-data"))
    assert len(found) == 1
    assert said in found[0]


def test_htcondor_that_the_record_speaks_of_is_looked_for() -> None:
    assert errors(judge(GOOD, "/condor-data", "25.1")) == []
    (found,) = errors(judge(GOOD, "/condor-data", "25"))
    assert "HTCondor 25 is not there" in found


@pytest.mark.parametrize(
    ("content", "level", "said"),
    [(b"one", "ok", "HTCondor 1 in it, the one of"), (b"two", "warning", "not that of")],
)
def test_the_templates_htcondor_is_compared_with_the_configured_one(
    folder: Path, content: bytes, level: str, said: str
) -> None:
    tarball = HTCondorTarball(folder.parent / "condor-1.tar", "1")
    tarball.path.write_bytes(b"one")
    record = {"format": 1, "condor": described(tarball)}
    (folder / "template.json").write_text(json.dumps(record))
    tarball.path.write_bytes(content)
    os.utime(tarball.path, (1, 1))
    found = check(folder, VM_CAPSULE_CONDOR_TARBALL=str(tarball.path))
    assert [f.level for f in found if said in f.text] == [level]


def test_probe_record_is_read() -> None:
    assert parse_probe(json.dumps({**GOOD, "more": 1}).encode()) == GOOD


@pytest.mark.parametrize("field", sorted(GOOD))
def test_probe_record_with_a_wrong_type(field: str) -> None:
    with pytest.raises(DiskError, match=f"'{field}'"):
        parse_probe(json.dumps({**GOOD, field: [1]}).encode())


def test_probe_record_that_is_too_deep() -> None:
    with pytest.raises(DiskError):
        parse_probe(b"[" * 60_000)


@given(st.binary(max_size=300))
def test_no_probe_record_breaks_the_check(data: bytes) -> None:
    with pytest.raises(DiskError):
        parse_probe(data)
