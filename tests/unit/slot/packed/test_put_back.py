"""A sandbox brought to what its job has made of it, from a disk that a stranger wrote."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
from pathlib import Path
from typing import Any, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.edits import put_files, raw_edit
from tests.unit.returned import EXITED, OFFSET_BYTES, file, guest_writes, make_disk
from vmcapsule import contract
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import DiskError, SpaceError
from vmcapsule.guest.exit_record import read_exit
from vmcapsule.guest.extract import read_outputs
from vmcapsule.slot.packed.live import Stream
from vmcapsule.slot.packed.put_back import append, put_back
from vmcapsule.transfer.entries import FILE, FOLDER, LINK, Entry, Stretch

PACK = b"0123456789"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    sandbox = tmp_path / "dir_1"
    sandbox.mkdir()
    return sandbox


def folder(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, FOLDER, mode)


def came(
    tmp_path: Path,
    *entries: Entry,
    gone: Sequence[object] = (),
    unsent: Sequence[tuple[str, int]] = (),
) -> Path:
    """A data disk as a guest left it."""
    disk = make_disk(tmp_path / "data.vmdk")
    outputs = {"entries": len(entries), "packs": 1, "bytes": len(PACK)}
    lacking = {"unsent_outputs": unsent, "unsent_count": len(unsent)}
    guest_writes(disk, {**EXITED, "outputs": outputs, **lacking}, entries, PACK)
    with raw_edit(disk, tmp_path) as raw:
        lines = b"".join(json.dumps(path).encode() + b"\n" for path in gone)
        put_files(FatVolume.open(raw.fd, OFFSET_BYTES), {contract.OUTPUT_GONE: lines})
    return disk


def bring_back(disk: Path, here: Path, streams: Sequence[str] = ()) -> None:
    with DataDisk(disk, None).opened(disk.parent, 20 << 20) as volume:
        job_exit = read_exit(volume)
        put_back(volume, read_outputs(volume, job_exit), job_exit, os.fspath(here), streams)


def tree(here: Path) -> dict[str, Any]:
    """What is there: a file's content, None for a folder."""
    return {
        str(path.relative_to(here)): path.read_bytes() if path.is_file() else None
        for path in here.rglob("*")
    }


def test_what_is_new_changed_or_gone_is_so_afterwards(tmp_path: Path, here: Path) -> None:
    (here / "removed" / "deep").mkdir(parents=True)
    (here / "was-file").write_text("x")
    (here / "was-folder" / "inner").mkdir(parents=True)
    (here / "changed").write_text("before")
    (here / "stays").write_text("stays")
    disk = came(
        tmp_path,
        file("changed", 0, 4),
        folder("was-file"),
        file("was-file/in", 4, 2, 0o600),
        file("was-folder", 6, 1),
        gone=["removed", "never-was/there"],
    )
    bring_back(disk, here)
    assert tree(here) == {
        "changed": b"0123",
        "was-file": None,
        "was-file/in": b"45",
        "was-folder": b"6",
        "stays": b"stays",
    }


def test_modes_and_times_are_the_jobs_and_set_id_bits_are_not(
    tmp_path: Path, here: Path
) -> None:
    entries = [
        Entry("shut", FOLDER, 0o500, 10**18),
        Entry("shut/tool", FILE, 0o6755, 2 * 10**18, 3, (Stretch(0, 3, 0, 0),)),
    ]
    bring_back(came(tmp_path, *entries), here)
    found = [(here / name).stat() for name in ("shut", "shut/tool")]
    assert [stat.S_IMODE(status.st_mode) for status in found] == [0o500, 0o755]
    assert [status.st_mtime_ns for status in found] == [10**18, 2 * 10**18]


def test_a_stream_is_appended_to_what_htcondor_has_opened(tmp_path: Path, here: Path) -> None:
    out = tmp_path / "out"
    out.write_text("before ")
    sparse = Entry(contract.STDOUT, FILE, 0o644, 0, 9, (Stretch(2, 3, 0, 1),))
    disk = came(tmp_path, sparse)
    bring_back(disk, here, [contract.STDOUT])
    with DataDisk(disk, None).opened(tmp_path, 20 << 20) as volume, out.open("ab") as given:
        append(volume, read_outputs(volume), contract.STDOUT, Stream(given.fileno()))
    assert out.read_bytes() == b"before \0\000123\0\0\0\0"
    assert tree(here) == {}


