"""What is copied of a disk: all that a vfat volume uses, nothing that it does not."""

from __future__ import annotations

import os
import tempfile
from array import array
from pathlib import Path
from random import Random
from typing import Dict, Iterable, List, Optional, Set, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.disk.test_costs import Calls
from tests.unit.disk_volumes import (
    Kind,
    complaints,
    copied,
    format_volume,
    mtools_tree,
    opened,
    our_tree,
    put,
    pyfatfs_tree,
    whole,
)
from tests.unit.edits import put_files
from vmcapsule import process
from vmcapsule.disk.content import BLOCK_BYTES, content
from vmcapsule.disk.disk_map import DiskMap
from vmcapsule.disk.empty_disk import build_data_disk
from vmcapsule.disk.extents import Extent
from vmcapsule.disk.fat.boot import Geometry, read_geometry
from vmcapsule.disk.fat.table import _pack
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.partition import locate_fat
from vmcapsule.disk.vmdk.write import Source
from vmcapsule.errors import DiskError, TemplateError

MIB = 1 << 20
KINDS = (
    Kind(12, 4 * MIB, 4, 32256),
    Kind(12, 2 * MIB, 1, 0),
    Kind(16, 9 * MIB, 4, 0),
    Kind(16, 9 * MIB, 2, MIB),
    Kind(32, 34 * MIB, 1, 32256),
    Kind(32, 36 * MIB, 1, MIB),
    Kind(32, 140 * MIB, 4, MIB),
)


def preallocated(path: Path, kind: Kind) -> Path:
    """A blank volume on a disk that has every byte, all of them stale."""
    path.write_bytes(Random(1).randbytes(kind.offset_bytes + kind.size_bytes))
    return format_volume(path, kind)


def content_of(image: Path, offset: Optional[int]) -> List[Extent]:
    with image.open("rb") as file:
        return list(content(whole(file.fileno(), image.stat().st_size), offset))


