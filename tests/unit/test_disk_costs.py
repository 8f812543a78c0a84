"""What FAT volumes cost in calls, bytes and memory: counted, so no matter of speed."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from vmcapsule.disk.data_disk import build_data_disk
from vmcapsule.disk.extents import copy_range, write_at
from vmcapsule.disk.fat import FatVolume
from vmcapsule.disk.fat_tree import lay_out, put_files

MIB = 1 << 20
OFFSET_BYTES = MIB
MEMORY_BYTES_MAX = 64 * MIB


class Calls:
    """Counts what goes through some functions of `os`: how often, and how many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        for name in ("pread", "pwrite", "read", "write", "copy_file_range", "sendfile"):
            monkeypatch.setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            result = call(*arguments)
            self.count[name] += 1
            self.moved[name] += result if isinstance(result, int) else len(result)
            return result

        return counted


def data_disk(path: Path, size_bytes: int) -> int:
    build_data_disk(path, size_bytes=size_bytes, offset_bytes=OFFSET_BYTES)
    return os.open(path, os.O_RDWR)


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail where the block takes more memory than anything may."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size_bytes", [40 * MIB, 8 << 30, 2 << 40])
def test_opening_costs_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    fd = data_disk(tmp_path / "disk", size_bytes)
    put_files(fd, OFFSET_BYTES, {"vmcapsule/exit.json": b"{}", "condor-init.py": b"#"})
    calls = Calls(monkeypatch)
    volume = FatVolume.open(fd, OFFSET_BYTES)
    assert volume.read("vmcapsule/exit.json", 10) == b"{}"
    assert calls.moved["pread"] < 64 << 10
    put_files(fd, OFFSET_BYTES, {"vmcapsule/more": b"x"})
    assert calls.moved["pread"] < MIB
    assert calls.count["pread"] < 30 and calls.count["pwrite"] < 10
    os.close(fd)


def test_many_small_files_cost_a_call_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And their folder and the FATs a few; no byte of a file goes through Python."""
    fd = data_disk(tmp_path / "disk", 256 * MIB)
    source = os.open(tmp_path / "source", os.O_RDWR | os.O_CREAT)
    os.pwrite(source, os.urandom(20_000), 0)
    calls = Calls(monkeypatch)
    layout = lay_out(FatVolume.open(fd, OFFSET_BYTES), {f"d/f{n}": 20_000 for n in range(2000)})
    for _, extents in layout.places():
        for extent in extents:
            copy_range(source, 0, fd, extent.offset_bytes, extent.length_bytes)
    layout.write()
    assert calls.count["copy_file_range"] + calls.count["sendfile"] == 2000
    assert calls.count["pread"] + calls.count["pwrite"] < 30
    calls = Calls(monkeypatch)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    for file in FatVolume.open(fd, OFFSET_BYTES).walk():
        for extent in file.extents:
            copy_range(fd, extent.offset_bytes, target, 0, extent.length_bytes)
    assert calls.count["copy_file_range"] + calls.count["sendfile"] == 2000
    assert calls.moved["pread"] < MIB and calls.count["pread"] < 100
    assert calls.count["pwrite"] == calls.count["read"] == calls.count["write"] == 0
    for each in (fd, source, target):
        os.close(each)


def test_a_hundred_thousand_files_take_little_memory(tmp_path: Path) -> None:
    fd = data_disk(tmp_path / "disk", 8 << 30)
    with little_memory():
        names = (f"folder {n // 10_000}/a file of number {n}.data" for n in range(100_000))
        layout = lay_out(FatVolume.open(fd, OFFSET_BYTES), dict.fromkeys(names, 20_000))
        assert sum(len(extents) for _, extents in layout.places()) == 100_000
        layout.write()
    del layout
    with little_memory():
        volume = FatVolume.open(fd, OFFSET_BYTES)
        assert sum(file.size_bytes for file in volume.walk()) == 100_000 * 20_000
        assert volume.lookup("folder 9/a file of number 99999.data") is not None
    os.close(fd)


def test_the_largest_disk_takes_little_memory(tmp_path: Path) -> None:
    """Its FAT alone has 256 MiB."""
    fd = data_disk(tmp_path / "disk", 2 << 40)
    with little_memory():
        files = {f"big{n}": (4 << 30) - 1 for n in range(100)}
        lay_out(FatVolume.open(fd, OFFSET_BYTES), files).write()
        volume = FatVolume.open(fd, OFFSET_BYTES)
        assert sum(len(file.extents) for file in volume.walk()) == 100
        assert volume.free_bytes > 1600 << 30
    os.close(fd)


def test_a_disk_in_small_pieces_takes_little_memory(tmp_path: Path) -> None:
    """Every other cluster is free, so that a file is in more pieces than any may be."""
    fd = data_disk(tmp_path / "disk", 17 << 30)
    geometry = FatVolume.open(fd, OFFSET_BYTES).geometry
    entries = geometry.cluster_count // 2 - 2
    write_at(fd, geometry.fat_offset + 16, b"\xff\xff\xff\x0f\0\0\0\0" * entries)
    pieces: List[int] = []
    with little_memory():
        layout = lay_out(
            FatVolume.open(fd, OFFSET_BYTES), {"a": 100_000 * geometry.cluster_bytes}
        )
        pieces += (len(extents) for _, extents in layout.places())
        layout.write()
        [file] = FatVolume.open(fd, OFFSET_BYTES).walk()
        assert [len(file.extents)] == pieces
    os.close(fd)
