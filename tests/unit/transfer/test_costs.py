"""What packing and delivering cost in system calls and memory: no matter of speed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.unit.edits import make_data_disk
from tests.unit.sandbox_memory import deliver, stage
from vmcapsule import process

MEMORY_KIB_MAX = 64 << 10
#: What our code may call of `os` that asks the system something.
CALLS = (
    "access", "chmod", "close", "copy_file_range", "fchmod", "fstat", "ftruncate", "listdir",
    "lseek", "lstat", "mkdir", "open", "pread", "pwrite", "read", "readv", "rename", "replace",
    "rmdir", "scandir", "sendfile", "stat", "truncate", "umask", "unlink", "write",
)  # fmt: skip


class Counted:
    """Counts the calls of `os` that are made while it is entered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        for name in CALLS:
            monkeypatch.setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            self.calls[name] += 1
            return call(*arguments, **more)

        return counted


def data_disk(path: Path, size_bytes: int) -> Path:
    return make_data_disk(
        path,
        size_bytes=size_bytes,
        offset_bytes=1 << 20,
        label="DATA",
    )


def tree(folder: Path, folders: int, files: int) -> Path:
    for number in range(folders):
        below = folder / f"folder-{number:03}"
        below.mkdir(parents=True)
        first = below / "a-file"
        first.write_bytes(b"x" * 20)
        for name in range(1, files):
            os.link(first, below / f"a-file-{name:05}.data")
    return folder


def test_a_small_file_costs_four_calls_to_pack_and_three_to_deliver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status, open, read, close; open, copy, close: as few as there can be."""
    disk = data_disk(tmp_path / "data.vmdk", 64 << 20)
    files, out = tree(tmp_path / "tree", 1, 500), tmp_path / "out"
    out.mkdir()
    os.umask(0o022)
    with monkeypatch.context() as patch:
        packing = Counted(patch)
        stage(disk, str(files))
    with monkeypatch.context() as patch:
        delivering = Counted(patch)
        deliver(disk, str(out))
    # The rest makes the disk.
    assert sum(packing.calls.values()) < 4 * 500 + 150
    assert sum(delivering.calls.values()) < 3 * 500 + 100
    assert packing.calls["readv"] == 500
    process.run(["diff", "-r", files, out / "tree"], timeout_s=60)


def test_a_hundred_thousand_files_take_little_memory_both_ways(tmp_path: Path) -> None:
    """Whole processes, Python included."""
    disk = data_disk(tmp_path / "data.vmdk", 1 << 30)
    files, out = tree(tmp_path / "tree", 100, 1000), tmp_path / "out"
    out.mkdir()
    for work, folder in (("stage", files), ("deliver_some", out)):
        argv = [sys.executable, "-m", "tests.unit.sandbox_memory", work, disk, folder]
        done = process.run(argv, timeout_s=600, cwd=Path(__file__).parents[3])
        assert int(done.stdout) < MEMORY_KIB_MAX, work
    assert sum(path.is_file() for path in out.rglob("*")) == 10 * 1000
