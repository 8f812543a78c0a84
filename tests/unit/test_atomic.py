"""Whatever happens and whenever: a file that is seen is whole, and what is flushed is known."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Iterator

import pytest

from tests.unit.power_cut import Disk, Found, Recorded
from tests.unit.users import acting_as, give
from vmcapsule import atomic
from vmcapsule.atomic import Unflushed, flush_folder, publish, write_file


def each_found(root: Path, seen: list[Found]) -> Disk:
    return Disk(root, lambda disk: seen.extend(disk.after_a_power_cut()))


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "top"
    folder.mkdir()
    path = folder / "file"
    path.write_bytes(b"old")
    seen: list[Found] = []
    with Recorded(each_found(tmp_path, seen)) as disk:
        write_file(path, b"new and longer", 0o755)
        [*last] = disk.after_a_power_cut()
    assert {found["top/file"] for found in seen} == {b"old", b"new and longer"}
    assert all(found == {"top/file": b"new and longer"} for found in last)
    assert path.stat().st_mode & 0o777 == 0o755
    assert [each.name for each in folder.iterdir()] == ["file"]


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def failing(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("count", [2, 2 * atomic.FEW])
def test_a_folder_is_published_when_all_of_it_is_on_disk(tmp_path: Path, count: int) -> None:
    aside = tmp_path / "top" / "aside"
    content = {f"inner{number % 2}/f{number}": b"x" * number for number in range(1, count)}
    (tmp_path / "top").mkdir()
    seen: list[Found] = []
    with Recorded(each_found(tmp_path, seen)) as disk:
        for name, data in content.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(aside / name, os.O_WRONLY | os.O_CREAT)
            os.write(fd, data)
            os.close(fd)
        (aside / "link").symlink_to("inner0/nowhere")
        seen.clear()
        publish(aside, tmp_path / "top" / "there")
        [*last] = disk.after_a_power_cut()
    wanted = {"top/there/link": "inner0/nowhere"}
    wanted.update({f"top/there/{name}": data for name, data in content.items()})
    for found in seen:
        there = {path: what for path, what in found.items() if path.startswith("top/there/")}
        assert there in ({}, wanted)
    assert all(found == wanted for found in last)


def test_a_folder_does_not_replace_another(tmp_path: Path) -> None:
    for name in ("aside", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(OSError, match="not empty"):
        publish(tmp_path / "aside", tmp_path / "there")
    assert (tmp_path / "there/file").read_text() == "there"


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    calls: list[str] = []
    for where, name in ((os, "fsync"), (atomic, "_syncfs")):
        monkeypatch.setattr(where, name, lambda fd, name=name: calls.append(name))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield calls
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize(
    ("files", "calls"), [(0, []), (3, ["fsync"] * 3), (atomic.FEW + 1, ["_syncfs"])]
)
def test_few_are_flushed_one_by_one_and_many_by_their_file_system(
    tmp_path: Path, flushed: list[str], files: int, calls: list[str]
) -> None:
    unflushed = Unflushed()
    for number in range(files):
        with (tmp_path / str(number)).open("wb") as file:
            unflushed.file(file.fileno())
            unflushed.device(file.fileno())
    unflushed.flush()
    assert flushed == calls
    unflushed.flush()
    assert flushed == calls, "what is flushed is forgotten"
    unflushed.close()


def test_a_folder_that_may_not_be_read_is_flushed_with_its_file_system(
    tmp_path: Path, flushed: list[str]
) -> None:
    give(tmp_path)
    tmp_path.chmod(0o300)
    with acting_as():
        unflushed = Unflushed()
        with (tmp_path / "file").open("wb") as file:
            unflushed.device(file.fileno())
        unflushed.folder(str(tmp_path))
        unflushed.flush()
        unflushed.close()
    tmp_path.chmod(0o700)
    assert flushed == ["_syncfs"]


def test_a_file_system_is_flushed_and_an_error_is_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        atomic._syncfs(fd)
        flush_folder(tmp_path)
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        atomic._syncfs(fd)
