"""Which template it is: the same of every copy, another of every other template."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Callable

import pytest

from tests.unit.returned import small_template
from vmcapsule.errors import TemplateError
from vmcapsule.template.likeness import likeness
from vmcapsule.template.template import load


@pytest.fixture
def template(tmp_path: Path) -> Path:
    root = Path(small_template(tmp_path)["VM_CAPSULE_TEMPLATE"])
    (root / "condor_vm_capsule" / "vmlinuz").write_bytes(os.urandom(1 << 20))
    (root / "condor_vm_capsule" / "template.json").write_text('{"format": 1}')
    return root


def like(root: Path) -> str:
    return likeness(load(root))


def test_copies_are_alike_wherever_they_are(template: Path, tmp_path: Path) -> None:
    shutil.copytree(template, tmp_path / "other" / "place")
    assert like(template) == like(tmp_path / "other" / "place")
    assert len(like(template)) == 32


def grown(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"\0" * 512)


def other_beginning(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def other_end(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("change", [grown, other_beginning, other_end])
def test_another_kernel_is_another_template(
    template: Path, change: Callable[[Path], None]
) -> None:
    before = like(template)
    change(template / "condor_vm_capsule" / "vmlinuz")
    assert like(template) != before


@pytest.mark.parametrize("name", ["vm.vmx", "system.vmdk", "template.json", "data-flat.vmdk"])
def test_each_of_its_files_counts(template: Path, name: str) -> None:
    before = like(template)
    file = template / "condor_vm_capsule" / name
    text = file.read_bytes()
    # What stands in it still means the same; of the disks it is what is behind their data.
    file.write_bytes(text.replace(b'"format": 1', b'"format":  1') + b"\n")
    assert like(template) != before


def test_files_that_are_no_part_of_it_do_not_count(template: Path) -> None:
    before = like(template)
    (template / "condor_vm_capsule" / "notes.txt").write_text("mine")
    assert like(template) == before


def test_a_file_that_cannot_be_read_is_named(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load(template)
    (template / "condor_vm_capsule" / "vmlinuz").unlink()
    with pytest.raises(TemplateError, match=r"vmlinuz' cannot be read: No such file"):
        likeness(found)
