"""The data disk: one vfat partition, on whose layout host and guest agree.

Clusters are as large as they can be and begin at multiples of 4 KiB of the disk, also
where the partition itself does not (as at 32256, where partition tools of old put it):
then a file's bytes can be shared or moved a page at a time.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from vmcapsule.errors import ToolError, UsageError
from vmcapsule.images.bootdisk import MIB, SECTOR_BYTES, Partition, mbr
from vmcapsule.process import run

LABEL = "CONDOR-DATA"
ALIGN_BYTES = 4096
PARTITION_BYTES_MIN = 15 * MIB
#: Fewer clusters make it a FAT16 for Windows and for the specification.
FAT32_CLUSTERS_MIN = 65525
_TYPE_FAT32 = 0x0C
_TYPE_FAT16 = 0x0E
_ALIGN_TRIES_MAX = 8
_TOOL_TIMEOUT_S = 600


@dataclass(frozen=True)
class FatLayout:
    """What mkfs.vfat is asked for: 16 or 32 bits, sectors a cluster."""

    bits: int
    cluster_sectors: int


def fat_layout(offset_bytes: int, size_bytes: int) -> FatLayout:
    """Choose the layout of a partition of ``size_bytes`` at ``offset_bytes``.

    FAT32 with clusters of up to 32 KiB; FAT16 below about 33 MiB, where FAT32 is not
    allowed.  Raises `UsageError` for too small a disk, or an offset that is not a
    multiple of a sector.
    """
    if offset_bytes % SECTOR_BYTES or offset_bytes < SECTOR_BYTES:
        raise UsageError(
            f"the data partition cannot begin at {offset_bytes}",
            f"give a positive multiple of {SECTOR_BYTES}, as 1048576 or 32256",
        )
    if size_bytes < PARTITION_BYTES_MIN:
        raise UsageError(
            f"a data partition of {size_bytes} bytes is too small", "give at least 16 MiB"
        )
    sectors = size_bytes // SECTOR_BYTES
    for cluster in (64, 32, 16, 8, 4, 2, 1):
        # Some room for the FATs themselves and the reserved sectors.
        if (sectors - sectors // 50 - 64) // cluster > FAT32_CLUSTERS_MIN:
            return FatLayout(32, cluster)
    return FatLayout(16, 4)


def build_data_disk(raw: Path, *, size_bytes: int, offset_bytes: int) -> None:
    """Write the raw data disk ``raw`` (sparse) of ``size_bytes``; raises `ToolError`."""
    layout = fat_layout(offset_bytes, size_bytes - offset_bytes)
    kind = _TYPE_FAT32 if layout.bits == 32 else _TYPE_FAT16
    part = Partition(offset_bytes, size_bytes - offset_bytes, kind)
    # Where the clusters begin depends on the FATs' size, which mkfs.vfat decides: look,
    # and fill up with reserved sectors.
    reserved = 32 if layout.bits == 32 else 1
    for _ in range(_ALIGN_TRIES_MAX):
        with raw.open("wb") as file:
            file.truncate(size_bytes)
            file.write(mbr([part]))
        _format(raw, part, layout, reserved)
        with raw.open("rb") as file:
            file.seek(offset_bytes)
            heap = heap_offset_bytes(file.read(SECTOR_BYTES), offset_bytes)
        if heap % ALIGN_BYTES == 0:
            return
        reserved += -heap % ALIGN_BYTES // SECTOR_BYTES
    raise ToolError(
        f"mkfs.vfat does not align clusters in {size_bytes} bytes at {offset_bytes}",
        "choose another size",
    )


def _format(raw: Path, part: Partition, layout: FatLayout, reserved: int) -> None:
    start = part.offset_bytes // SECTOR_BYTES
    run(
        ["mkfs.vfat", "-a", "-F", str(layout.bits), "-n", LABEL, "-h", str(start)]
        + ["-s", str(layout.cluster_sectors), "-R", str(reserved)]
        + ["--offset", str(start), raw, str(part.size_bytes // 1024)],
        timeout_s=_TOOL_TIMEOUT_S,
    )


def heap_offset_bytes(boot_sector: bytes, offset_bytes: int) -> int:
    """Return where a FAT's clusters begin on the disk, from its boot sector's fields."""
    reserved, fats, root_entries = struct.unpack_from("<HBH", boot_sector, 14)
    (fat16,) = struct.unpack_from("<H", boot_sector, 22)
    (fat32,) = struct.unpack_from("<I", boot_sector, 36)
    heap = reserved + fats * (fat16 or fat32) + root_entries * 32 // SECTOR_BYTES
    return offset_bytes + int(heap) * SECTOR_BYTES
