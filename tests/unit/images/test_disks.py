"""The template's disks: partition tables, FAT layouts, the boot configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.edits import make_data_disk, put_files, stage_onto
from vmcapsule import contract
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.empty_disk import LABEL, build_data_disk
from vmcapsule.disk.fat.boot import read_geometry
from vmcapsule.disk.fat.format import (
    ALIGN_BYTES,
    FAT32_CLUSTERS_MIN,
    FIRST_FILE_ALIGN_BYTES,
    fat_layout,
)
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.mbr import Partition, mbr
from vmcapsule.disk.partition import locate_fat, read_partitions
from vmcapsule.errors import TemplateError, UsageError
from vmcapsule.guest import staging
from vmcapsule.images.recipe import filled, load_recipe
from vmcapsule.images.template_build import DIRECT_CMDLINE, DISK_CMDLINE, _vmx
from vmcapsule.process import run
from vmcapsule.template.template import parse_vmx, vmx_disks
from vmcapsule.transfer import sandbox

MIB = 1 << 20


@pytest.mark.parametrize("offset", [MIB, 32256])
@pytest.mark.parametrize("size", [4 << 30, 300 * MIB, 24 * MIB])
def test_data_disk_has_an_aligned_labeled_volume(
    tmp_path: Path, offset: int, size: int
) -> None:
    raw = tmp_path / "data.raw"
    build_data_disk(raw, size_bytes=size, offset_bytes=offset)
    fd = os.open(raw, os.O_RDONLY)
    try:
        assert locate_fat(fd, size, None) == offset
        volume = FatVolume.open(fd, offset)
        assert volume.label == LABEL
        assert not volume.dirty
        assert volume.bits == (32 if size > 34 * MIB else 16)
        assert volume.free_bytes > size * 0.97 - 2 * MIB
        heap = offset + 512 * fat_layout(offset, size - offset).heap_sector
        assert heap % ALIGN_BYTES == 0
        assert read_geometry(fd, offset).data_offset == heap
    finally:
        os.close(fd)
    assert raw.stat().st_blocks * 512 < 2 * MIB


@pytest.mark.parametrize("offset", [32256, MIB])
@pytest.mark.parametrize("size", [4 << 30, 300 * MIB])
def test_what_is_put_first_lies_where_linux_writes_fast(
    tmp_path: Path, offset: int, size: int
) -> None:
    disk = make_data_disk(tmp_path / "data.vmdk", size_bytes=size, offset_bytes=offset)
    (tmp_path / "large").write_bytes(bytes(2 * MIB))
    load = staging.packed(
        sandbox.tree(str(tmp_path / "large"), "large"),
        texts=[("init", b"#"), ("vmcapsule/x", b"y")],
    )
    stage_onto(load, DataDisk(disk))
    with DataDisk(disk).opened(tmp_path) as volume:
        pack = volume.lookup(contract.INPUT_PACK % 0)
    assert pack is not None
    assert pack.extents[0].offset_bytes % FIRST_FILE_ALIGN_BYTES == 0


def test_four_gib_has_clusters_of_32_kib() -> None:
    assert fat_layout(MIB, (4 << 30) - MIB).cluster_sectors == 64


@given(st.integers(1, 5000), st.integers((15 << 20) // 512, (2 << 40) // 512))
def test_a_layout_is_one_that_the_specification_allows(start: int, sectors: int) -> None:
    layout = fat_layout(start * 512, sectors * 512)
    low, high = (FAT32_CLUSTERS_MIN, 1 << 28) if layout.bits == 32 else (4085, 65524)
    assert low <= layout.clusters <= high
    assert (layout.clusters + 2) * layout.bits <= layout.fat_sectors * 512 * 8
    assert (start + layout.heap_sector) % 8 == 0
    assert layout.heap_sector < sectors * 0.04 + 64


@pytest.mark.parametrize("start", [1, 63, 2048])
@pytest.mark.parametrize("size", [15 * MIB, 33 * MIB, 34 * MIB, 150 * MIB + 512, 2 << 30])
def test_other_programs_find_nothing_to_complain_of(
    tmp_path: Path, start: int, size: int
) -> None:
    """fsck.vfat reads a volume only at a file's start: there, the layout is the same."""
    whole, alone = tmp_path / "disk", tmp_path / "volume"
    build_data_disk(whole, size_bytes=size + start * 512, offset_bytes=start * 512)
    with whole.open("rb") as file:
        file.seek(start * 512)
        alone.write_bytes(file.read(4 * MIB))  # all that is not zeros
    os.truncate(alone, size)
    with alone.open("r+b") as file:
        put_files(FatVolume.open(file.fileno(), 0), {"A long name": b"x" * 100_000})
    run(["fsck.vfat", "-n", alone], timeout_s=60)
    listed = run(["mdir", "-b", "-i", alone, "::"], timeout_s=60).stdout.decode()
    assert "A long name" in listed
    assert LABEL in run(["mlabel", "-s", "-i", alone, "::"], timeout_s=60).stdout.decode()


