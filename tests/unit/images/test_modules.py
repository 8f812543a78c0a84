"""Kernel modules for the initrd: closure, order, the shell that matches devices."""

from __future__ import annotations

import lzma
import subprocess
from pathlib import Path
from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.errors import TemplateError
from vmcapsule.images.modules import (
    ModuleIndex,
    ModuleWish,
    coldplug_script,
    load_order,
    module_bytes,
    module_name,
    parse_index,
    parse_wishes,
    wanted,
    without_signature,
)
from vmcapsule.images.recipe import load_recipe

DEP = """\
kernel/drivers/ata/ahci.ko.xz: kernel/drivers/ata/libahci.ko.xz kernel/drivers/ata/libata.ko.xz
kernel/drivers/ata/libahci.ko.xz: kernel/drivers/ata/libata.ko.xz
kernel/drivers/ata/libata.ko.xz:
kernel/drivers/block/virtio_blk.ko.xz:
kernel/drivers/scsi/sd_mod.ko.xz:
kernel/fs/nls/nls_iso8859-1.ko.xz:
"""
ALIAS = """\
# Aliases extracted from modules themselves.
alias pci:v00008086d00002922sv*sd*bc*sc*i* ahci
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias virtio:d00000002v* virtio_blk
alias block-major-8-* sd_mod
"""
INDEX = parse_index(DEP, ALIAS)


def loaded(wishes: List[ModuleWish], calls: str) -> List[str]:
    """Run the generated shell with a ``load`` that only says what it was asked for."""
    script = 'load() { for m; do echo "$m"; done; }\n' + coldplug_script(INDEX, wishes) + calls
    result = subprocess.run(["sh", "-eu"], input=script, capture_output=True, text=True)
    assert result.stderr == ""
    return result.stdout.split()


def test_dependencies_are_loaded_first() -> None:
    assert load_order(INDEX, ["ahci", "sd_mod"]) == ("libata", "libahci", "ahci", "sd_mod")


def test_what_the_kernel_has_no_module_for_is_left_out() -> None:
    assert load_order(INDEX, ["nvme", "virtio_blk"]) == ("virtio_blk",)


def test_names_are_normalized() -> None:
    assert module_name("kernel/fs/nls/nls_iso8859-1.ko.xz") == "nls_iso8859_1"
    wishes = parse_wishes("always nls_iso8859-1")
    assert wanted(INDEX, wishes) == ("nls_iso8859_1",)


def test_list_is_parsed() -> None:
    text = "# why\n\n  always vfat # at once\ndevice ahci sd_mod\n"
    assert parse_wishes(text) == (
        ModuleWish("vfat", True),
        ModuleWish("ahci", False, ("sd_mod",)),
    )


@pytest.mark.parametrize("line", ["ahci", "always", "sometimes ahci"])
def test_malformed_line_is_named(line: str) -> None:
    with pytest.raises(TemplateError, match=f"line 2 .*'{line}'"):
        parse_wishes(f"always x\n{line}\n")


def test_a_device_gets_its_driver_and_what_hangs_on_it() -> None:
    wishes = [ModuleWish("ahci", False, ("sd_mod",)), ModuleWish("virtio_blk", False)]
    q35 = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"
    assert loaded(wishes, f"load_for {q35}\n") == ["libata", "libahci", "ahci", "sd_mod"]
    assert loaded(wishes, "load_for virtio:d00000002v00001AF4\n") == ["virtio_blk"]


def test_a_device_of_no_interest_gets_nothing() -> None:
    wishes = [ModuleWish("ahci", False), ModuleWish("virtio_blk", False)]
    assert loaded(wishes, "load_for pci:v00001234d00001111sv0sd0bc03sc00i00\n") == []


def test_always_is_loaded_without_a_device() -> None:
    wishes = [ModuleWish("nls_iso8859_1", True), ModuleWish("nvme", True)]
    assert loaded(wishes, "load_always\n") == ["nls_iso8859_1"]


def test_nothing_to_load_is_still_a_shell_script() -> None:
    assert loaded([], "load_always; load_for pci:x\n") == []


def test_an_alias_that_is_shell_code_is_refused() -> None:
    index = ModuleIndex({"x": "x.ko"}, {"x": ()}, {"x": ("pci:$(reboot)",)})
    with pytest.raises(TemplateError, match="claims devices as"):
        coldplug_script(index, [ModuleWish("x", False)])


def test_the_recipe_covers_qemu_and_vmware() -> None:
    names = {wish.name for wish in load_recipe().modules}
    assert {"virtio_blk", "ata_piix", "ahci", "mptspi", "vmw_pvscsi", "vfat"} <= names


def test_modules_are_decompressed(tmp_path: Path) -> None:
    path = tmp_path / "a.ko.xz"
    path.write_bytes(lzma.compress(b"\x7fELF module"))
    assert module_bytes(path) == b"\x7fELF module"


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_signature_is_cut_off(module: bytes, signature: bytes) -> None:
    info = bytes(8) + len(signature).to_bytes(4, "big")
    signed = b"\x7fELF" + module + signature + info + b"~Module signature appended~\n"
    assert without_signature(signed) == b"\x7fELF" + module


@given(st.binary(max_size=200))
def test_what_only_ends_like_a_signature_does_not_break_it(data: bytes) -> None:
    assert data.startswith(without_signature(data))
    odd = data + b"~Module signature appended~\n"
    assert odd.startswith(without_signature(odd))
