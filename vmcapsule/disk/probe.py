"""What is at some offset of a disk, in words for a message."""

from __future__ import annotations

import struct

from vmcapsule.disk.extents import Image, read_at
from vmcapsule.disk.fat.boot import looks_like_fat

_LOOK_BYTES = 68 << 10

#: offset, bytes, what they mean
_SIGNATURES = (
    (3, b"NTFS    ", "an NTFS boot sector"),
    (3, b"EXFAT   ", "an exFAT boot sector"),
    (512, b"EFI PART", "a GPT partition table"),
    (0, b"EFI PART", "the header of a GPT partition table"),
    (0, b"XFSB", "an XFS file system"),
    (0, b"hsqs", "a squashfs file system"),
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (512, b"LABELONE", "an LVM volume"),
    (4086, b"SWAPSPACE2", "Linux swap space"),
    (65536 + 64, b"_BHRfS_M", "a btrfs file system"),
    (32769, b"CD001", "an ISO 9660 file system"),
)


def is_fat(image: Image, size_bytes: int, offset_bytes: int) -> bool:
    """Tell whether there is a FAT boot sector at an offset of a disk."""
    if not 0 <= offset_bytes <= size_bytes - 512:
        return False
    return looks_like_fat(read_at(image, offset_bytes, 512))


def describe(image: Image, size_bytes: int, offset_bytes: int) -> str:
    """Name what is at an offset of a disk: "an ext4 file system", "zeros", ..."""
    if not 0 <= offset_bytes < size_bytes:
        return f"nothing (the disk has {size_bytes} bytes)"
    data = read_at(image, offset_bytes, min(_LOOK_BYTES, size_bytes - offset_bytes))
    if looks_like_fat(data[:512]):
        return "a vfat boot sector"
    for at, magic, what in _SIGNATURES:
        if data[at : at + len(magic)] == magic:
            return what
    if data[1080:1082] == b"\x53\xef":
        return _describe_ext(data)
    if has_mbr(data[:512]):
        return "an MBR partition table"
    if not data[:4096].strip(b"\0"):
        return "zeros"
    return "something that is no file system"


def _describe_ext(data: bytes) -> str:
    compatible, incompatible = struct.unpack_from("<II", data, 1024 + 92)
    if incompatible & 0x0040:  # extents
        return "an ext4 file system"
    return "an ext3 file system" if compatible & 0x0004 else "an ext2 file system"


def has_mbr(sector: bytes) -> bool:
    """Tell whether a disk's first sector has a partition table with at least one entry."""
    if len(sector) < 512 or sector[510:512] != b"\x55\xaa" or looks_like_fat(sector):
        return False
    entries = [sector[at : at + 16] for at in range(446, 510, 16)]
    return all(e[0] in (0x00, 0x80) for e in entries) and any(e[4] for e in entries)
