"""What FAT volumes cost in calls, bytes and memory: counted, so no matter of speed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.unit.edits import put_files
from vmcapsule import process
from vmcapsule.disk.empty_disk import build_data_disk
from vmcapsule.disk.extents import copy_range
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatVolume

MIB = 1 << 20
OFFSET_BYTES = MIB
MEMORY_KIB_MAX = 64 << 10


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


@pytest.mark.parametrize("size_bytes", [40 * MIB, 8 << 30, 2 << 40])
def test_opening_costs_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    fd = data_disk(tmp_path / "disk", size_bytes)
    put_files(
        FatVolume.open(fd, OFFSET_BYTES), {"vmcapsule/exit.json": b"{}", "condor-init.py": b"#"}
    )
    calls = Calls(monkeypatch)
    volume = FatVolume.open(fd, OFFSET_BYTES)
    assert volume.read("vmcapsule/exit.json", 10) == b"{}"
    assert calls.moved["pread"] < 64 << 10
    put_files(FatVolume.open(fd, OFFSET_BYTES), {"vmcapsule/more": b"x"})
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


def test_neither_many_files_nor_a_large_disk_take_much_memory(tmp_path: Path) -> None:
    """Whole processes, Python included."""
    for work in ("write_many", "read_many", "use_largest", "use_pieces", "use_full_folder"):
        disk = tmp_path / work.replace("read", "write")
        argv = [sys.executable, "-m", "tests.unit.disk_memory", work, disk]
        done = process.run(argv, timeout_s=600, cwd=Path(__file__).parents[3])
        assert int(done.stdout) < MEMORY_KIB_MAX, work
