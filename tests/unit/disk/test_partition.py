"""Partition tables made by sfdisk, and damaged ones."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmcapsule import process
from vmcapsule.disk.extents import read_at, write_at
from vmcapsule.disk.partition import Partition, locate_fat, read_partitions
from vmcapsule.errors import DiskError, TemplateError, VmCapsuleError

SIZE = 64 << 20
MIB = 1 << 20


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, SIZE)
    yield fd
    os.close(fd)


def partition(tmp_path: Path, script: str) -> None:
    process.run(["sfdisk", "-q", tmp_path / "disk"], timeout_s=60, stdin=script)


def format_fat(tmp_path: Path, offset: int, size_kib: int = 4096) -> None:
    command = ["mkfs.vfat", "--offset", str(offset // 512), tmp_path / "disk", str(size_kib)]
    process.run(command, timeout_s=60)


DOS = """label: dos
start=2048, size=8192, type=83
start=10240, size=16384, type=c, bootable
start=28672, size=90000, type=5
start=30720, size=4096, type=83
start=40960, size=8192, type=6
start=53248, size=8192, type=82
"""

GPT = """label: gpt
start=2048, size=8192, type=U
start=10240, size=16384, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
start=28672, size=8192, type=L
"""


def test_an_mbr_with_logical_partitions(tmp_path, fd):
    partition(tmp_path, DOS)
    assert read_partitions(fd, SIZE) == (
        Partition(1, 1 * MIB, 4 * MIB, "linux"),
        Partition(2, 5 * MIB, 8 * MIB, "vfat"),
        Partition(5, 15 * MIB, 2 * MIB, "linux"),
        Partition(6, 20 * MIB, 4 * MIB, "vfat"),
        Partition(7, 26 * MIB, 4 * MIB, "linux-swap"),
    )


def test_a_gpt_and_its_second_copy(tmp_path, fd):
    partition(tmp_path, GPT)
    want = (
        Partition(1, 1 * MIB, 4 * MIB, "efi"),
        Partition(2, 5 * MIB, 8 * MIB, "data"),
        Partition(3, 14 * MIB, 4 * MIB, "linux"),
    )
    assert read_partitions(fd, SIZE) == want
    write_at(fd, 512 + 40, b"\xff")
    assert read_partitions(fd, SIZE) == want
    write_at(fd, SIZE - 512 + 40, b"\xff")
    with pytest.raises(DiskError, match="GPT partition table is damaged"):
        read_partitions(fd, SIZE)


def test_a_gpt_with_damaged_entries(tmp_path, fd):
    partition(tmp_path, GPT)
    write_at(fd, 1024 + 40, b"\x55")
    assert read_partitions(fd, SIZE)[0].length_bytes == 4 * MIB
    write_at(fd, SIZE - 33 * 512 + 40, b"\x55")
    with pytest.raises(DiskError, match="damaged"):
        read_partitions(fd, SIZE)


def test_a_gpt_header_in_the_wrong_place(tmp_path, fd):
    partition(tmp_path, GPT)
    write_at(fd, 512, read_at(fd, SIZE - 512, 512))
    write_at(fd, SIZE - 512, bytes(512))
    with pytest.raises(DiskError, match="damaged"):
        read_partitions(fd, SIZE)


def test_no_table(tmp_path, fd):
    assert read_partitions(fd, SIZE) == ()
    assert read_partitions(fd, 0) == ()
    with pytest.raises(DiskError, match="no vfat partition on the disk: there is zeros"):
        locate_fat(fd, SIZE, None)


@pytest.mark.parametrize("mbr", ["--mbr=n", "--mbr=y"])
def test_a_disk_that_is_one_volume(tmp_path, fd, mbr):
    process.run(["mkfs.vfat", mbr, tmp_path / "disk"], timeout_s=60)
    assert read_partitions(fd, SIZE) == ()
    assert locate_fat(fd, SIZE, None) == 0
    assert locate_fat(fd, SIZE, 0) == 0


def test_the_vfat_partition_is_found_by_its_content(tmp_path, fd):
    partition(tmp_path, DOS)
    format_fat(tmp_path, 20 * MIB)
    # The table says that partition 2 is vfat too, but it was never formatted.
    assert locate_fat(fd, SIZE, None) == 20 * MIB
    format_fat(tmp_path, 5 * MIB)
    assert locate_fat(fd, SIZE, None) == 5 * MIB
    assert locate_fat(fd, SIZE, 20 * MIB) == 20 * MIB


def test_a_classic_disk(tmp_path, fd):
    partition(tmp_path, "label: dos\nstart=63, type=c\n")
    format_fat(tmp_path, 32256)
    assert locate_fat(fd, SIZE, None) == 32256
    assert locate_fat(fd, SIZE, 32256) == 32256
    with pytest.raises(TemplateError) as caught:
        locate_fat(fd, SIZE, 63)  # sectors, not bytes
    assert "set VM_CAPSULE_DISK_PART_OFFSET = 32256 or unset it" in str(caught.value)


def test_what_is_found_at_a_wrong_offset_is_named(tmp_path, fd):
    partition(tmp_path, DOS)
    format_fat(tmp_path, 5 * MIB)
    disk = tmp_path / "disk"
    mkfs = ["mkfs.ext4", "-q", "-F", "-E", f"offset={MIB}", disk, "4096k"]
    process.run(mkfs, timeout_s=60)
    write_at(fd, 15 * MIB + 3, b"NTFS    ")
    write_at(fd, 26 * MIB, b"some text")
    for offset, what in (
        (MIB, "an ext4 file system"),
        (15 * MIB, "an NTFS boot sector"),
        (0, "an MBR partition table"),
        (26 * MIB, "something that is no file system"),
        (40 * MIB, "zeros"),
        (SIZE, "nothing \\(the disk has 67108864 bytes\\)"),
        (-512, "nothing"),
    ):
        with pytest.raises(TemplateError, match=f"= {offset}: found {what}") as caught:
            locate_fat(fd, SIZE, offset)
        assert "a vfat partition starts at 5242880" in caught.value.remedy


@pytest.mark.parametrize(("features", "kind"), [("", "ext2"), ("-j", "ext3")])
def test_older_linux_file_systems(tmp_path, fd, features, kind):
    process.run(["mkfs.ext2", "-q", "-F", *features.split(), tmp_path / "disk"], timeout_s=60)
    with pytest.raises(TemplateError, match=f"an {kind} file system; no vfat partition"):
        locate_fat(fd, SIZE, 0)


def test_without_any_vfat_the_partitions_are_named(tmp_path, fd):
    partition(tmp_path, "label: dos\nstart=2048, size=8192\n")
    with pytest.raises(DiskError, match="zeros in partition 1"):
        locate_fat(fd, SIZE, None)


def test_a_partition_past_the_end(tmp_path, fd):
    partition(tmp_path, DOS)
    with pytest.raises(DiskError, match="partition 2 .* within the disk"):
        read_partitions(fd, 10 * MIB)
    # A wrong table is part of the message about a wrong offset, not the end of it.
    with pytest.raises(TemplateError, match="partition 2"):
        locate_fat(fd, 10 * MIB, 0)


def test_a_chain_of_logical_partitions_in_a_circle(tmp_path, fd):
    partition(tmp_path, DOS)
    base = 28672
    second = read_at(fd, base * 512 + 446 + 16, 16)
    start = struct.unpack_from("<I", second, 8)[0]
    link = b"\0\0\0\0\x05\0\0\0" + struct.pack("<II", start, 8)
    write_at(fd, (base + start) * 512 + 446 + 16, link)
    with pytest.raises(DiskError, match="circle"):
        read_partitions(fd, SIZE)


def test_a_chain_of_logical_partitions_that_leaves_the_extended_one(tmp_path, fd):
    partition(tmp_path, DOS)
    link = b"\0\0\0\0\x05\0\0\0" + struct.pack("<II", 100_000, 8)
    write_at(fd, 28672 * 512 + 446 + 16, link)
    with pytest.raises(DiskError, match="leaves"):
        read_partitions(fd, SIZE)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    script=st.sampled_from([DOS, GPT]),
    flips=st.lists(st.tuples(st.integers(0, 8), st.integers(440, 511), st.integers(0, 255))),
)
def test_flipped_bytes_raise_only_our_errors(tables, script, flips):
    fd, places, saved = tables[script]
    try:
        for place, where, value in flips:
            at = places[place % len(places)] + (where if place else where - 440)
            write_at(fd, at, bytes([value]))
        with suppress(VmCapsuleError):
            for found in read_partitions(fd, SIZE):
                assert 0 < found.offset_bytes <= SIZE - found.length_bytes
        with suppress(VmCapsuleError):
            locate_fat(fd, SIZE, None)
    finally:
        for at, data in saved:
            write_at(fd, at, data)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """For each script: an open disk, where its tables lie, and what they were."""
    made = {}
    for script in (DOS, GPT):
        folder = tmp_path_factory.mktemp("disk")
        fd = os.open(folder / "disk", os.O_RDWR | os.O_CREAT)
        os.truncate(fd, SIZE)
        partition(folder, script)
        places = [512, 0, 28672 * 512, 1024]
        if script == DOS:
            places = [0, 0, 28672 * 512, (28672 + 10240) * 512]
        made[script] = (fd, places, [(at, read_at(fd, at, 512)) for at in places])
    yield made
    for fd, _, _ in made.values():
        os.close(fd)
