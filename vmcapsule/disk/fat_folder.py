"""One folder of a FAT volume: its entries read, added, changed and removed in memory.

Source: Microsoft's FAT specification (fatgen103), "FAT Directory Structure".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Dict, Iterator, Optional, Tuple

from vmcapsule.disk import fat_names
from vmcapsule.disk.fat_names import SLOT_BYTES
from vmcapsule.errors import DiskError

#: The specification's limit, which Linux keeps too.
FOLDER_BYTES_MAX = 65536 * SLOT_BYTES

ATTR_VOLUME_LABEL = 0x08
ATTR_FOLDER = 0x10
ATTR_ARCHIVE = 0x20

_FREE_FROM_HERE = 0x00
_DELETED = 0xE5
#: name, attributes, case flags, created (tenths, time, date), accessed, first cluster
#: (high), written (time, date), first cluster (low), size.
_ENTRY = struct.Struct("<11sBBBHHHHHHHI")


@dataclass(frozen=True)
class Stamp:
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


@dataclass(frozen=True)
class Entry:
    """One file or folder: ``slot`` is its short entry's, ``slots`` counts the long too."""

    name: str
    alias: str
    short: bytes
    attributes: int
    first_cluster: int
    size_bytes: int
    slot: int
    slots: int

    @property
    def is_folder(self) -> bool:
        return bool(self.attributes & ATTR_FOLDER)


