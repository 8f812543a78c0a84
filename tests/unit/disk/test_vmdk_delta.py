"""Redo logs: what is read of a disk and one over it is what QEMU reads, and only of them."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, List, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vmcapsule import process
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.vmdk import vmdk
from vmcapsule.disk.vmdk.format import read_delta
from vmcapsule.disk.vmdk.vmdk import in_place, mapped, read_vmdk
from vmcapsule.disk.vmdk.write import sources_of, write_sparse
from vmcapsule.errors import DiskError, VmCapsuleError

SIZE = 8 << 20
GRAIN = 64 << 10
SECRET = "/etc/passwd"


class Piece(NamedTuple):
    """What is written: a byte, so often; 0 as zeros that take no room."""

    at: int
    length: int
    value: int


# Close together, so that they hide one another; and at the end.
SECTORS = st.integers(0, (1 << 20) // 512) | st.just(SIZE // 512 - 1)
PIECES = st.lists(
    st.builds(
        Piece,
        SECTORS.map(lambda sector: sector * 512),
        st.integers(1, 600).map(lambda sectors: sectors * 512),
        st.integers(0, 5),
    ).map(lambda piece: piece._replace(length=min(piece.length, SIZE - piece.at))),
    max_size=6,
)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vmcapsule-delta-") as name:
        yield Path(name)


def qemu(*argv: object) -> None:
    process.run([str(each) for each in argv], timeout_s=60)


def make_base(place: Path, pieces: List[Piece]) -> Path:
    """A capsule's data disk, as it travels."""
    raw = place / "raw"
    with raw.open("wb") as file:
        file.truncate(SIZE)
        for at, length, value in pieces:
            os.pwrite(file.fileno(), bytes([value]) * length, at)
    base = place / "data.vmdk"
    with raw.open("rb") as file:
        write_sparse(sources_of(file.fileno(), SIZE), SIZE, base, adapter="ide")
    raw.unlink()
    return base


def make_delta(base: Path, pieces: List[Piece], form: str = "monolithicSparse") -> Path:
    """A redo log, in which QEMU writes."""
    delta = base.with_name("data-000001.vmdk")
    options = f"subformat={form},zeroed_grain=on"
    qemu(
        "qemu-img", "create", "-q", "-f", "vmdk", "-b", base, "-F", "vmdk", "-o", options, delta
    )
    writes = [
        f"write {'-z' if value == 0 else f'-P {value}'} {at} {length}"
        for at, length, value in pieces
    ]
    if writes:
        commands = [word for write in writes for word in ("-c", write)]
        qemu("qemu-io", "-f", "vmdk", *commands, delta)
    return delta


def as_qemu_reads(delta: Path) -> bytes:
    out = delta.with_name("judge")
    qemu("qemu-img", "convert", "-f", "vmdk", "-O", "raw", delta, out)
    return out.read_bytes()


def as_we_read(delta: Path, base: Path) -> bytes:
    with mapped(read_delta(delta, read_vmdk(base)), delta.parent) as there:
        return there.read_at(0, SIZE)


ABOVE = [Piece(0, GRAIN, 3), Piece(3 * GRAIN, GRAIN, 0), Piece(5 * GRAIN + 512, 512, 4)]


@settings(max_examples=settings().max_examples // 4)
@given(PIECES, PIECES, st.sampled_from(["monolithicSparse", "twoGbMaxExtentSparse"]))
@example([Piece(0, 20 * GRAIN, 1)], ABOVE, "monolithicSparse")
def test_what_is_read_is_what_qemu_reads(
    below: List[Piece], above: List[Piece], form: str
) -> None:
    with folder() as place:
        base = make_base(place, below)
        delta = make_delta(base, above, form)
        want = bytearray(SIZE)
        for at, length, value in [*below, *above]:
            want[at : at + length] = bytes([value]) * length
        assert as_qemu_reads(delta) == want
        assert as_we_read(delta, base) == want


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path, [Piece(0, 20 * GRAIN, 1)])


