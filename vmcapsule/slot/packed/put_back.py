"""The sandbox brought to what the job has made of it: what is new or changed, and what is gone.

The guest wrote all of that, and is a stranger: nothing is put anywhere but in the sandbox, no
link is followed, none is made but one to its own folder, no set-id bit is taken over.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import zlib
from typing import Iterator, Sequence

from vmcapsule import contract
from vmcapsule.disk.extents import BUFFER_BYTES, read_at
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import DiskError, SpaceError, one_line
from vmcapsule.guest.exit_record import JobExit
from vmcapsule.guest.extract import PackedFiles, fill
from vmcapsule.slot.packed.live import Stream, write_all
from vmcapsule.transfer.entries import FILE, FOLDER, Entry
from vmcapsule.transfer.index import check_path

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def put_back(
    volume: FatVolume,
    outputs: PackedFiles,
    job_exit: JobExit,
    here: str,
    omit: Sequence[str],
) -> None:
    """Make the sandbox ``here`` what the guest's is, but for the names to ``omit`` in it.

    What HTCondor cannot send natively is there in a form that it cannot send either.  Raises
    `DiskError` for a disk that is damaged, and `SpaceError` where the sandbox has no room.
    """
    try:
        for path in [*gone(volume)]:
            if _top(path) not in omit:
                _remove(_place(here, path))
        folders = []
        for entry in outputs.entries:
            if _top(entry.path) in omit:
                continue
            if entry.kind == FOLDER:
                _make_folder(f"{here}/{entry.path}")
                folders.append(entry)
            elif entry.kind == FILE:
                _make_file(volume, outputs, entry, f"{here}/{entry.path}")
        for path, why in job_exit.unsent_outputs:
            with contextlib.suppress(ValueError):  # one that was cut, or is no path
                if _top(check_path(path)) not in omit:
                    _make_unsendable(_place(here, path), why)
        for entry in reversed(folders):
            _dress(f"{here}/{entry.path}", entry)
    except OSError as error:
        raise SpaceError(
            f"cannot put the job's outputs into its sandbox: {error.strerror}: "
            f"{one_line(str(error.filename))}",
            "see whether the execute point's disk is full",
        ) from error


def _top(path: str) -> str:
    return path.partition("/")[0]


def append(volume: FatVolume, outputs: PackedFiles, name: str, stream: Stream) -> None:
    """Append what the job wrote to a stream, of which some may be there already."""
    for entry in outputs.entries:
        if entry.path == name and entry.kind == FILE:
            if not _begins_with(_pieces(volume, outputs, entry), stream):
                stream.forget()
            there = stream.count
            for piece in _pieces(volume, outputs, entry):
                write_all(stream.fd, piece[there:])
                there = max(0, there - len(piece))


def _begins_with(pieces: Iterator[bytes], stream: Stream) -> bool:
    """Is what was written to a stream how the file begins?"""
    left, crc = stream.count, 0
    while left and (piece := next(pieces, b"")):
        crc = zlib.crc32(piece[:left], crc)
        left -= len(piece[:left])
    return left == 0 and crc == stream.crc


def _pieces(volume: FatVolume, outputs: PackedFiles, entry: Entry) -> Iterator[bytes]:
    """The data of a file, a little at a time."""
    at = 0
    for stretch in entry.stretches:
        yield from _zeros(stretch.offset - at)
        for extent in outputs.packs[stretch.pack].part(stretch.pack_offset, stretch.length):
            end = extent.offset_bytes + extent.length_bytes
            for offset in range(extent.offset_bytes, end, BUFFER_BYTES):
                yield read_at(volume.image, offset, min(BUFFER_BYTES, end - offset))
        at = stretch.offset + stretch.length
    yield from _zeros(entry.size_bytes - at)


def _zeros(count: int) -> Iterator[bytes]:
    for done in range(0, count, BUFFER_BYTES):
        yield bytes(min(BUFFER_BYTES, count - done))


def gone(volume: FatVolume) -> Iterator[str]:
    """The paths that the job removed, as the guest says.  Raises `DiskError`."""
    if volume.lookup(contract.OUTPUT_GONE) is None:
        return
    data = volume.read(contract.OUTPUT_GONE, contract.INDEX_BYTES_MAX)
    for line in data.splitlines():
        try:
            yield check_path(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DiskError(
                f"the list of what the job removed is not valid: {one_line(str(error))}",
                "the guest wrote it; nothing of it was used",
            ) from error


def _place(here: str, path: str) -> str:
    """Where a path lies; raises OSError where a folder that it is in is a link."""
    place = here
    for part in path.split("/")[:-1]:
        place = f"{place}/{part}"
        if os.path.islink(place):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), place)
    return f"{here}/{path}"


def _remove(place: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if stat.S_ISDIR(os.lstat(place).st_mode):
            shutil.rmtree(place)
        else:
            os.unlink(place)


def _make_folder(place: str) -> None:
    """Its parents come before it in an index, and so are folders."""
    try:
        if stat.S_ISDIR(os.lstat(place).st_mode):
            os.chmod(place, 0o700)
            return
        os.unlink(place)
    except FileNotFoundError:
        pass
    os.mkdir(place, 0o700)


def _make_file(volume: FatVolume, outputs: PackedFiles, entry: Entry, place: str) -> None:
    _remove(place)
    fd = os.open(place, _NEW_FILE, 0o600)
    try:
        fill(fd, volume.image, entry, outputs.packs)
    finally:
        os.close(fd)
    _dress(place, entry)


def _make_unsendable(place: str, why: int) -> None:
    """A link to a folder, or a file that nobody may read."""
    _remove(place)
    if why == errno.EISDIR:
        os.symlink(".", place)
    else:
        os.close(os.open(place, _NEW_FILE, 0))


def _dress(place: str, entry: Entry) -> None:
    os.chmod(place, entry.mode & 0o777)
    os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns))
