"""The boot sector of a FAT volume: its geometry, with every field checked.

Source: Microsoft's "FAT32 File System Specification" 1.03 (fatgen103); where that and
Linux's vfat driver differ, Linux's reading is followed, as the guests are Linux.
"""

from __future__ import annotations

import struct
from typing import Tuple

from vmcapsule.disk.extents import Image, image_bytes, read_at
from vmcapsule.disk.fat.names import oem_text
from vmcapsule.errors import DiskError
from vmcapsule.named import NamedTuple

BOOT_BYTES = 512
#: Offset of the byte whose lowest bit Linux sets while the volume is mounted.
_STATE_AT = {12: 37, 16: 37, 32: 65}
_LABEL_AT = {12: 43, 16: 43, 32: 71}
_DIRTY = 0x01
#: More clusters than this (a FAT of 256 MiB) are refused.
CLUSTERS_MAX = 1 << 26

#: From offset 11: sector bytes, cluster sectors, reserved sectors, FATs, root entries,
#: sectors (16 bit), media, FAT sectors (16 bit), (geometry, hidden), sectors (32 bit).
_BPB = struct.Struct("<HBHBHHBH8xI")
#: From offset 36: FAT sectors, flags, version, root cluster, FSInfo sector.
_BPB32 = struct.Struct("<IHHIH")


class Geometry(NamedTuple):
    """Where things are in a FAT volume; offsets are absolute in the image, in bytes.

    ``fat_bytes`` is one of the ``fat_copies`` adjoining copies of the FAT.  ``root_bytes``
    and ``root_offset`` are FAT12's and FAT16's root folder, ``root_cluster`` FAT32's, and
    the others 0.  ``info_offset`` is FAT32's FSInfo sector, or 0.
    """

    offset_bytes: int
    bits: int
    sector_bytes: int
    cluster_bytes: int
    cluster_count: int
    fat_offset: int
    fat_bytes: int
    fat_copies: int
    root_offset: int
    root_bytes: int
    root_cluster: int
    data_offset: int
    info_offset: int
    marked_dirty: bool
    label: str

    def cluster_offset(self, cluster: int) -> int:
        """Return where a cluster (2 to cluster_count + 1) starts in the image."""
        return self.data_offset + (cluster - 2) * self.cluster_bytes


def looks_like_fat(sector: bytes) -> bool:
    """Tell whether the first 512 bytes of a volume are a FAT boot sector's."""
    if len(sector) < BOOT_BYTES or sector[510:512] != b"\x55\xaa":
        return False
    sector_bytes, cluster_sectors, reserved, fats, _, _, media, _, _ = _BPB.unpack_from(
        sector, 11
    )
    return (
        sector_bytes in (512, 1024, 2048, 4096)
        and cluster_sectors > 0
        and cluster_sectors & (cluster_sectors - 1) == 0
        and reserved > 0
        and 1 <= fats <= 4
        and (media == 0xF0 or media >= 0xF8)
    )


def read_geometry(image: Image, offset_bytes: int) -> Geometry:
    """Read and check the boot sector at ``offset_bytes`` of an image; or `DiskError`."""
    end = image_bytes(image)
    if not 0 <= offset_bytes <= end - BOOT_BYTES:
        raise DiskError(f"no FAT volume at offset {offset_bytes}: the image has {end} bytes")
    boot = read_at(image, offset_bytes, BOOT_BYTES)
    if not looks_like_fat(boot):
        raise DiskError(
            f"no FAT volume at offset {offset_bytes}",
            "see whether the offset is right, or format the volume with mkfs.vfat",
        )
    return _check(boot, offset_bytes, end - offset_bytes)


def _check(boot: bytes, offset: int, room_bytes: int) -> Geometry:
    sector_bytes, cluster_sectors, reserved, fats, root_entries, small, _, fat16, large = (
        _BPB.unpack_from(boot, 11)
    )
    fat32, flags, version, root_cluster, info = _BPB32.unpack_from(boot, 36)
    sectors = small or large
    fat_sectors = fat16 or fat32
    root_bytes = root_entries * 32
    is_32 = fat16 == 0
    if root_bytes % sector_bytes or (root_bytes == 0) != is_32:
        raise _damaged(offset, f"{root_entries} root entries")
    data_sector = reserved + fats * fat_sectors + root_bytes // sector_bytes
    if sectors * sector_bytes > room_bytes:
        raise _damaged(offset, f"{sectors} sectors where {room_bytes} bytes are left")
    clusters = (sectors - data_sector) // cluster_sectors
    if clusters < 1:
        raise _damaged(offset, f"no room for data in {sectors} sectors")
    bits, clusters_max = _kind(is_32, clusters)
    if clusters > clusters_max:
        raise _damaged(offset, f"{clusters} clusters, more than {clusters_max}")
    if (clusters + 2) * bits > fat_sectors * sector_bytes * 8:
        raise _damaged(offset, f"{clusters} clusters in a FAT of {fat_sectors} sectors")
    if is_32:
        if version != 0 or not 2 <= root_cluster < clusters + 2:
            raise _damaged(offset, f"version {version}, root folder at {root_cluster}")
        if flags & 0x80 and flags & 0x0F:
            raise _damaged(offset, "it does not use its first FAT")
    return Geometry(
        offset_bytes=offset,
        bits=bits,
        sector_bytes=sector_bytes,
        cluster_bytes=cluster_sectors * sector_bytes,
        cluster_count=clusters,
        fat_offset=offset + reserved * sector_bytes,
        fat_bytes=fat_sectors * sector_bytes,
        fat_copies=fats,
        root_offset=0 if is_32 else offset + (reserved + fats * fat_sectors) * sector_bytes,
        root_bytes=root_bytes,
        root_cluster=root_cluster if is_32 else 0,
        data_offset=offset + data_sector * sector_bytes,
        info_offset=offset + info * sector_bytes if is_32 and 0 < info < reserved else 0,
        marked_dirty=bool(boot[_STATE_AT[bits]] & _DIRTY),
        label=_label(boot, bits),
    )


def _kind(is_32: bool, clusters: int) -> Tuple[int, int]:
    """Return the bits of an entry and the most clusters; FAT32 is told as Linux does."""
    if is_32:
        return 32, CLUSTERS_MAX
    return (12, 4084) if clusters <= 4084 else (16, 65524)


def _label(boot: bytes, bits: int) -> str:
    at = _LABEL_AT[bits]
    if boot[at - 5] != 0x29:  # the signature of an extended boot record with a label
        return ""
    label = oem_text(boot[at : at + 11]).rstrip(" \0")
    return "" if label == "NO NAME" else label


def _damaged(offset: int, what: str) -> DiskError:
    return DiskError(
        f"the FAT volume at offset {offset} is damaged: {what}",
        "format it anew with mkfs.vfat",
    )
