"""Writing vmdk disks ourselves: a raw image's descriptor, or only what is in the image.

A disk of a few used blocks is made in a millisecond, where starting a program takes tens,
and the bytes never come into this process.  Source: VMware's "Virtual Disk Format 5.0",
"Hosted Sparse Extents"; the sizes chosen are those that QEMU and VMware choose.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from contextlib import contextmanager
from pathlib import Path
from typing import Iterable, Iterator, List, Sequence, Tuple

from vmcapsule.disk.disk_map import DiskMap
from vmcapsule.disk.extents import (
    Extent,
    Source,
    copy_to,
    created,
    data_extents,
    read_at,
    write_at,
)
from vmcapsule.named import NamedTuple

SECTOR_BYTES = 512
GRAIN_BYTES = 64 << 10
_GRAIN_SECTORS = GRAIN_BYTES // SECTOR_BYTES
TABLE_ENTRIES = 512
_TABLE_SECTORS = TABLE_ENTRIES * 4 // SECTOR_BYTES
_DESCRIPTOR_SECTORS = 20
#: So many grains side by side begin, in the file, at an even or odd one as on the disk: ext4
#: takes a tenth longer to fill its page cache at what is no multiple of 128 KiB.
_LONG_GRAINS = (16 << 20) // GRAIN_BYTES
#: Newlines are there to tell a copy that was spoilt; there is a second set of tables.
_FLAGS = 3
#: magic, version, flags, capacity, grain, descriptor's place and size, entries a table,
#: second and first directory, place of the first grain; in use, newlines, compression
HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")


class _Run(NamedTuple):
    """Adjoining grains that hold data, and where the first of them is in the file."""

    grain: int
    grains: int
    sector: int

    def source(self, fd: int, size_bytes: int) -> Source:
        """Where its bytes are, on a disk of ``size_bytes`` and in the file."""
        offset = self.grain * GRAIN_BYTES
        length = min(self.grains * GRAIN_BYTES, size_bytes - offset)
        return Source(offset, length, fd, self.sector * SECTOR_BYTES)


def sources_of(raw_fd: int, size_bytes: int) -> Iterator[Source]:
    """Yield what is in the first ``size_bytes`` of a raw image, without its holes.

    Where the file system does not tell of holes, zeros are taken for them.
    """
    for run in data_extents(raw_fd, size_bytes):
        at, length = run.offset_bytes, run.length_bytes
        if length < size_bytes:
            yield Source(at, length, raw_fd, at)
            continue
        for start in range(0, size_bytes, GRAIN_BYTES):
            data = read_at(raw_fd, start, min(GRAIN_BYTES, size_bytes - start))
            if data.count(0) != len(data):
                yield Source(start, len(data), raw_fd, start)


def write_sparse(
    sources: Iterable[Source], size_bytes: int, target: Path, *, adapter: str
) -> None:
    """Write the new file ``target``: a monolithicSparse disk of ``size_bytes``.

    It holds ``sources``, which do not overlap, and zeros elsewhere.  Raises `SpaceError` or
    `DiskError`, and leaves nothing then.
    """
    known = sorted(sources, key=lambda source: source.offset_bytes)
    extents = [Extent(source.offset_bytes, source.length_bytes) for source in known]
    with created_sparse(target, size_bytes, extents, adapter=adapter) as there:
        for source, extent in zip(known, extents):
            copy_to(there, extent, source.fd, source.fd_offset)


@contextmanager
def created_sparse(
    target: Path, size_bytes: int, extents: Iterable[Extent], *, adapter: str
) -> Iterator[DiskMap]:
    """Make the new file ``target``: a monolithicSparse disk of zeros, with room in it.

    Inside the block ``extents`` of it, which may overlap, are written through the map, in
    whatever order; they lie in the file in that of the disk.  The file is removed again when
    the block ends with an exception.  Raises `SpaceError` or `DiskError`.
    """
    sectors = size_bytes // SECTOR_BYTES
    layout = _Layout(sectors)
    runs = _runs(sorted(extents), layout.first_grain)
    # The last grain is there as a whole.
    end = runs[-1].sector + runs[-1].grains * _GRAIN_SECTORS if runs else layout.first_grain
    with created(target, end * SECTOR_BYTES) as fd:
        write_at(fd, 0, layout.header())
        extent = f'RW {sectors} SPARSE "{target.name}"'
        write_at(fd, SECTOR_BYTES, _descriptor("monolithicSparse", extent, sectors, adapter))
        for directory in layout.directories:
            places = (layout.table(directory, number) for number in range(layout.tables))
            write_at(fd, directory * SECTOR_BYTES, _words(array("I", places)))
        for number, table in _tables(runs):
            data = _words(table)
            for directory in layout.directories:
                write_at(fd, layout.table(directory, number) * SECTOR_BYTES, data)
        yield DiskMap(size_bytes, (run.source(fd, size_bytes) for run in runs))


def flat_beside(target: Path) -> Path:
    """Where the image of a flat disk of ours lies: ``NAME-flat.vmdk``."""
    return target.with_name(f"{target.stem}-flat.vmdk")


def write_flat(flat: Path, target: Path, *, adapter: str) -> None:
    """Write the new file ``target``: the descriptor of a monolithicFlat disk.

    ``flat`` is the disk's raw image, beside it.  Raises `SpaceError` or `DiskError`.
    """
    sectors = flat.stat().st_size // SECTOR_BYTES
    extent = f'RW {sectors} FLAT "{flat.name}" 0'
    with created(target, 0) as fd:
        write_at(fd, 0, _descriptor("monolithicFlat", extent, sectors, adapter))


class _Layout:
    """Where things are in the file, in sectors: twice directory and tables, then grains."""

    def __init__(self, sectors: int) -> None:
        self._sectors = sectors
        self.tables = -(-sectors // (_GRAIN_SECTORS * TABLE_ENTRIES))
        self._directory_sectors = -(-self.tables * 4 // SECTOR_BYTES)
        second = 1 + _DESCRIPTOR_SECTORS
        first = second + self._directory_sectors + self.tables * _TABLE_SECTORS
        end = first + self._directory_sectors + self.tables * _TABLE_SECTORS
        #: The spare one and the one that is used.
        self.directories = (second, first)
        self.first_grain = -(-end // _GRAIN_SECTORS) * _GRAIN_SECTORS

    def header(self) -> bytes:
        return HEADER.pack(
            b"KDMV",
            1,
            _FLAGS,
            self._sectors,
            _GRAIN_SECTORS,
            1,
            _DESCRIPTOR_SECTORS,
            TABLE_ENTRIES,
            *self.directories,
            self.first_grain,
            0,
            b"\n \r\n",
            0,
        )

    def table(self, directory: int, number: int) -> int:
        """Where the table of that number is that goes with a directory."""
        return directory + self._directory_sectors + number * _TABLE_SECTORS


def _descriptor(form: str, extent: str, sectors: int, adapter: str) -> bytes:
    heads = 16 if adapter == "ide" else 255
    cylinders = min(sectors // (heads * 63), 16383 if adapter == "ide" else 65535)
    content_id = int.from_bytes(os.urandom(4), "big") % 0xFFFFFFFE
    return (
        "# Disk DescriptorFile\n"
        "version=1\n"
        f"CID={content_id:08x}\n"
        "parentCID=ffffffff\n"
        f'createType="{form}"\n'
        "\n"
        "# Extent description\n"
        f"{extent}\n"
        "\n"
        "# The Disk Data Base\n"
        'ddb.virtualHWVersion = "4"\n'
        f'ddb.geometry.cylinders = "{cylinders}"\n'
        f'ddb.geometry.heads = "{heads}"\n'
        'ddb.geometry.sectors = "63"\n'
        f'ddb.adapterType = "{adapter}"\n'
    ).encode()


def _runs(extents: Iterable[Extent], first_sector: int) -> List[_Run]:
    """Which grains ``extents``, ascending, need; they lie one behind the other."""
    spans: List[List[int]] = []
    for extent in extents:
        first = extent.offset_bytes // GRAIN_BYTES
        end = -(-(extent.offset_bytes + extent.length_bytes) // GRAIN_BYTES)
        if spans and first <= spans[-1][1]:
            spans[-1][1] = max(end, spans[-1][1])
        else:
            spans.append([first, end])
    runs = []
    sector = first_sector
    for first, end in spans:
        if end - first >= _LONG_GRAINS and (sector // _GRAIN_SECTORS - first) % 2:
            sector += _GRAIN_SECTORS
        runs.append(_Run(first, end - first, sector))
        sector += (end - first) * _GRAIN_SECTORS
    return runs


def _tables(runs: Sequence[_Run]) -> Iterator[Tuple[int, array[int]]]:
    """Yield the tables that are not empty, by number: the sector of each grain that is there.

    One after the other, as a large disk has more of them than belong into memory.
    """
    number, table = -1, _empty_table()
    for run in runs:
        grain, end, sector = run.grain, run.grain + run.grains, run.sector
        while grain < end:
            if grain // TABLE_ENTRIES != number:
                if number >= 0:
                    yield number, table
                number, table = grain // TABLE_ENTRIES, _empty_table()
            place = grain % TABLE_ENTRIES
            here = min(end - grain, TABLE_ENTRIES - place)
            behind = sector + here * _GRAIN_SECTORS
            table[place : place + here] = array("I", range(sector, behind, _GRAIN_SECTORS))
            grain, sector = grain + here, behind
    if number >= 0:
        yield number, table


def _empty_table() -> array[int]:
    return array("I", bytes(4 * TABLE_ENTRIES))


def _words(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()
