"""Where the bytes of a vmdk disk are: the runs of its files that are not holes.

Source: VMware's "Virtual Disk Format 5.0", "Hosted Sparse Extents".
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Iterable, Iterator, Mapping

from vmcapsule.disk.extents import Source, data_extents, image_bytes, read_at
from vmcapsule.disk.vmdk.format import FORMS, Vmdk
from vmcapsule.disk.vmdk.write import HEADER, SECTOR_BYTES, TABLE_ENTRIES
from vmcapsule.errors import DiskError

_TABLE = struct.Struct(f"<{TABLE_ENTRIES}I")
#: A grain at this sector or before is none: never written, or zeros.
_NO_GRAIN = 1


def sources_in(disk: Vmdk, fds: Mapping[Path, int]) -> Iterator[Source]:
    """Yield what a disk holds, ascending, where ``fds`` has its extents' files, opened.

    Raises `DiskError` for a sparse disk that is compressed, or was cut short.
    """
    base = 0
    for extent in disk.extents:
        assert extent.file is not None
        fd, length = fds[extent.file], extent.size_sectors * SECTOR_BYTES
        if FORMS[disk.form] == "FLAT":
            begin = extent.offset_sectors * SECTOR_BYTES
            yield from _flat(fd, begin, length, base)
        else:
            yield from _joined(_grains(fd, extent.file, length, base))
        base += length


def _flat(fd: int, begin: int, length: int, base: int) -> Iterator[Source]:
    """What is no hole in ``length`` bytes of a file; the disk has them at ``base``."""
    for run in data_extents(fd, begin + length):
        at = max(run.offset_bytes, begin)
        end = run.offset_bytes + run.length_bytes
        if end > at:
            yield Source(base + at - begin, end - at, fd, at)


def _grains(fd: int, path: Path, length: int, base: int) -> Iterator[Source]:
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
            if sector <= _NO_GRAIN:
                continue
            inside = min(grain_bytes, length - grain * grain_bytes)
            if inside <= 0:
                return
            if sector * SECTOR_BYTES + inside > file_bytes:
                raise _cut_short(path)
            yield Source(base + grain * grain_bytes, inside, fd, sector * SECTOR_BYTES)


def _cut_short(path: Path) -> DiskError:
    return DiskError(f"'{path}' is damaged: its end is missing", "see whether it was cut short")


def _joined(sources: Iterable[Source]) -> Iterator[Source]:
    """Those as one that go on where another ends, in the disk and in the file."""
    last = Source(0, 0, -1, 0)
    for source in sources:
        shift = source.offset_bytes - last.offset_bytes
        if shift == last.length_bytes and source.fd_offset - last.fd_offset == shift:
            last = Source(
                last.offset_bytes, shift + source.length_bytes, last.fd, last.fd_offset
            )
            continue
        if last.length_bytes:
            yield last
        last = source
    if last.length_bytes:
        yield last
