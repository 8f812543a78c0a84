"""Partition tables, MBR and GPT, and where the vfat file system of a disk starts.

Sources: the MBR and EBR layout as Linux reads it (block/partitions/msdos.c); the UEFI
specification, "GUID Partition Table (GPT) Disk Layout".  Sectors have 512 bytes, as in
every vmdk.
"""

from __future__ import annotations

import struct
import zlib
from typing import List, Optional, Tuple

from vmcapsule.disk.extents import Image, read_at
from vmcapsule.disk.probe import describe, has_mbr, is_fat
from vmcapsule.errors import DiskError, TemplateError
from vmcapsule.named import NamedTuple

SECTOR_BYTES = 512
KNOB = "VM_CAPSULE_DISK_PART_OFFSET"

_EXTENDED = (0x05, 0x0F, 0x85)
_GPT_PROTECTIVE = 0xEE
_LOGICAL_MAX = 128
_GPT_ENTRIES_MAX = 1024

_MBR_KINDS = {
    **dict.fromkeys(
        (0x01, 0x04, 0x06, 0x0B, 0x0C, 0x0E, 0x11, 0x14, 0x16, 0x1B, 0x1C, 0x1E), "vfat"
    ),
    0x07: "ntfs",
    0x82: "linux-swap",
    0x83: "linux",
    0x8E: "lvm",
    0xEF: "efi",
}
_GPT_KINDS = {
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "data",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "linux",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "linux-swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "lvm",
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "efi",
    "21686148-6449-6e6f-744e-656564454649": "bios-boot",
}

#: status, type, first sector, sectors
_MBR_ENTRY = struct.Struct("<B3xB3xII")
#: signature, revision, header bytes, CRC, own sector, entries' sector, count, entry
#: bytes, entries' CRC
_GPT_HEADER = struct.Struct("<8sIII4xQ8x8x8x16xQIII")


class Partition(NamedTuple):
    """One partition; ``kind`` is what the table says is in it, not what was found there."""

    number: int
    offset_bytes: int
    length_bytes: int
    kind: str


def read_partitions(image: Image, size_bytes: int) -> Tuple[Partition, ...]:
    """Return a disk's partitions in the order of its table; none where it has no table.

    A disk that is a FAT volume as a whole has none.  Raises `DiskError` for a damaged
    table: entries past the disk's end, a chain without end, a wrong checksum.
    """
    if size_bytes < SECTOR_BYTES:
        return ()
    sector = read_at(image, 0, SECTOR_BYTES)
    if not has_mbr(sector):
        return ()
    entries = _mbr_entries(sector)
    if any(kind == _GPT_PROTECTIVE for kind, _, _ in entries):
        return _read_gpt(image, size_bytes)
    partitions: List[Partition] = []
    logical: List[Partition] = []
    for number, (kind, start, sectors) in enumerate(entries, 1):
        if kind in _EXTENDED:
            logical += _read_logical(image, size_bytes, start, sectors, 5 + len(logical))
        elif kind and sectors:
            name = _MBR_KINDS.get(kind, f"0x{kind:02x}")
            partitions.append(_partition(number, start, sectors, name, size_bytes))
    return (*partitions, *logical)


def _mbr_entries(sector: bytes) -> List[Tuple[int, int, int]]:
    entries = (_MBR_ENTRY.unpack_from(sector, at) for at in range(446, 510, 16))
    return [(kind, start, sectors) for _, kind, start, sectors in entries]


def _partition(number: int, start: int, sectors: int, kind: str, size_bytes: int) -> Partition:
    offset, length = start * SECTOR_BYTES, sectors * SECTOR_BYTES
    if start == 0 or offset + length > size_bytes:
        raise DiskError(
            f"partition {number} ({length} bytes at {offset}) does not lie within "
            f"the disk ({size_bytes} bytes)",
            "see whether the disk image was cut short",
        )
    return Partition(number, offset, length, kind)


def _read_logical(
    image: Image, size_bytes: int, base: int, base_sectors: int, number: int
) -> List[Partition]:
    """Follow the chain of boot records of one extended partition."""
    found: List[Partition] = []
    at = base
    for _ in range(_LOGICAL_MAX):
        _partition(number, at, 1, "", size_bytes)
        sector = read_at(image, at * SECTOR_BYTES, SECTOR_BYTES)
        if sector[510:512] != b"\x55\xaa":
            return found
        (kind, start, sectors), (next_kind, next_start, _) = _mbr_entries(sector)[:2]
        if kind and sectors:
            name = _MBR_KINDS.get(kind, f"0x{kind:02x}")
            entry = _partition(number + len(found), at + start, sectors, name, size_bytes)
            found.append(entry)
        if next_kind not in _EXTENDED or next_start == 0:
            return found
        if next_start >= base_sectors:
            raise DiskError("the chain of logical partitions leaves the extended one")
        at = base + next_start
    raise DiskError(f"more than {_LOGICAL_MAX} logical partitions, or a chain in a circle")


