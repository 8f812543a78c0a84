"""A tree arrives on a data disk as it was, whatever the sizes, wherever there is room."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.edits import raw_edit
from tests.unit.sandbox_memory import deliver, stage
from tests.unit.transfer.test_costs import data_disk
from vmcapsule.disk.extents import Extent
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import DiskError, InputError
from vmcapsule.guest import staging
from vmcapsule.process import run
from vmcapsule.transfer.entries import Stretch
from vmcapsule.transfer.pack import Pieces

SMALL = staging.SMALL_BYTES
SIZES = (0, 1, 511, SMALL - 1, SMALL, SMALL + 1, 3 * SMALL, (1 << 20) + 7)


def in_pieces(disk: Path) -> None:
    """Leave room in many places only."""
    with raw_edit(disk, disk.parent) as raw:
        volume = FatVolume.open(raw.fd, 1 << 20)
        names = [f"f{number}" for number in range(800)]
        lay_out(volume, dict.fromkeys(names, 12_000)).write()
        volume.forget()
        rest = volume.free_bytes - 64 * volume.cluster_bytes
        lay_out(volume, {"rest": rest}, remove=names[::2]).write()


@pytest.mark.parametrize("pieces", [False, True])
def test_files_of_all_sizes_come_back_as_they_were(tmp_path: Path, pieces: bool) -> None:
    disk = data_disk(tmp_path / "data.vmdk", 64 << 20)
    if pieces:
        in_pieces(disk)
    tree, out = tmp_path / "tree", tmp_path / "out"
    tree.mkdir()
    out.mkdir()
    for number in range(40):
        (tree / f"f{number:02}").write_bytes(os.urandom(SIZES[number % (7 if pieces else 8)]))
    with (tree / "sparse").open("wb") as sparse:
        for at in (0, 1 << 20, 3 << 20):
            sparse.seek(at)
            sparse.write(os.urandom(10))
    stage(disk, str(tree))
    deliver(disk, str(out))
    run(["diff", "-r", tree, out / "tree"], timeout_s=60)


def test_a_small_file_that_shrinks_while_it_is_packed_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "shrunk"
    source.write_bytes(b"123")
    with pytest.raises(InputError, match="shrunk' changed while it was packed"):
        staging._read_small(str(source), memoryview(bytearray(4)))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe' changed while it was packed"):
        staging._read_small(str(tmp_path / "pipe"), memoryview(bytearray(4)))
    with pytest.raises(InputError, match="gone': No such file"):
        staging._read_small(str(tmp_path / "gone"), memoryview(bytearray(4)))


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 40), st.integers(1, 60)), max_size=9)
)
def test_what_lies_side_by_side_is_written_at_once_and_all_of_it_in_its_place(
    wishes: list[tuple[int, int, int]],
) -> None:
    """``wishes``: a pack, a gap before it, and a length; the buffer holds 100 bytes."""
    packs = [Pieces([Extent(at + 10 * n, 7) for n in range(200)]) for at in (0, 5000)]
    wanted, ends = bytearray(10_000), [0, 0]
    with tempfile.TemporaryFile() as image:
        image.truncate(len(wanted))
        bulk = staging._Bulk(image.fileno(), packs, bytearray(100))
        for number, (pack, gap, length) in enumerate(wishes, start=1):
            start = ends[pack] + gap
            ends[pack] = start + length
            for extent in packs[pack].part(start, length):
                at, end = extent.offset_bytes, extent.offset_bytes + extent.length_bytes
                wanted[at:end] = bytes([number]) * extent.length_bytes
            room = bulk.room_for(Stretch(0, length, pack, start))
            assert len(room) == length
            room[:] = bytes([number]) * length
        bulk.write()
        assert image.read() == wanted


def failing_reads(monkeypatch: pytest.MonkeyPatch, bad: Path) -> None:
    """A disk with a bad block below ``bad``, as each way to copy meets it."""

    def answer(call: Callable[..., int], which: int) -> Callable[..., int]:
        def asked(*arguments: int) -> int:
            if os.path.realpath(f"/proc/self/fd/{arguments[which]}") == str(bad):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(*arguments)

        return asked

    for name, source in (("copy_file_range", 0), ("sendfile", 1), ("pread", 0), ("readv", 0)):
        monkeypatch.setattr(os, name, answer(getattr(os, name), source))


@pytest.mark.parametrize("size", [SMALL, SMALL + 1, 3 << 20])
def test_an_input_that_cannot_be_read_is_named_however_large_it_is(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = data_disk(tmp_path / "data.vmdk", 64 << 20)
    bad = tmp_path / "tree" / "bad"
    bad.parent.mkdir()
    bad.write_bytes(bytes(size))
    failing_reads(monkeypatch, bad)
    with pytest.raises(InputError, match=f"cannot read the input file '{bad}': Input/output"):
        stage(disk, str(bad.parent))


def test_a_disk_that_cannot_be_written_is_not_taken_for_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = data_disk(tmp_path / "data.vmdk", 64 << 20)
    (tmp_path / "tree").mkdir()
    good = tmp_path / "tree" / "good"
    good.write_bytes(bytes(1 << 20))
    tried = []

    def answer(name: str, source: int) -> Callable[..., int]:
        call = getattr(os, name)

        def asked(*arguments: int) -> int:
            if os.path.realpath(f"/proc/self/fd/{arguments[source]}") == str(good):
                tried.append(name)
            if not tried:
                return int(call(*arguments))
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        return asked

    for name, source in (("copy_file_range", 0), ("sendfile", 1), ("pwrite", 0)):
        monkeypatch.setattr(os, name, answer(name, source))
    with pytest.raises(DiskError, match="cannot copy to offset .*: Input/output error"):
        stage(disk, str(tmp_path / "tree"))
    assert tried == ["copy_file_range", "sendfile"]


def test_a_sparse_input_whose_holes_cannot_be_found_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = data_disk(tmp_path / "data.vmdk", 64 << 20)
    bad = tmp_path / "bad"
    with bad.open("wb") as file:
        file.truncate(1 << 20)
    seek = os.lseek

    def failing(fd: int, at: int, how: int) -> int:
        if how == os.SEEK_DATA:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return seek(fd, at, how)

    monkeypatch.setattr(os, "lseek", failing)
    with pytest.raises(InputError, match=f"cannot read the input file '{bad}': Input/output"):
        stage(disk, str(bad))