@pytest.mark.parametrize(
    ("live", "whole"),
    [
        (b"01", b"before 0123"),
        (b"0123", b"before 0123"),
        # The job has emptied the file since, and begun anew.
        (b"ol", b"before 0123"),
        (b"old and longer", b"before 0123"),
    ],
)
def test_what_came_live_is_not_appended_again(
    tmp_path: Path, live: bytes, whole: bytes
) -> None:
    out = tmp_path / "out"
    out.write_text("before ")
    disk = came(tmp_path, file(contract.STDOUT, 0, 4))
    with DataDisk(disk, None).opened(tmp_path, 20 << 20) as volume, out.open("r+b") as given:
        os.lseek(given.fileno(), 0, os.SEEK_END)
        stream = Stream(given.fileno())
        stream.write(live)
        append(volume, read_outputs(volume), contract.STDOUT, stream)
    assert out.read_bytes() == whole


def test_what_there_was_no_room_for_is_appended_once(tmp_path: Path) -> None:
    disk = came(tmp_path, file(contract.STDOUT, 0, 6))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "out"
    with out.open("ab") as given:
        stream = Stream(given.fileno())
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2, before[1]))
            stream.write(b"0123")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        # What comes later does not go before the rest.
        stream.write(b"45")
        assert (out.read_bytes(), stream.count) == (b"01", 2)
        with DataDisk(disk, None).opened(tmp_path, 20 << 20) as volume:
            append(volume, read_outputs(volume), contract.STDOUT, stream)
    assert out.read_bytes() == b"012345"


def test_what_was_streamed_cannot_be_taken_back(tmp_path: Path) -> None:
    disk = came(tmp_path, file(contract.STDOUT, 0, 4))
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb") as end,
        DataDisk(disk, None).opened(tmp_path, 20 << 20) as volume,
    ):
        with os.fdopen(writer, "wb") as given:
            stream = Stream(given.fileno())
            stream.write(b"o")
            append(volume, read_outputs(volume), contract.STDOUT, stream)
        assert end.read() == b"o123"


def test_what_a_starter_has_for_itself_is_not_the_jobs_to_change(
    tmp_path: Path, here: Path
) -> None:
    own = [".chirp.config", ".job.ad", ".machine.ad"]
    for name in own:
        (here / name).write_text("the starter's")
    entries = [file(".chirp.config", 0, 4), folder(".job.ad"), file(".job.ad/x", 0, 4)]
    unsent = [(".machine.ad", errno.EACCES)]
    disk = came(tmp_path, *entries, gone=[".machine.ad"], unsent=unsent)
    bring_back(disk, here, own)
    assert tree(here) == dict.fromkeys(own, b"the starter's")


def test_what_htcondor_cannot_send_cannot_be_sent(tmp_path: Path, here: Path) -> None:
    unsent = [("link", errno.EISDIR), ("secret", errno.EACCES), ("../out", errno.EACCES)]
    bring_back(came(tmp_path, unsent=unsent), here)
    assert (here / "link").readlink() == Path()
    assert stat.S_IMODE((here / "secret").stat().st_mode) == 0
    assert not (tmp_path / "out").exists()


def test_links_are_neither_made_nor_followed(tmp_path: Path, here: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    for name in ("file", "folder"):
        (here / name).symlink_to(outside / "kept" if name == "file" else outside)
    disk = came(
        tmp_path,
        file("file", 0, 4),
        folder("folder"),
        file("folder/kept", 4, 2),
        Entry("made", LINK, 0o777, target="/etc/passwd"),
    )
    bring_back(disk, here)
    assert tree(outside) == {"kept": b"kept"}
    assert tree(here) == {"file": b"0123", "folder": None, "folder/kept": b"45"}


def test_nothing_is_removed_through_a_link(tmp_path: Path, here: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (here / "folder").symlink_to(outside)
    with pytest.raises(SpaceError, match="folder"):
        bring_back(came(tmp_path, gone=["folder/kept"]), here)
    assert (outside / "kept").exists()


@pytest.mark.parametrize("path", ["..", "/etc", "a/../b", "", 7, None, ["x"], "x\0"])
def test_what_is_gone_is_a_plain_path_or_nothing_is_used(
    tmp_path: Path, here: Path, path: object
) -> None:
    with pytest.raises(DiskError, match="removed"):
        bring_back(came(tmp_path, gone=[path]), here)


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_any_list_of_what_is_gone_ends_in_paths_or_in_a_disk_error(lines: list[bytes]) -> None:
    from vmcapsule.slot.packed import put_back as module

    class Volume:
        def lookup(self, name: str) -> bool:
            return True

        def read(self, name: str, limit_bytes: int) -> bytes:
            return b"\n".join(lines)

    def paths() -> Iterator[str]:
        yield from module.gone(Volume())  # type: ignore[arg-type]

    try:
        assert all(path and not path.startswith("/") for path in paths())
    except DiskError as error:
        assert "removed" in error.message
