"""A fresh FAT volume: as empty as it can be, so that a sparse file stays so.

Source: Microsoft's "FAT32 File System Specification" 1.03 (fatgen103).
"""

from __future__ import annotations

import os
import struct
from typing import Iterator, Tuple

from vmcapsule.disk.fat.names import oem_bytes
from vmcapsule.errors import UsageError
from vmcapsule.named import NamedTuple

SECTOR_BYTES = 512
#: Clusters begin at multiples of this on the disk, wherever the volume does: so a file's
#: bytes can be shared, or moved a page at a time.
ALIGN_BYTES = 4096
#: What comes first on a FAT32 of ours, behind the root folder and a folder for it, begins at
#: a multiple of this: Linux writes to its page cache in pieces that large, a tenth faster.
FIRST_FILE_ALIGN_BYTES = 128 << 10
_FOLDERS_BEFORE = 2
VOLUME_BYTES_MIN = 15 << 20
#: Fewer clusters make it a FAT16 for Windows and for the specification.
FAT32_CLUSTERS_MIN = 65525
_ROOT_ENTRIES_16 = 512
_FATS = 2
_MEDIA = 0xF8
_END_32, _END_16 = 0x0FFFFFFF, 0xFFFF
_VOLUME_LABEL = 0x08


class FatLayout(NamedTuple):
    """How a volume is divided up, in sectors; ``bits`` is 16 or 32."""

    bits: int
    sectors: int
    cluster_sectors: int
    reserved_sectors: int
    fat_sectors: int

    @property
    def root_sectors(self) -> int:
        """FAT16's root folder, which lies before the clusters."""
        return _ROOT_ENTRIES_16 * 32 // SECTOR_BYTES if self.bits == 16 else 0

    @property
    def heap_sector(self) -> int:
        """Where the clusters begin, counted from the volume's start."""
        return self.reserved_sectors + _FATS * self.fat_sectors + self.root_sectors

    @property
    def clusters(self) -> int:
        """How many clusters there are."""
        return (self.sectors - self.heap_sector) // self.cluster_sectors


def fat_layout(offset_bytes: int, size_bytes: int) -> FatLayout:
    """Choose the layout of a volume of ``size_bytes`` at ``offset_bytes`` of its disk.

    FAT32 with clusters of up to 32 KiB; FAT16 below about 33 MiB, where FAT32 is not
    allowed.  Raises `UsageError` for too small a volume, or an offset that is not a
    multiple of a sector.
    """
    if offset_bytes % SECTOR_BYTES or offset_bytes < SECTOR_BYTES:
        raise UsageError(
            f"the data partition cannot begin at {offset_bytes}",
            f"give a positive multiple of {SECTOR_BYTES}, as 1048576 or 32256",
        )
    if size_bytes < VOLUME_BYTES_MIN:
        raise UsageError(
            f"a data partition of {size_bytes} bytes is too small", "give at least 16 MiB"
        )
    sectors = size_bytes // SECTOR_BYTES
    for cluster_sectors in (64, 32, 16, 8, 4, 2, 1):
        layout = _divided(FatLayout(32, sectors, cluster_sectors, 32, 0), offset_bytes)
        if layout.clusters >= FAT32_CLUSTERS_MIN:
            return layout
    return _divided(FatLayout(16, sectors, 4, 1, 0), offset_bytes)


def _divided(layout: FatLayout, offset_bytes: int) -> FatLayout:
    """``layout`` with FATs that are large enough, and its clusters aligned on the disk."""
    # As if there were no FATs yet: a little more than they need, and never less.
    entries_bytes = -(-(layout.clusters + 2) * layout.bits // 8)
    layout = layout._replace(fat_sectors=-(-entries_bytes // SECTOR_BYTES))
    at, align = offset_bytes + layout.heap_sector * SECTOR_BYTES, ALIGN_BYTES
    cluster_bytes = layout.cluster_sectors * SECTOR_BYTES
    if layout.bits == 32 and cluster_bytes >= ALIGN_BYTES:
        at, align = at + _FOLDERS_BEFORE * cluster_bytes, FIRST_FILE_ALIGN_BYTES
    fill = -at % align // SECTOR_BYTES
    return layout._replace(reserved_sectors=layout.reserved_sectors + fill)


def empty_fat(
    offset_bytes: int, size_bytes: int, label: str, volume_id: int = 0
) -> Iterator[Tuple[int, bytes]]:
    """Yield what of an empty volume is not zeros, and where on its disk it belongs.

    ``label`` has up to 11 characters of code page 437, in upper case; a ``volume_id`` of 0
    becomes a random one.  Raises `UsageError` as `fat_layout`.
    """
    layout = fat_layout(offset_bytes, size_bytes)
    for sector, data in _sectors(layout, offset_bytes, label, volume_id):
        yield offset_bytes + sector * SECTOR_BYTES, data


def _sectors(
    layout: FatLayout, offset_bytes: int, label: str, volume_id: int
) -> Iterator[Tuple[int, bytes]]:
    name = oem_bytes(label)[:11].ljust(11)
    boot = _boot_sector(
        layout, offset_bytes, name, volume_id or int.from_bytes(os.urandom(4), "big")
    )
    yield 0, boot
    if layout.bits == 32:
        info = _info_sector(layout.clusters - 1)
        yield 1, info
        yield 6, boot
        yield 7, info
        first = struct.pack("<III", 0x0FFFFF00 | _MEDIA, _END_32, _END_32)
    else:
        first = struct.pack("<HH", 0xFF00 | _MEDIA, _END_16)
    for copy in range(_FATS):
        yield layout.reserved_sectors + copy * layout.fat_sectors, first
    root = layout.heap_sector - layout.root_sectors
    yield root, name + bytes([_VOLUME_LABEL]) + bytes(10) + b"\0\0\x21\0" + bytes(6)


def _boot_sector(layout: FatLayout, offset_bytes: int, label: bytes, volume_id: int) -> bytes:
    is_32 = layout.bits == 32
    small = layout.sectors < 1 << 16 and not is_32
    bpb = struct.pack(
        "<3s8sHBHBHHBHHHII",
        b"\xeb\x58\x90" if is_32 else b"\xeb\x3c\x90",
        b"VMCAPSUL",
        SECTOR_BYTES,
        layout.cluster_sectors,
        layout.reserved_sectors,
        _FATS,
        0 if is_32 else _ROOT_ENTRIES_16,
        layout.sectors if small else 0,
        _MEDIA,
        0 if is_32 else layout.fat_sectors,
        63,
        255,
        offset_bytes // SECTOR_BYTES,
        0 if small else layout.sectors,
    )
    if is_32:
        bpb += struct.pack("<IHHIHH12x", layout.fat_sectors, 0, 0, 2, 1, 6)
    kind = b"FAT32   " if is_32 else b"FAT16   "
    bpb += struct.pack("<BBBI11s8s", 0x80, 0, 0x29, volume_id, label, kind)
    return bpb.ljust(510, b"\0") + b"\x55\xaa"


def _info_sector(free: int) -> bytes:
    """FSInfo: ``free`` clusters are left, the next to try is the one behind the root's."""
    return struct.pack("<4s480x4sII12xI", b"RRaA", b"rrAa", free, 3, 0xAA550000)
