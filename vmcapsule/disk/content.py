"""What of a data disk is content: all but what its vfat volume does not use.

A preallocated disk has every byte, and what was deleted leaves its bytes behind: neither
is worth a copy.
"""

from __future__ import annotations

from array import array
from itertools import chain
from typing import Iterable, Iterator, Optional, Tuple

from vmcapsule.disk.disk_map import DiskMap
from vmcapsule.disk.extents import Extent
from vmcapsule.disk.fat.boot import Geometry, read_geometry
from vmcapsule.disk.fat.table import FatTable
from vmcapsule.disk.partition import locate_fat, read_partitions

#: Holes are made of such blocks, and only such are shared between files.
BLOCK_BYTES = 4096
#: Who holds no more is copied as it is: to look what is used of it would cost as much.
_LITTLE_BYTES = 1 << 20


def content(disk: DiskMap, offset_bytes: Optional[int]) -> Iterator[Extent]:
    """Return where the content of a disk is, ascending, in whole blocks.

    Left out are, of the vfat volume at ``offset_bytes`` (None: the first), free clusters, the
    parts of the FATs that say so, and zeros before the volume.  Where the FAT is damaged
    nobody can say what is not used, nor where the volume is larger than its partition: all
    is content.  Raises `DiskError` or `TemplateError` where there is no volume.
    """
    free: Iterable[Tuple[int, int]] = ()
    if disk.data_bytes > _LITTLE_BYTES:
        volume = locate_fat(disk, disk.size_bytes, offset_bytes)
        geometry = read_geometry(disk, volume)
        table = FatTable(disk, geometry)
        if table.is_sound and not _overlaps(disk, volume, geometry):
            head = disk.read_at(0, min(volume, _LITTLE_BYTES))
            gap = (len(head.rstrip(b"\0")), len(head))
            runs = array("I", (number for run in table.free_runs() for number in run))
            free = chain((gap,), _unused(geometry, runs))
    return _others(free, disk.size_bytes)


def _overlaps(disk: DiskMap, volume: int, geometry: Geometry) -> bool:
    """Whether the volume goes on behind its partition, where other things may be."""
    if volume == 0:
        return False
    end = geometry.cluster_offset(geometry.cluster_count + 2)
    partitions = read_partitions(disk, disk.size_bytes)
    ends = [p.offset_bytes + p.length_bytes for p in partitions if p.offset_bytes == volume]
    return end > min(ends, default=disk.size_bytes) or any(
        volume < p.offset_bytes < end for p in partitions
    )


def _unused(geometry: Geometry, runs: array[int]) -> Iterator[Tuple[int, int]]:
    """Where what goes with free clusters begins and ends: in each FAT, then themselves.

    ``runs`` has the first cluster of each run, and their number behind it.
    """
    for copy in range(geometry.fat_copies):
        fat = geometry.fat_offset + copy * geometry.fat_bytes
        for first, count in zip(runs[::2], runs[1::2]):
            end = fat + (first + count) * geometry.bits // 8
            # Of FAT12 two entries can be in one byte.
            yield fat + -(-first * geometry.bits // 8), end
    for first, count in zip(runs[::2], runs[1::2]):
        yield geometry.cluster_offset(first), geometry.cluster_offset(first + count)


def _others(free: Iterable[Tuple[int, int]], size_bytes: int) -> Iterator[Extent]:
    """The extents around the whole blocks in ``free``."""
    at = 0
    for begin, end in free:
        begin += -begin % BLOCK_BYTES
        end -= end % BLOCK_BYTES
        if begin < end:
            if begin > at:
                yield Extent(at, begin - at)
            at = end
    if size_bytes > at:
        yield Extent(at, size_bytes - at)
