"""Runs of bytes in raw images, and moving them between files inside the kernel."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterable, Iterator, Protocol, Union

from vmcapsule.errors import DiskError, SpaceError
from vmcapsule.files import open_regular
from vmcapsule.named import NamedTuple

if TYPE_CHECKING:  # it takes long to import, and is only handed on here
    from pathlib import Path

#: The most that one system call is asked to move (Linux moves at most 2 GiB - 4 KiB).
CALL_BYTES_MAX = 1 << 30
#: What is read into memory at once where the kernel cannot move the bytes itself.
BUFFER_BYTES = 1 << 20

#: What copy_file_range and sendfile answer where this pair of files is not for them.
_TRY_ANOTHER_WAY = frozenset(
    {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}
)
#: Of this the kernel does not say whether it was in reading or in writing.
_EITHER_SIDE = frozenset({errno.EIO})


class Extent(NamedTuple):
    """A run of bytes in a raw image."""

    offset_bytes: int
    length_bytes: int


class Source(NamedTuple):
    """A run of a disk's bytes, and the open file that has them."""

    offset_bytes: int
    length_bytes: int
    fd: int
    fd_offset: int


class Readable(Protocol):
    """A disk that is not one file; `disk_map.DiskMap` is one."""

    size_bytes: int

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Return exactly ``length_bytes`` from ``offset_bytes``, or raise `DiskError`."""

    def within(self, extents: Iterable[Extent]) -> Iterator[Source]:
        """Yield what is in files of the disk's ``extents``; the rest is zeros."""


#: What is read as a raw image: an open file that is one, or what answers as such.
Image = Union[int, Readable]


def sources_within(image: Image, extent: Extent) -> Iterator[Source]:
    """Yield what is in files of a part of an image: all of it where that is one file."""
    if isinstance(image, int):
        return iter((Source(*extent, image, extent.offset_bytes),))
    return image.within((extent,))