def _read_gpt(image: Image, size_bytes: int) -> Tuple[Partition, ...]:
    last = size_bytes // SECTOR_BYTES - 1
    entries = _gpt_entries(image, size_bytes, 1) or _gpt_entries(image, size_bytes, last)
    if entries is None:
        raise DiskError(
            "the GPT partition table is damaged: neither copy has a valid checksum",
            "repair it, or partition the disk anew (sfdisk)",
        )
    partitions = []
    for number, entry in enumerate(entries, 1):
        import uuid  # seldom needed

        kind = str(uuid.UUID(bytes_le=entry[:16]))
        start, end = struct.unpack_from("<QQ", entry, 32)
        if entry[:16] == bytes(16):
            continue
        if end < start:
            raise DiskError(f"partition {number} ends before it starts")
        name = _GPT_KINDS.get(kind, kind)
        partitions.append(_partition(number, start, end - start + 1, name, size_bytes))
    return tuple(partitions)


def _gpt_entries(image: Image, size_bytes: int, sector: int) -> Optional[List[bytes]]:
    """Return the entries of the table whose header is at ``sector``, None if damaged."""
    if not 0 < sector < size_bytes // SECTOR_BYTES:
        return None
    raw = read_at(image, sector * SECTOR_BYTES, SECTOR_BYTES)
    signature, _, header_bytes, crc, own, at, count, entry_bytes, entries_crc = (
        _GPT_HEADER.unpack_from(raw)
    )
    if signature != b"EFI PART" or not 92 <= header_bytes <= SECTOR_BYTES or own != sector:
        return None
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:header_bytes]) != crc:
        return None
    if count > _GPT_ENTRIES_MAX or entry_bytes not in (128, 256, 512, 1024):
        raise DiskError(f"a GPT of {count} entries of {entry_bytes} bytes is not supported")
    if at * SECTOR_BYTES + count * entry_bytes > size_bytes:
        return None
    table = read_at(image, at * SECTOR_BYTES, count * entry_bytes)
    if zlib.crc32(table) != entries_crc:
        return None
    return [table[i : i + entry_bytes] for i in range(0, len(table), entry_bytes)]


def locate_fat(image: Image, size_bytes: int, configured_offset: Optional[int]) -> int:
    """Return the offset in bytes of the disk's vfat file system.

    With a configured offset (``VM_CAPSULE_DISK_PART_OFFSET``) that one, after a check;
    `TemplateError` says what was found there instead and which offset looks right.
    Without, the first partition that has a FAT boot sector, or 0 where the disk as a
    whole is one; `DiskError` when there is none.
    """
    if configured_offset is None:
        found = _find_fat(image, size_bytes)
        if found is None:
            raise DiskError(
                f"no vfat partition on the disk: there is {_summary(image, size_bytes)}",
                "make one with a partition table (sfdisk) and mkfs.vfat",
            )
        return found
    if is_fat(image, size_bytes, configured_offset):
        return configured_offset
    what = describe(image, size_bytes, configured_offset)
    try:
        found = _find_fat(image, size_bytes)
    except DiskError as error:
        found, what = None, f"{what} ({error.message})"
    if found is None:
        remedy = f"no vfat partition was found on the disk; make one, then set {KNOB}"
    else:
        remedy = f"a vfat partition starts at {found}; set {KNOB} = {found} or unset it"
    raise TemplateError(
        f"no vfat file system at {KNOB} = {configured_offset}: found {what}", remedy
    )


def _find_fat(image: Image, size_bytes: int) -> Optional[int]:
    if is_fat(image, size_bytes, 0):
        return 0
    for partition in read_partitions(image, size_bytes):
        if is_fat(image, size_bytes, partition.offset_bytes):
            return partition.offset_bytes
    return None


def _summary(image: Image, size_bytes: int) -> str:
    partitions = read_partitions(image, size_bytes)
    if not partitions:
        return describe(image, size_bytes, 0)
    return ", ".join(
        f"{describe(image, size_bytes, p.offset_bytes)} in partition {p.number}"
        for p in partitions
    )
