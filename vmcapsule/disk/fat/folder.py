"""The folders of a FAT volume: their entries read, found by name, and made.

Source: Microsoft's FAT specification (fatgen103), "FAT Directory Structure".
"""

from __future__ import annotations

import struct
from typing import Dict, Iterable, Iterator, Optional, Tuple

from vmcapsule.disk.fat import names as fat_names
from vmcapsule.disk.fat.names import SLOT_BYTES
from vmcapsule.named import NamedTuple

#: The specification's limit, which Linux keeps too.
FOLDER_BYTES_MAX = 65536 * SLOT_BYTES

ATTR_VOLUME_LABEL = 0x08
ATTR_FOLDER = 0x10
ATTR_ARCHIVE = 0x20

FREE_FROM_HERE = 0x00
DELETED = 0xE5
#: name, attributes, case flags, created (tenths, time, date), accessed, first cluster
#: (high), written (time, date), first cluster (low), size.
_ENTRY = struct.Struct("<11sBBBHHHHHHHI")
#: What changes with a file's content: from ``accessed`` on.
_TAIL = struct.Struct("<HHHHHI")
_TAIL_AT = 18


class Stamp(NamedTuple):
    """A time as FAT keeps it: two 16-bit numbers, good to two seconds, without a zone."""

    date: int
    time: int

    @classmethod
    def at(cls, utc: Tuple[int, ...]) -> Stamp:
        """Return the stamp of a broken-down time (year, month, day, hour, minute, second)."""
        year, month, day, hour, minute, second = utc[:6]
        year = min(max(year, 1980), 2107)
        return cls(
            (year - 1980) << 9 | month << 5 | day, hour << 11 | minute << 5 | second // 2
        )


class Entry(NamedTuple):
    """One file or folder: ``slot`` is its short entry's, ``slots`` counts the long too."""

    name: str
    short: bytes
    case: int
    attributes: int
    first_cluster: int
    size_bytes: int
    slot: int
    slots: int

    @property
    def is_folder(self) -> bool:
        return bool(self.attributes & ATTR_FOLDER)

    @property
    def alias(self) -> str:
        """Its short name as text, or its long one where that is not safe."""
        alias = fat_names.short_to_text(self.short, self.case)
        return alias if fat_names.is_safe(alias) else self.name


def parse(pieces: Iterable[bytes], bits: int) -> Iterator[Entry]:
    """Yield the files and folders in a folder's bytes, in their order.

    The bytes come in pieces of whole slots.  ``bits`` is the FAT's: only FAT32's clusters
    have an upper half in their entries.

    Left out: deleted entries, the volume label, ``.`` and ``..``, and entries with
    neither a long nor a short name that is safe to be part of a path.
    """
    long_name = fat_names.LongNameReader()
    slot = -1
    for data in pieces:
        for at in range(0, len(data), SLOT_BYTES):
            slot += 1
            first, attributes = data[at], data[at + 11]
            if first == FREE_FROM_HERE:
                return
            if first == DELETED:
                long_name.clear()
            elif attributes & 0x3F == fat_names.ATTR_LONG_NAME:
                long_name.add(data[at : at + SLOT_BYTES])
            elif attributes & ATTR_VOLUME_LABEL:
                long_name.clear()
            else:
                entry = _parse_entry(_ENTRY.unpack_from(data, at), slot, long_name, bits)
                if entry is not None:
                    yield entry


def _parse_entry(
    fields: Tuple[bytes, int, int, int, int, int, int, int, int, int, int, int],
    slot: int,
    long_name: fat_names.LongNameReader,
    bits: int,
) -> Optional[Entry]:
    short, attributes, case, _, _, _, _, high, _, _, low, size_bytes = fields
    slots = 1 + long_name.slot_count
    name = long_name.take(short)
    if name is None:
        slots = 1
        name = fat_names.short_to_text(short, case)
        if not fat_names.is_safe(name):
            return None
    cluster = high << 16 | low if bits == 32 else low
    return Entry(name, short, case, attributes, cluster, size_bytes, slot, slots)


def find_label(data: bytes) -> str:
    """Return the volume label that a root folder's bytes hold, or ""."""
    for at in range(0, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
        if data[at] == FREE_FROM_HERE:
            break
        attributes = data[at + 11]
        if (
            data[at] != DELETED
            and attributes & ATTR_VOLUME_LABEL
            and attributes & 0x3F != fat_names.ATTR_LONG_NAME
        ):
            return fat_names.oem_text(data[at : at + 11]).rstrip(" \0")
    return ""


class Names:
    """The entries of a folder, by name."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._exact: Dict[str, Entry] = {}
        self._folded: Dict[str, Entry] = {}
        for entry in entries:
            self._exact.setdefault(entry.name, entry)
            self._folded.setdefault(fat_names.fold(entry.name), entry)
            self._folded.setdefault(fat_names.fold(entry.alias), entry)

    def find(self, name: str) -> Optional[Entry]:
        """Return the entry of this name, else one that differs only in case or by its alias.

        A Linux guest's mount options may let it make names that differ only in case.
        """
        return self._exact.get(name) or self._folded.get(fat_names.fold(name))

    def shorts(self) -> Iterator[bytes]:
        """Yield the short names that are taken."""
        return (entry.short for entry in self._exact.values())


def squeezed(data: bytearray) -> bytes:
    """Return the slots in use of a folder, without those that were deleted between them."""
    kept = []
    for at in range(0, len(data), SLOT_BYTES):
        if data[at] == FREE_FROM_HERE:
            break
        if data[at] != DELETED:
            kept.append(data[at : at + SLOT_BYTES])
    return b"".join(kept)


def pack_entry(
    short: bytes, attributes: int, first_cluster: int, size_bytes: int, stamp: Stamp
) -> bytes:
    """Return the 32 bytes of a short entry."""
    date, time = stamp
    high, low = first_cluster >> 16, first_cluster & 0xFFFF
    return _ENTRY.pack(
        short, attributes, 0, 0, time, date, date, high, time, date, low, size_bytes
    )


def put_content(
    data: bytearray, slot: int, first_cluster: int, size_bytes: int, stamp: Stamp
) -> None:
    """Give the file whose short entry is at ``slot`` other contents.

    Name, attributes, case and time of creation stay.
    """
    date, time = stamp
    high, low = first_cluster >> 16, first_cluster & 0xFFFF
    at = slot * SLOT_BYTES + _TAIL_AT
    _TAIL.pack_into(data, at, date, high, time, date, low, size_bytes)


def dot_entries(own_cluster: int, parent_cluster: int, stamp: Stamp) -> bytes:
    """Return the first two entries of a new folder; the root counts as cluster 0."""
    own = pack_entry(b".".ljust(11), ATTR_FOLDER, own_cluster, 0, stamp)
    return own + pack_entry(b"..".ljust(11), ATTR_FOLDER, parent_cluster, 0, stamp)