@pytest.mark.parametrize("offset", [0, 100, -512])
def test_offset_that_is_no_sector(offset: int) -> None:
    with pytest.raises(UsageError, match=f"cannot begin at {offset}"):
        fat_layout(offset, 64 * MIB)


def test_disk_that_is_too_small() -> None:
    with pytest.raises(UsageError, match="too small"):
        fat_layout(MIB, 14 * MIB)


def test_mbr_is_read_back(tmp_path: Path) -> None:
    parts = [Partition(MIB, 2 * MIB, 0x0E, active=True), Partition(3 * MIB, MIB, 0x83)]
    raw = tmp_path / "raw"
    raw.write_bytes(mbr(parts, b"\xfa" * 1000).ljust(4 * MIB, b"\0"))
    fd = os.open(raw, os.O_RDONLY)
    try:
        found = read_partitions(fd, 4 * MIB)
    finally:
        os.close(fd)
    assert [(p.offset_bytes, p.length_bytes, p.kind) for p in found] == [
        (MIB, 2 * MIB, "vfat"),
        (3 * MIB, MIB, "linux"),
    ]


def test_mbr_keeps_the_boot_code_out_of_the_table() -> None:
    sector = mbr([Partition(MIB, MIB, 0x0E, active=True)], b"\xfa" * 1000)
    assert len(sector) == 512
    assert sector[:440] == b"\xfa" * 440
    assert sector[440:446] == bytes(6)
    assert sector[446] == 0x80


def test_syslinux_gets_the_command_line() -> None:
    text = filled(load_recipe().syslinux, {"cmdline": "root=UUID=1 quiet"})
    assert "append root=UUID=1 quiet\n" in text
    assert "initrd initrd.img" in text


def test_a_stray_name_in_the_recipe_is_told() -> None:
    with pytest.raises(TemplateError, match="colour"):
        filled("${colour}", {"cmdline": ""})


def test_both_boots_find_the_same_root_and_data() -> None:
    for text in (DISK_CMDLINE, DIRECT_CMDLINE):
        line = filled(text, {"uuid": "u-1", "label": LABEL}).split()
        assert "root=UUID=u-1" in line
        assert f"vmcapsule.data=LABEL={LABEL}" in line
        assert line.count("console=ttyS0") == 1


def test_the_vmx_names_both_disks_and_no_network() -> None:
    settings = parse_vmx(_vmx(load_recipe()))
    assert vmx_disks(settings) == ("system.vmdk", "data.vmdk")
    assert settings["ethernet0.present"] == "FALSE"
    assert settings["serial0.filetype"] == "file"
    assert int(settings["memsize"]) % 4 == 0


@pytest.mark.parametrize("script", ["init", "initrd_init", "udhcpc"])
def test_guest_scripts_are_shell(script: str) -> None:
    text = getattr(load_recipe(), script)
    assert subprocess.run(["sh", "-n"], input=text).returncode == 0
    assert text.startswith(b"#!/bin/busybox sh\n")