def read_at(image: Image, offset_bytes: int, length_bytes: int) -> bytes:
    """Return exactly ``length_bytes`` from ``offset_bytes``; raise `DiskError` if it cannot."""
    if not isinstance(image, int):
        return image.read_at(offset_bytes, length_bytes)
    pieces = []
    at, left = offset_bytes, length_bytes
    while left > 0:
        try:
            piece = os.pread(image, min(left, CALL_BYTES_MAX), at)
        except (OSError, OverflowError) as error:
            # No file has an offset of more than 63 bits; a hostile disk can speak of one.
            reason = error.strerror if isinstance(error, OSError) else "it is out of range"
            raise DiskError(f"cannot read at offset {at}: {reason}") from error
        if not piece:
            raise DiskError(
                f"the disk image ends at {at}, where {left} more bytes were expected",
                "see whether the image was cut short",
            )
        pieces.append(piece)
        at += len(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def places_within(image: Image, extent: Extent) -> Iterator[Source]:
    """Yield where all of a part of an image is in files; `DiskError` where it has a hole."""
    at, end = extent.offset_bytes, extent.offset_bytes + extent.length_bytes
    for source in sources_within(image, extent):
        if source.offset_bytes != at:
            break
        yield source
        at += source.length_bytes
    if at != end:
        raise DiskError(f"the disk has no room at offset {at}, where {end - at} bytes belong")


def write_at(
    image: Image, offset_bytes: int, data: Union[bytes, bytearray, memoryview]
) -> None:
    """Write all of ``data`` at ``offset_bytes``; raise `SpaceError` or `DiskError`.

    It is also an error where the image has a hole there.
    """
    view = memoryview(data)
    for place in places_within(image, Extent(offset_bytes, len(view))):
        _write(place.fd, place.fd_offset, view[: place.length_bytes])
        view = view[place.length_bytes :]


def _write(fd: int, offset_bytes: int, view: memoryview) -> None:
    at = offset_bytes
    while view:
        try:
            written = os.pwrite(fd, view[:CALL_BYTES_MAX], at)
        except OSError as error:
            raise write_error(error, f"cannot write at offset {at}") from error
        at += written
        view = view[written:]


def write_extents(
    image: Image, extents: Iterable[Extent], data: Union[bytes, memoryview]
) -> None:
    """Write ``data``, which is as long as all of ``extents``, to where they say."""
    view = memoryview(data)
    for extent in extents:
        write_at(image, extent.offset_bytes, view[: extent.length_bytes])
        view = view[extent.length_bytes :]


def image_bytes(image: Image) -> int:
    """Return the size of a raw image (also a block device), in bytes."""
    if not isinstance(image, int):
        return image.size_bytes
    try:
        return os.lseek(image, 0, os.SEEK_END)
    except OSError as error:
        raise DiskError(f"cannot tell the size of the image: {error.strerror}") from error


def copy_range(src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, length: int) -> None:
    """Copy ``length`` bytes from one open file to another inside the kernel.

    The first of copy_file_range(2) (which shares blocks where the file system can),
    sendfile(2) and pread/pwrite that works for this pair of files does it.  The file
    position of ``dst_fd`` is changed.  Raises `DiskError` when the source ends early,
    `Unreadable` when the system cannot read it, `SpaceError` when there is no room for the
    copy.
    """
    done = 0
    movers = [_copy_file_range, _sendfile, _through_memory]
    while done < length:
        count = min(length - done, CALL_BYTES_MAX)
        mover = movers[0]
        try:
            moved = mover(src_fd, src_offset + done, dst_fd, dst_offset + done, count)
        except OSError as error:
            if error.errno in _TRY_ANOTHER_WAY | _EITHER_SIDE and len(movers) > 1:
                movers.pop(0)
                continue
            raise write_error(error, f"cannot copy to offset {dst_offset + done}") from error
        if moved == 0:
            # Some file systems answer copy_file_range with 0 although there is data.
            if len(movers) > 1:
                movers.pop(0)
                continue
            raise DiskError(
                f"a file shrank while it was read: it ends at {src_offset + done}, "
                f"where {length - done} more bytes were expected",
                "try again when nothing writes to it",
            )
        done += moved


def copy_to(image: Image, extent: Extent, src_fd: int, src_offset: int) -> None:
    """Copy what is at ``src_offset`` of an open file to a part of an image.

    As `copy_range`; it is also a `DiskError` where the image has a hole there.
    """
    for place in places_within(image, extent):
        at = src_offset + place.offset_bytes - extent.offset_bytes
        copy_range(src_fd, at, place.fd, place.fd_offset, place.length_bytes)


def _copy_file_range(src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, n: int) -> int:
    if not hasattr(os, "copy_file_range"):  # built against an old C library
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return os.copy_file_range(src_fd, dst_fd, n, src_offset, dst_offset)


def _sendfile(src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, n: int) -> int:
    os.lseek(dst_fd, dst_offset, os.SEEK_SET)
    return os.sendfile(dst_fd, src_fd, src_offset, n)


def _through_memory(src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, n: int) -> int:
    try:
        data = os.pread(src_fd, min(n, BUFFER_BYTES), src_offset)
    except OSError as error:
        raise Unreadable(error, f"cannot read at offset {src_offset}") from error
    return os.pwrite(dst_fd, data, dst_offset) if data else 0


class Unreadable(DiskError):
    """The system cannot read a file that is being copied; ``cause`` says why."""

    def __init__(self, cause: OSError, what: str) -> None:
        super().__init__(f"{what}: {cause.strerror}")
        self.cause = cause


def write_error(error: OSError, what: str) -> Exception:
    """The error for a file that cannot be written: `SpaceError` where there is no room."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return SpaceError(
            f"{what}: {error.strerror}",
            "free some room on the scratch disk (VM_CAPSULE_SCRATCH_DIR_PREFIX)",
        )
    return DiskError(f"{what}: {error.strerror}")


def data_extents(fd: int, size_bytes: int) -> Iterator[Extent]:
    """Yield the runs of the first ``size_bytes`` of a file that are not holes, ascending.

    Where the file system does not tell (lseek(2), SEEK_DATA), all of it is one run.
    """
    at = 0
    while at < size_bytes:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from here on
                return
            if error.errno in _TRY_ANOTHER_WAY:
                yield Extent(at, size_bytes - at)
                return
            raise Unreadable(error, "cannot find the holes of a file") from error
        start, end = min(start, size_bytes), min(end, size_bytes)
        if end > start:
            yield Extent(start, end - start)
        at = max(end, at + 1)


def open_image(path: Path, flags: int) -> int:
    """Open a regular file that is not a link; raise `DiskError` for anything else."""
    try:
        return open_regular(path, flags)
    except OSError as error:
        raise DiskError(f"cannot open '{path}': {error.strerror}") from error


def copy_sparse(src: Path, dst: Path) -> None:
    """Copy the regular file ``src`` to the new file ``dst`` (mode 0600), keeping its holes.

    Blocks are shared where the file system can.  ``dst`` must not exist yet, and is
    removed again when the copy fails.  Raises `DiskError` or `SpaceError`.
    """
    src_fd = open_image(src, os.O_RDONLY)
    try:
        size_bytes = image_bytes(src_fd)
        with created(dst, size_bytes) as dst_fd:
            for run in data_extents(src_fd, size_bytes):
                at = run.offset_bytes
                copy_range(src_fd, at, dst_fd, at, run.length_bytes)
    finally:
        os.close(src_fd)


@contextmanager
def created(path: Path, size_bytes: int) -> Iterator[int]:
    """Make a file (mode 0600) of ``size_bytes``, one hole, to be filled through its descriptor.

    It must not exist yet, and is removed again when the block ends with an exception.
    Raises `DiskError` or `SpaceError`.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise write_error(error, f"cannot create '{path}'") from error
    try:
        try:
            os.truncate(fd, size_bytes)
        except OSError as error:
            raise write_error(error, f"cannot make '{path}' so large") from error
        yield fd
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(fd)
