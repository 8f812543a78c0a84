"""Where the bytes of a vmdk disk are: the runs of its files that are not holes.

Source: VMware's "Virtual Disk Format 5.0", "Hosted Sparse Extents".
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Iterable, Iterator, Mapping, Optional

from vmcapsule.disk.extents import Source, data_extents, image_bytes, read_at
from vmcapsule.disk.vmdk.format import FORMS, Vmdk
from vmcapsule.disk.vmdk.write import HEADER, SECTOR_BYTES, TABLE_ENTRIES
from vmcapsule.errors import DiskError

_TABLE = struct.Struct(f"<{TABLE_ENTRIES}I")
#: A grain at this sector or before is none: never written, or zeros.
_NO_GRAIN = 1
#: In a redo log zeros hide what its parent has there: a piece that is in no file.
_ZEROS_FD = -1


def sources_in(disk: Vmdk, fds: Mapping[Path, int]) -> Iterator[Source]:
    """Yield what a disk holds, ascending, where ``fds`` has its extents' files, opened, and
    those of its parent.

    Raises `DiskError` for a sparse disk that is compressed, or was cut short.
    """
    if disk.parent is None:
        return _own(disk, fds)
    return layered(sources_in(disk.parent, fds), _own(disk, fds))


def layered(below: Iterable[Source], above: Iterable[Source]) -> Iterator[Source]:
    """Yield what is in ``above``, and in ``below`` where nothing is above it.

    Both ascend, and nothing in them overlaps.  What is above and in no file is zeros.
    """
    rest = iter(below)
    under = next(rest, None)
    for over in above:
        begin, end = over.offset_bytes, over.offset_bytes + over.length_bytes
        while under is not None and under.offset_bytes < begin:
            shown = min(under.length_bytes, begin - under.offset_bytes)
            yield under._replace(length_bytes=shown)
            under = _behind(under, shown) or next(rest, None)
        if over.fd != _ZEROS_FD:
            yield over
        while under is not None and under.offset_bytes < end:
            under = _behind(under, end - under.offset_bytes) or next(rest, None)
    while under is not None:
        yield under
        under = next(rest, None)


def _behind(source: Source, skipped_bytes: int) -> Optional[Source]:
    """What of it is behind so many bytes, if anything is."""
    at, length, fd, fd_at = source
    if skipped_bytes >= length:
        return None
    return Source(at + skipped_bytes, length - skipped_bytes, fd, fd_at + skipped_bytes)


def _own(disk: Vmdk, fds: Mapping[Path, int]) -> Iterator[Source]:
    """What is in a disk's own files; of a redo log the zeros, too."""
    base = 0
    for extent in disk.extents:
        assert extent.file is not None
        fd, length = fds[extent.file], extent.size_sectors * SECTOR_BYTES
        if FORMS[disk.form] == "FLAT":
            begin = extent.offset_sectors * SECTOR_BYTES
            yield from _flat(fd, begin, length, base)
        else:
            is_delta = disk.parent is not None
            yield from _joined(_grains(fd, extent.file, length, base, with_zeros=is_delta))
        base += length


def _flat(fd: int, begin: int, length: int, base: int) -> Iterator[Source]:
    """What is no hole in ``length`` bytes of a file; the disk has them at ``base``."""
    for run in data_extents(fd, begin + length):
        at = max(run.offset_bytes, begin)
        end = run.offset_bytes + run.length_bytes
        if end > at:
            yield Source(base + at - begin, end - at, fd, at)


def _grains(
    fd: int, path: Path, length: int, base: int, *, with_zeros: bool
) -> Iterator[Source]:
    """The grains of a sparse extent; the disk has its first at ``base``."""
    header = HEADER.unpack(read_at(fd, 0, HEADER.size))
    grain_bytes, directory, compression = header[4] * SECTOR_BYTES, header[9], header[13]
    if compression:
        raise DiskError(f"'{path}' is compressed", "convert it to monolithicSparse (qemu-img)")
    file_bytes = image_bytes(fd)
    tables = -(-length // (grain_bytes * TABLE_ENTRIES))
    if directory * SECTOR_BYTES + tables * 4 > file_bytes:
        raise _cut_short(path)
    places = read_at(fd, directory * SECTOR_BYTES, tables * 4)
    for number, (place,) in enumerate(struct.iter_unpack("<I", places)):
        table = read_at(fd, place * SECTOR_BYTES, _TABLE.size) if place else b""
        if table.count(0) == len(table):
            continue
        for grain, sector in enumerate(_TABLE.unpack(table), number * TABLE_ENTRIES):
            inside = min(grain_bytes, length - grain * grain_bytes)
            if inside <= 0:
                return
            if sector <= _NO_GRAIN:
                if sector and with_zeros:
                    at = base + grain * grain_bytes
                    yield Source(at, inside, _ZEROS_FD, at)
                continue
            if sector * SECTOR_BYTES + inside > file_bytes:
                raise _cut_short(path)
            yield Source(base + grain * grain_bytes, inside, fd, sector * SECTOR_BYTES)


def _cut_short(path: Path) -> DiskError:
    return DiskError(f"'{path}' is damaged: its end is missing", "see whether it was cut short")


def _joined(sources: Iterable[Source]) -> Iterator[Source]:
    """Those as one that go on where another ends, in the disk and in the file."""
    last = Source(0, 0, _ZEROS_FD, 0)
    for source in sources:
        shift = source.offset_bytes - last.offset_bytes
        is_next = source.fd == last.fd and source.fd_offset - last.fd_offset == shift
        if shift == last.length_bytes and is_next:
            last = Source(
                last.offset_bytes, shift + source.length_bytes, last.fd, last.fd_offset
            )
            continue
        if last.length_bytes:
            yield last
        last = source
    if last.length_bytes:
        yield last