@pytest.fixture
def delta(base: Path) -> Path:
    return make_delta(base, ABOVE)


def change(delta: Path, old: bytes, new: bytes) -> None:
    """In its descriptor, which is a file's beginning."""
    data = delta.read_bytes()
    assert old in data and len(old) == len(new)
    delta.write_bytes(data.replace(old, new, 1))


def test_the_disk_that_it_names_is_not_opened(delta: Path, base: Path) -> None:
    want = as_we_read(delta, base)
    hint = f'parentFileNameHint="{base}"'.encode()
    named = f'parentFileNameHint="{SECRET}"'.encode()
    change(delta, hint, named + b"\n" * (len(hint) - len(named)))
    assert as_we_read(delta, base) == want
    with pytest.raises(DiskError, match="has a parent"):
        read_vmdk(delta)


def test_it_is_never_converted(
    delta: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vmdk, "PIECES_MAX", 2)
    with pytest.raises(DiskError, match="is a snapshot, and .* more than 2 pieces"):
        as_we_read(delta, base)
    with pytest.raises(DiskError, match="a snapshot or"):
        with in_place(read_delta(delta, read_vmdk(base))):
            pass


def test_one_over_another_disk_is_refused(delta: Path, base: Path, tmp_path: Path) -> None:
    content_id = int(read_vmdk(base).content_id, 16)
    other = content_id ^ 1
    # QEMU writes neither with leading zeros.
    change(delta, f"parentCID={content_id:x}\n".encode(), f"parentCID={other:x}\n".encode())
    with pytest.raises(DiskError, match=f"of another disk: its parentCID is '{other:08x}'"):
        as_we_read(delta, base)


def test_one_of_another_size_is_refused(delta: Path, base: Path) -> None:
    with delta.open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<Q", SIZE // 512 + 128), 12)
    with pytest.raises(DiskError, match=f"the disk that it is said to be over {SIZE}"):
        as_we_read(delta, base)


def test_a_disk_that_stands_alone_is_no_redo_log(base: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_base(tmp_path / "other", [])
    with pytest.raises(DiskError, match="of another disk: its parentCID is 'ffffffff'"):
        as_we_read(other, base)


@settings(max_examples=settings().max_examples * 2)
@given(st.data())
def test_whatever_is_in_it_an_error_is_the_worst(data: st.DataObject) -> None:
    with folder() as place:
        base = make_base(place, [Piece(0, 20 * GRAIN, 1)])
        delta = make_delta(base, ABOVE)
        torn = bytearray(delta.read_bytes())
        tables = min(len(torn), 200_000)
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.integers(0, tables - 4))
            torn[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
        del torn[data.draw(st.integers(len(torn) // 2, len(torn))) :]
        delta.write_bytes(torn)
        with suppress(VmCapsuleError):
            as_we_read(delta, base)


@pytest.mark.parametrize("name", ["data-000001.vmdk", "data.vmdk.REDO_a01234"])
def test_one_is_found_by_the_name_that_vmware_gives_it(
    delta: Path, base: Path, name: str
) -> None:
    disk = DataDisk(base)
    assert disk.with_redo_log(base.parent / "nowhere") == disk
    delta.rename(delta.with_name("notes-000001.vmdk"))
    assert disk.with_redo_log(base.parent) == disk
    delta.with_name("notes-000001.vmdk").rename(delta.with_name(name))
    found = disk.with_redo_log(base.parent)
    assert (found.path.name, found.base) == (name, base)
    assert found.look().files == (found.path,)


def test_of_several_none_is_taken(delta: Path, base: Path) -> None:
    shutil.copy(delta, delta.with_name("data-000002.vmdk"))
    with pytest.raises(DiskError, match="there are 2 redo logs of 'data.vmdk'"):
        DataDisk(base).with_redo_log(base.parent)