def parse(data: bytes, bits: int) -> Iterator[Entry]:
    """Yield the files and folders in a folder's bytes, in their order.

    ``bits`` is the FAT's: only FAT32's clusters have an upper half in their entries.

    Left out: deleted entries, the volume label, ``.`` and ``..``, and entries with
    neither a long nor a short name that is safe to be part of a path.
    """
    long_name = fat_names.LongNameReader()
    for at in range(0, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
        first, attributes = data[at], data[at + 11]
        if first == _FREE_FROM_HERE:
            return
        if first == _DELETED:
            long_name.clear()
        elif attributes & 0x3F == fat_names.ATTR_LONG_NAME:
            long_name.add(data[at : at + SLOT_BYTES])
        elif attributes & ATTR_VOLUME_LABEL:
            long_name.clear()
        else:
            entry = _parse_entry(data, at, long_name, bits)
            if entry is not None:
                yield entry


def _parse_entry(
    data: bytes, at: int, long_name: fat_names.LongNameReader, bits: int
) -> Optional[Entry]:
    fields = _ENTRY.unpack_from(data, at)
    short, attributes, case, _, _, _, _, high, _, _, low, size_bytes = fields
    slots = 1 + long_name.slot_count
    name = long_name.take(short)
    alias = fat_names.short_to_text(short, case)
    if not fat_names.is_safe(alias):
        if name is None:
            return None
        alias = name
    return Entry(
        name=alias if name is None else name,
        alias=alias,
        short=short,
        attributes=attributes,
        first_cluster=high << 16 | low if bits == 32 else low,
        size_bytes=size_bytes,
        slot=at // SLOT_BYTES,
        slots=1 if name is None else slots,
    )


def find_label(data: bytes) -> str:
    """Return the volume label that a root folder's bytes hold, or ""."""
    for at in range(0, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
        if data[at] == _FREE_FROM_HERE:
            break
        attributes = data[at + 11]
        if (
            data[at] != _DELETED
            and attributes & ATTR_VOLUME_LABEL
            and attributes & 0x3F != fat_names.ATTR_LONG_NAME
        ):
            return data[at : at + 11].decode("cp437").rstrip(" \0")
    return ""


class Folder:
    """A folder's bytes with an index of its names.

    ``first_cluster`` is 0 for the root of FAT12 and FAT16, and ``bits`` the FAT's.
    ``changed`` says that ``data`` has to be written.
    """

    def __init__(
        self, first_cluster: int, data: bytes, bits: int, *, changed: bool = False
    ) -> None:
        self.first_cluster = first_cluster
        self.data = bytearray(data)
        self.changed = changed
        self._bits = bits
        self._exact: Dict[str, Entry] = {}
        self._folded: Dict[str, Entry] = {}
        self._end = 0
        self._index()

    def _index(self) -> None:
        self._exact, self._folded = {}, {}
        taken = set()
        for entry in self.entries():
            taken.add(entry.short)
            self._enter(entry)
        self._shorts = fat_names.ShortNames(taken)
        end = 0
        while end < len(self.data) and self.data[end] != _FREE_FROM_HERE:
            end += SLOT_BYTES
        self._end = end // SLOT_BYTES
        # What is behind the end means nothing, until an entry is put where the end was.
        self.data[end:] = bytes(len(self.data) - end)

    def _enter(self, entry: Entry) -> None:
        self._exact.setdefault(entry.name, entry)
        self._folded.setdefault(fat_names.fold(entry.name), entry)
        self._folded.setdefault(fat_names.fold(entry.alias), entry)

    def entries(self) -> Iterator[Entry]:
        """Yield all files and folders in it, in their order on the disk."""
        return parse(bytes(self.data), self._bits)

    def find(self, name: str) -> Optional[Entry]:
        """Return the entry of this name, else one that differs only in case or by its alias.

        A Linux guest's mount options may let it make names that differ only in case.
        """
        return self._exact.get(name) or self._folded.get(fat_names.fold(name))

    def slots_missing(self, name: str) -> int:
        """Return by how many slots the folder has to grow to take ``name``.

        Deleted entries are squeezed out first where there is no room otherwise.
        """
        total, wanted = len(self.data) // SLOT_BYTES, _slots_for(name)
        if self._end + wanted > total:
            self._squeeze()
        return max(0, self._end + wanted - total)

    def _squeeze(self) -> None:
        starts = range(0, self._end * SLOT_BYTES, SLOT_BYTES)
        kept = [self.data[at : at + SLOT_BYTES] for at in starts if self.data[at] != _DELETED]
        if len(kept) < self._end:
            self.data[:] = b"".join(kept).ljust(len(self.data), b"\0")
            self.changed = True
            self._index()

    def add(
        self, name: str, attributes: int, first_cluster: int, size_bytes: int, stamp: Stamp
    ) -> None:
        """Add an entry; the caller has checked the name and made room."""
        short = self._shorts.make(name)
        alias = fat_names.short_to_text(short, 0)
        slots = b"" if alias == name else fat_names.long_slots(name, short)
        slots += pack_entry(short, attributes, first_cluster, size_bytes, stamp)
        count = len(slots) // SLOT_BYTES
        at = self._end * SLOT_BYTES
        self.data[at : at + len(slots)] = slots
        self._end += count
        self.changed = True
        last = self._end - 1
        self._enter(
            Entry(name, alias, short, attributes, first_cluster, size_bytes, last, count)
        )

    def update(self, entry: Entry, first_cluster: int, size_bytes: int, stamp: Stamp) -> None:
        """Give an existing file other contents."""
        tail = _tail(first_cluster, size_bytes, stamp)
        # Name, attributes, case and time of creation stay.
        struct.pack_into("<HHHHHI", self.data, entry.slot * SLOT_BYTES + 18, *tail)
        self.changed = True
        new = replace(entry, first_cluster=first_cluster, size_bytes=size_bytes)
        for names, key in (
            (self._exact, entry.name),
            (self._folded, fat_names.fold(entry.name)),
            (self._folded, fat_names.fold(entry.alias)),
        ):
            if names[key] == entry:
                names[key] = new

    def remove(self, entry: Entry) -> None:
        """Mark the entry's slots deleted."""
        for slot in range(entry.slot - entry.slots + 1, entry.slot + 1):
            self.data[slot * SLOT_BYTES] = _DELETED
        self.changed = True
        self._index()

    def grow(self, size_bytes: int) -> None:
        """Add room; the caller adds the clusters for it."""
        if len(self.data) + size_bytes > FOLDER_BYTES_MAX:
            raise DiskError("a folder is full: vfat allows 65,536 entries")
        self.data += bytes(size_bytes)
        self.changed = True


def _slots_for(name: str) -> int:
    if fat_names.is_short(name):
        return 1
    return 1 + -(-len(name.encode("utf-16-le")) // 26)


def pack_entry(
    short: bytes, attributes: int, first_cluster: int, size_bytes: int, stamp: Stamp
) -> bytes:
    """Return the 32 bytes of a short entry."""
    created = (0, stamp.time, stamp.date)
    tail = _tail(first_cluster, size_bytes, stamp)
    return _ENTRY.pack(short, attributes, 0, *created, *tail)


def _tail(first_cluster: int, size_bytes: int, stamp: Stamp) -> Tuple[int, ...]:
    high, low = first_cluster >> 16, first_cluster & 0xFFFF
    return (stamp.date, high, stamp.time, stamp.date, low, size_bytes)


def dot_entries(own_cluster: int, parent_cluster: int, stamp: Stamp) -> bytes:
    """Return the first two entries of a new folder; the root counts as cluster 0."""
    own = pack_entry(b".".ljust(11), ATTR_FOLDER, own_cluster, 0, stamp)
    return own + pack_entry(b"..".ljust(11), ATTR_FOLDER, parent_cluster, 0, stamp)
