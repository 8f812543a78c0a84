"""Sparse disks that we write ourselves: QEMU is their judge."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from random import Random
from tempfile import TemporaryFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmcapsule import process
from vmcapsule.disk.extents import Extent
from vmcapsule.disk.vmdk import write as vmdk_write
from vmcapsule.disk.vmdk.vmdk import read_vmdk
from vmcapsule.disk.vmdk.write import GRAIN_BYTES, Source, sources_of, write_flat, write_sparse
from vmcapsule.errors import DiskError

MIB = 1 << 20


def written(folder: Path, size: int, pieces: list[tuple[int, bytes]]) -> Path:
    """A sparse disk made from a raw image of ``size`` with ``pieces`` in it, both kept."""
    with (folder / "raw").open("wb+") as raw:
        raw.truncate(size)
        for offset, data in pieces:
            os.pwrite(raw.fileno(), data, offset)
        inside = sources_of(raw.fileno(), size)
        write_sparse(inside, size, folder / "disk.vmdk", adapter="lsilogic")
    return folder / "disk.vmdk"


def judged(disk: Path) -> Path:
    """What QEMU reads there, after it has checked the disk."""
    checked = process.run(["qemu-img", "check", "-f", "vmdk", disk], timeout_s=60, check=False)
    assert checked.returncode in (0, 63), checked  # 63: there is nothing to check in it
    out = disk.with_name("judged")
    process.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", disk, out], timeout_s=60)
    return out


SECTORS = st.integers(1, (40 * MIB) // 512)
PIECES = st.lists(st.tuples(st.integers(0, 40 * MIB), st.integers(1, 200_000)), max_size=4)


@settings(max_examples=25)
@given(SECTORS, PIECES)
def test_qemu_reads_what_was_in_the_image(sectors: int, places: list[tuple[int, int]]) -> None:
    size = sectors * 512
    inside = [(at % size, min(n, size - at % size)) for at, n in places]
    with tempfile.TemporaryDirectory() as name:
        disk = written(Path(name), size, [(at, os.urandom(n)) for at, n in inside])
        assert judged(disk).read_bytes() == (disk.parent / "raw").read_bytes()


PLACES = st.lists(st.tuples(st.integers(0, 300_000), st.integers(1, 200_000)), max_size=6)


@settings(max_examples=25)
@given(PLACES, st.randoms())
def test_sources_of_other_files_and_orders_end_up_in_their_places(
    places: list[tuple[int, int]], random: Random
) -> None:
    size = 8 * MIB
    with tempfile.TemporaryDirectory() as name, TemporaryFile() as other:
        content = os.urandom(MIB)
        other.write(content)
        other.flush()
        wanted, sources, at = bytearray(size), [], 0
        for gap, length in places:
            at += gap
            wanted[at : at + length] = content[gap : gap + length]
            sources.append(Source(at, length, other.fileno(), gap))
            at += length
        random.shuffle(sources)
        disk = Path(name) / "disk.vmdk"
        write_sparse(sources, size, disk, adapter="ide")
        assert judged(disk).read_bytes() == wanted


def test_our_own_reader_takes_it(tmp_path: Path) -> None:
    disk = read_vmdk(written(tmp_path, 5 * MIB + 512, [(MIB, b"x")]))
    assert (disk.form, disk.capacity_bytes) == ("monolithicSparse", 5 * MIB + 512)
    assert disk.adapter == "lsilogic"


def test_a_large_disk_with_little_in_it_is_a_small_file(tmp_path: Path) -> None:
    size = 64 << 30
    disk = written(tmp_path, size, [(0, b"first"), (size - 4096, b"last" * 1024)])
    status = disk.stat()
    # Two grains, and two sets of tables: four bytes for each grain that there could be.
    assert status.st_size < 2 * GRAIN_BYTES + 8 * size // GRAIN_BYTES + 128 * 1024
    assert status.st_blocks * 512 < 512 * 1024
    read = judged(disk)
    assert read.stat().st_size == size
    with read.open("rb") as file:
        assert file.read(5) == b"first"
        file.seek(-8, os.SEEK_END)
        assert file.read() == b"lastlast"


def test_without_knowledge_of_holes_zeros_take_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vmdk_write, "data_extents", lambda fd, size: [Extent(0, size)])
    disk = written(tmp_path, 32 * MIB, [(20 * MIB, b"x")])
    assert disk.stat().st_size < MIB
    assert judged(disk).read_bytes() == (tmp_path / "raw").read_bytes()


def test_nothing_is_overwritten_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk.vmdk").write_text("mine")
    with pytest.raises(DiskError, match="cannot create .*exists"):
        written(tmp_path, MIB, [])
    assert (tmp_path / "disk.vmdk").read_text() == "mine"
    (tmp_path / "disk.vmdk").unlink()

    def shrank(*_: object) -> None:
        raise DiskError("a file shrank")

    monkeypatch.setattr(vmdk_write, "copy_to", shrank)
    with pytest.raises(DiskError, match="shrank"):
        written(tmp_path, MIB, [(0, b"x")])
    assert not (tmp_path / "disk.vmdk").exists()


def test_a_raw_image_becomes_a_flat_disk_by_its_descriptor(tmp_path: Path) -> None:
    flat = tmp_path / "disk-flat.vmdk"
    flat.write_bytes(os.urandom(MIB))
    write_flat(flat, tmp_path / "disk.vmdk", adapter="ide")
    disk = read_vmdk(tmp_path / "disk.vmdk")
    assert (disk.form, disk.capacity_bytes, disk.adapter) == ("monolithicFlat", MIB, "ide")
    assert judged(disk.path).read_bytes() == flat.read_bytes()
    with pytest.raises(DiskError, match="exists"):
        write_flat(flat, disk.path, adapter="ide")
