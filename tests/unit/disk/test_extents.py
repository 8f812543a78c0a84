"""Moving bytes between files."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Tuple

import pytest

from vmcapsule.disk import extents
from vmcapsule.disk.extents import (
    Extent,
    copy_range,
    copy_sparse,
    data_extents,
    read_at,
    write_at,
)
from vmcapsule.errors import DiskError, SpaceError

DATA = bytes(range(256)) * 20_000


@contextmanager
def two_files(folder: Path) -> Iterator[Tuple[int, int]]:
    (folder / "src").write_bytes(DATA)
    src = os.open(folder / "src", os.O_RDONLY)
    dst = os.open(folder / "dst", os.O_RDWR | os.O_CREAT)
    try:
        yield src, dst
    finally:
        os.close(src)
        os.close(dst)


def refuse(code: int):
    def mover(*_: int) -> int:
        raise OSError(code, os.strerror(code))

    return mover


@pytest.mark.parametrize(
    "unusable", [[], ["_copy_file_range"], ["_copy_file_range", "_sendfile"]]
)
@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_each_way_of_copying(tmp_path, monkeypatch, unusable, code):
    monkeypatch.setattr(extents, "CALL_BYTES_MAX", 1_000_000)  # more than one call
    for name in unusable:
        monkeypatch.setattr(extents, name, refuse(code))
    with two_files(tmp_path) as (src, dst):
        copy_range(src, 1001, dst, 777, len(DATA) - 2000)
        assert read_at(dst, 777, len(DATA) - 2000) == DATA[1001 : len(DATA) - 999]
        assert os.fstat(dst).st_size == 777 + len(DATA) - 2000
        copy_range(src, 0, dst, 0, 0)


def test_the_kernel_is_asked_first(tmp_path, monkeypatch):
    monkeypatch.setattr(extents, "_through_memory", refuse(errno.EIO))
    monkeypatch.setattr(extents, "_sendfile", refuse(errno.EIO))
    with two_files(tmp_path) as (src, dst):
        copy_range(src, 0, dst, 0, len(DATA))
        assert read_at(dst, 0, len(DATA)) == DATA


def test_a_kernel_that_copies_nothing_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(extents, "_copy_file_range", lambda *_: 0)
    with two_files(tmp_path) as (src, dst):
        copy_range(src, 0, dst, 0, len(DATA))
        assert read_at(dst, 0, len(DATA)) == DATA


def test_a_source_that_shrank_is_named(tmp_path):
    with two_files(tmp_path) as (src, dst), pytest.raises(DiskError, match="shrank"):
        copy_range(src, 0, dst, 0, len(DATA) + 1)


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(extents, "_copy_file_range", refuse(errno.ENOSPC))
    with two_files(tmp_path) as (src, dst):
        with pytest.raises(SpaceError, match="No space left on device; free some room"):
            copy_range(src, 0, dst, 0, 10)
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(SpaceError):
        write_at(full, 0, b"x")
    os.close(full)


def test_reading_past_the_end(tmp_path):
    with two_files(tmp_path) as (src, _), pytest.raises(DiskError, match="ends at 5120000"):
        read_at(src, len(DATA) - 10, 11)


def make_holes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(9 << 20)
        os.pwrite(file.fileno(), b"a" * 5000, 1 << 20)
        os.pwrite(file.fileno(), b"b" * 5000, (5 << 20) + 100)
        file.truncate((9 << 20) + 7)


def test_data_extents(tmp_path):
    make_holes(tmp_path / "f")
    with (tmp_path / "f").open("rb") as file:
        runs = list(data_extents(file.fileno(), (9 << 20) + 7))
        assert [run.offset_bytes for run in runs] == [1 << 20, 5 << 20]
        assert all(5000 <= run.length_bytes < 64 << 10 for run in runs)
        # Bounded by what was asked for, in the middle of data too.
        bounded = list(data_extents(file.fileno(), (1 << 20) + 10))
        assert bounded == [Extent(1 << 20, 10)]
        assert list(data_extents(file.fileno(), 1 << 20)) == []


def test_a_copy_keeps_its_holes(tmp_path):
    make_holes(tmp_path / "src")
    copy_sparse(tmp_path / "src", tmp_path / "dst")
    assert (tmp_path / "dst").read_bytes() == (tmp_path / "src").read_bytes()
    status = (tmp_path / "dst").stat()
    assert status.st_blocks * 512 < 1 << 20
    assert status.st_mode & 0o777 == 0o600


def test_a_copy_overwrites_nothing_and_follows_no_link(tmp_path):
    (tmp_path / "src").write_bytes(b"new")
    (tmp_path / "dst").write_bytes(b"old")
    with pytest.raises(DiskError, match="File exists"):
        copy_sparse(tmp_path / "src", tmp_path / "dst")
    assert (tmp_path / "dst").read_bytes() == b"old"
    (tmp_path / "link").symlink_to(tmp_path / "src")
    with pytest.raises(DiskError, match="symbolic link"):
        copy_sparse(tmp_path / "link", tmp_path / "copy")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DiskError, match="not a regular file"):
        copy_sparse(tmp_path / "fifo", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_failed_copy_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "src").write_bytes(b"data")
    monkeypatch.setattr(extents, "_copy_file_range", refuse(errno.ENOSPC))
    with pytest.raises(SpaceError):
        copy_sparse(tmp_path / "src", tmp_path / "dst")
    assert not (tmp_path / "dst").exists()