def blocks(extents: Iterable[Extent]) -> Set[int]:
    found: Set[int] = set()
    for at, length in extents:
        assert at % BLOCK_BYTES == 0
        more = range(at // BLOCK_BYTES, -(-(at + length) // BLOCK_BYTES))
        assert length > 0 and found.isdisjoint(more)
        found.update(more)
    return found


def entry(fat: bytes, bits: int, cluster: int) -> int:
    """One by one, as the specification has it."""
    if bits == 12:
        pair = int.from_bytes(fat[cluster * 3 // 2 : cluster * 3 // 2 + 2], "little")
        return pair >> 4 if cluster % 2 else pair & 0xFFF
    width = bits // 8
    value = int.from_bytes(fat[cluster * width : (cluster + 1) * width], "little")
    return value & 0x0FFFFFFF


def wanted_blocks(image: Path, volume: int) -> Set[int]:
    """The blocks in which there is a byte that is not known to be unused."""
    with image.open("rb") as file:
        geometry = read_geometry(file.fileno(), volume)
    data = image.read_bytes()
    # A block that the disk's end cuts off is no hole.
    data += b"\1" * (-len(data) % BLOCK_BYTES)
    used = bytearray(b"\1" * len(data))
    gap = len(data[:volume].rstrip(b"\0"))
    used[gap:volume] = bytes(volume - gap)
    fat = data[geometry.fat_offset : geometry.fat_offset + geometry.fat_bytes]
    bits = geometry.bits
    free = [n for n in range(2, geometry.cluster_count + 2) if entry(fat, bits, n) == 0]
    nibbles = bytearray(b"\1" * (2 * geometry.fat_bytes))
    for cluster in free:
        at = geometry.cluster_offset(cluster)
        used[at : at + geometry.cluster_bytes] = bytes(geometry.cluster_bytes)
        nibbles[cluster * bits // 4 : (cluster + 1) * bits // 4] = bytes(bits // 4)
    in_fat = bytes(a | b for a, b in zip(nibbles[::2], nibbles[1::2]))
    for copy in range(geometry.fat_copies):
        at = geometry.fat_offset + copy * geometry.fat_bytes
        used[at : at + geometry.fat_bytes] = in_fat
    return {at // BLOCK_BYTES for at in range(0, len(data), BLOCK_BYTES)
            if used.find(1, at, at + BLOCK_BYTES) >= 0}  # fmt: skip


def scarred(image: Path, kind: Kind) -> Dict[str, bytes]:
    """Files in folders and pieces, with what was deleted between them."""
    random, size = Random(2), kind.cluster_sectors * 512
    old = {f"d{n % 3}/old file {n}": random.randbytes(size * (n % 4) + n) for n in range(60)}
    put(image, kind, old, folders=["an empty folder/in/another"])
    gone = [path for number, path in enumerate(old) if number % 3 == 0]
    with opened(image, kind) as volume:
        # Nothing is written to it: what was there before stays.
        lay_out(volume, {"all the rest": volume.free_bytes}).write()
    put(image, kind, {}, remove=gone)
    new = {"in pieces": random.randbytes(40 * size), "d1/below/x": b"x", "empty": b""}
    put(image, kind, new)
    put(image, kind, {}, remove=["all the rest"])
    with opened(image, kind) as volume:
        pieces = volume.lookup("in pieces")
        assert pieces is not None and len(pieces.extents) > 5
    return {**{path: data for path, data in old.items() if path not in gone}, **new}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_file_is_there_and_nothing_else(tmp_path: Path, kind: Kind) -> None:
    image = preallocated(tmp_path / "v.img", kind)
    files = scarred(image, kind)
    copy = copied(image, kind.offset_bytes, tmp_path / "copy.img")
    assert complaints(copy, kind, tmp_path) == ""
    with opened(copy, kind) as volume:
        assert our_tree(volume) == files
        assert volume.find("an empty folder/in/another") is not None
    assert pyfatfs_tree(copy, kind) == files
    assert mtools_tree(copy, kind, tmp_path / "out") == files
    assert blocks(content_of(image, kind.offset_bytes)) == wanted_blocks(
        image, kind.offset_bytes
    )
    # The stale bytes of the gap and of the boot area stay, half a MiB at most.
    used = sum(-(-len(data) // 512) * 512 for data in files.values())
    assert copy.stat().st_blocks * 512 < 2 * used + kind.offset_bytes + MIB // 2


def linked(fd: int, geometry: Geometry, runs: List[Tuple[int, int]], value: int) -> None:
    """A FAT in which so many clusters are free, then so many used, and so on."""
    count = geometry.cluster_count + 2
    mask = (1 << geometry.bits) - 1
    entries = array("I" if geometry.bits == 32 else "H", bytes(4 * count))[:count]
    entries[0], entries[1] = mask & 0x0FFFFFF8, mask & 0x0FFFFFFF
    at = 2
    for gap, length in runs:
        at += gap
        for cluster in range(at, min(at + length, count)):
            entries[cluster] = value & mask
        at += length
    for copy in range(geometry.fat_copies):
        place = geometry.fat_offset + copy * geometry.fat_bytes
        os.pwrite(fd, _pack(entries, geometry.bits), place)


RUNS = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 300)), max_size=12)
#: The end of a chain, a neighbour, a bad cluster, and what FAT32 takes for free.
VALUES = st.sampled_from([0xFFFFFFFF, 5, 0x0FFFFFF7, 0xF0000000])


@settings(max_examples=max(settings().max_examples // 5, 10), deadline=None)
@given(kind=st.sampled_from(KINDS[:5]), runs=RUNS, value=VALUES)
def test_what_any_fat_says_is_used_is_copied(
    kind: Kind, runs: List[Tuple[int, int]], value: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / "v.img"
        image.write_bytes(b"stale" * ((kind.offset_bytes + kind.size_bytes) // 5 + 1))
        os.truncate(image, kind.offset_bytes + kind.size_bytes)
        format_volume(image, kind)
        with image.open("rb+") as file:
            geometry = read_geometry(file.fileno(), kind.offset_bytes)
            linked(file.fileno(), geometry, runs, value)
        assert blocks(content_of(image, kind.offset_bytes)) == wanted_blocks(
            image, kind.offset_bytes
        )


def test_half_a_byte_of_a_fat12_keeps_its_block(tmp_path: Path) -> None:
    """Entry 682 is used and ends in the first byte of a block, 683 begins there."""
    kind = Kind(12, 4 * MIB, 2, 0)
    (tmp_path / "v.img").write_bytes(b"stale" * MIB)
    os.truncate(tmp_path / "v.img", kind.size_bytes)
    image = format_volume(tmp_path / "v.img", kind, "-R", "6")
    with image.open("rb+") as file:
        geometry = read_geometry(file.fileno(), 0)
        linked(file.fileno(), geometry, [(0, 681)], 0xFFF)
    assert geometry.fat_offset + 682 * 3 // 2 + 1 == BLOCK_BYTES
    assert 1 in blocks(content_of(image, 0))


DOS = """label: dos
start=2048, size=6144, type=83
start=10240, size=18432, type=c
start=28672, size=20000, type=83
"""
GPT = """label: gpt
start=2048, size=6144, type=L
start=10240, size=18432, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
start=28672, size=20000, type=L
"""


@pytest.mark.parametrize("script", [DOS, GPT], ids=["DOS", "GPT"])
@pytest.mark.parametrize("zeros", [False, True])
def test_what_is_beside_the_volume_is_kept(tmp_path: Path, script: str, zeros: bool) -> None:
    kind = Kind(16, 9 * MIB, 2, 5 * MIB)
    disk = tmp_path / "disk"
    disk.write_bytes(Random(3).randbytes(32 * MIB))
    with disk.open("rb+") as file:
        file.write(bytes(MIB if zeros else 512))
    argv = ["sfdisk", "-q", "--wipe=never", "--wipe-partitions=never", disk]
    process.run(argv, timeout_s=60, stdin=script)
    format_volume(disk, kind)
    put(disk, kind, {"folder/file": b"content" * 10_000})
    copy = copied(disk, None, tmp_path / "copy")
    before, after = disk.read_bytes(), copy.read_bytes()
    assert after[: 5 * MIB] == before[: 5 * MIB]
    assert after[14 * MIB :] == before[14 * MIB :]
    assert after[5 * MIB : 14 * MIB] != before[5 * MIB : 14 * MIB]
    assert mtools_tree(copy, kind, tmp_path / "out") == {"folder/file": b"content" * 10_000}
    with copy.open("rb") as opened_copy:
        assert locate_fat(opened_copy.fileno(), 32 * MIB, None) == 5 * MIB


@pytest.mark.parametrize("script", [DOS, GPT], ids=["DOS", "GPT"])
def test_a_volume_that_is_larger_than_its_partition_is_copied_with_all_behind_it(
    tmp_path: Path, script: str
) -> None:
    """As mkfs.vfat makes it that is told where to begin, and not where to end."""
    kind = Kind(16, 27 * MIB, 4, 5 * MIB)
    disk = tmp_path / "disk"
    disk.write_bytes(Random(3).randbytes(32 * MIB))
    with disk.open("rb+") as file:
        file.write(bytes(512))
    argv = ["sfdisk", "-q", "--wipe=never", "--wipe-partitions=never", disk]
    process.run(argv, timeout_s=60, stdin=script)
    format_volume(disk, kind)
    assert copied(disk, None, tmp_path / "copy").read_bytes() == disk.read_bytes()


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3], KINDS[5]], ids=str)
@pytest.mark.parametrize("damage", ["beginning", "second copy", "end of the second copy"])
def test_a_damaged_fat_is_copied_whole(tmp_path: Path, kind: Kind, damage: str) -> None:
    image = preallocated(tmp_path / "v.img", kind)
    scarred(image, kind)
    before = content_of(image, kind.offset_bytes)
    with image.open("rb+") as file:
        geometry = read_geometry(file.fileno(), kind.offset_bytes)
        at = geometry.fat_offset
        places = {
            "beginning": [at, at + geometry.fat_bytes],
            "second copy": [at + geometry.fat_bytes + 90],
            "end of the second copy": [at + 2 * geometry.fat_bytes - 1],
        }
        for place in places[damage]:
            byte = os.pread(file.fileno(), 1, place)[0]
            os.pwrite(file.fileno(), bytes([byte ^ 0x40]), place)
    assert len(before) > 1
    assert content_of(image, kind.offset_bytes) == [Extent(0, image.stat().st_size)]
    copy = copied(image, kind.offset_bytes, tmp_path / "copy.img")
    assert copy.read_bytes() == image.read_bytes()


def test_a_disk_without_a_volume_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(3 * MIB))
    with pytest.raises(DiskError, match="no vfat partition on the disk: there is zeros"):
        content_of(tmp_path / "disk", None)
    with pytest.raises(TemplateError, match="no vfat file system at .* = 512"):
        content_of(tmp_path / "disk", 512)


def formatted(path: Path, cluster_sectors: int) -> Path:
    """An empty disk of 8 GiB as mkfs.vfat makes it, or we (0)."""
    build_data_disk(path, size_bytes=8 << 30, offset_bytes=MIB)
    if cluster_sectors:
        format_volume(path, Kind(32, (8 << 30) - MIB, cluster_sectors, MIB))
    return path


@pytest.mark.parametrize("cluster_sectors", [0, 8])
def test_a_preallocated_disk_costs_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster_sectors: int
) -> None:
    disk = formatted(tmp_path / "disk", cluster_sectors)
    with disk.open("rb+") as file:
        names = {f"folder/file {number}": 20_000 for number in range(500)}
        put_files(
            FatVolume.open(file.fileno(), MIB),
            {name: b"x" * size for name, size in names.items()},
        )
        geometry = read_geometry(file.fileno(), MIB)
    clusters = sum(-(-size // geometry.cluster_bytes) for size in names.values())
    calls = Calls(monkeypatch)
    copy = copied(disk, None, tmp_path / "copy")
    moved = calls.moved["copy_file_range"] + calls.moved["sendfile"]
    assert moved < clusters * geometry.cluster_bytes + MIB // 2
    assert calls.count["copy_file_range"] + calls.count["sendfile"] < 10
    # Of each FAT once to compare, of the first to search.
    assert calls.moved["pread"] < 3 * geometry.fat_bytes + 2 * MIB
    assert calls.count["pread"] < 150
    assert copy.stat().st_blocks * 512 <= moved + MIB // 2
    monkeypatch.undo()
    with copy.open("rb") as opened_copy:
        assert FatVolume.open(opened_copy.fileno(), MIB).read("folder/file 7", MIB) == (
            b"x" * 20_000
        )


def test_little_is_copied_without_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own template's FATs are not read for each job."""
    disk = formatted(tmp_path / "disk", 0)
    with disk.open("rb") as file:
        calls = Calls(monkeypatch)
        known = DiskMap(8 << 30, [Source(0, MIB, file.fileno(), 0)])
        assert list(content(known, MIB)) == [Extent(0, 8 << 30)]
    assert calls.moved["pread"] == 0
