"""The file allocation table: chains of clusters followed, taken and given back.

The table is one array in memory.  Work that touches all of it (which clusters are free?)
is done on whole slices of bytes, because a loop in Python takes seconds on a large volume.
"""

from __future__ import annotations

import sys
from array import array
from typing import Iterator, List, Tuple

from vmcapsule.disk.extents import read_at, write_at
from vmcapsule.disk.fat_boot import Geometry
from vmcapsule.errors import DiskError

#: A chain in pieces: (first cluster, number of clusters), in the order of the chain.
Run = Tuple[int, int]

#: More pieces of one chain than this are refused: each costs memory.
RUNS_MAX = 1 << 20

_SLICE = 1 << 16
_STEP_MIN, _STEP_MAX = 4, 1024
_CLEAN = {16: 0x8000, 32: 0x08000000}
_LOW_NIBBLE = bytes(value & 0x0F for value in range(256))
_TO_USED = bytes(1 if value else 0 for value in range(256))


class FatTable:
    """The FAT of one volume.  Changes stay in memory until `flush`."""

    def __init__(self, fd: int, geometry: Geometry) -> None:
        self._fd = fd
        self._geometry = geometry
        self._bits = geometry.bits
        self._limit = geometry.cluster_count + 2
        self._mask = (1 << min(self._bits, 28)) - 1
        self._end = self._mask & ~7  # this and above end a chain; one less is a bad cluster
        sectors = -(-self._limit * self._bits // (8 * geometry.sector_bytes))
        raw = read_at(fd, geometry.fat_offset, sectors * geometry.sector_bytes)
        self._entries = _unpack(raw, self._bits)
        self._changed = bytearray(sectors)
        self._used = bytearray()
        self._free_count = 0
        self._next = 2

    @property
    def marked_dirty(self) -> bool:
        """Whether the second entry says that the volume was not unmounted."""
        clean = _CLEAN.get(self._bits, 0)
        return self._entries[1] & clean != clean

    @property
    def free_count(self) -> int:
        """The number of free clusters."""
        self._load_used()
        return self._free_count

    @property
    def next_free(self) -> int:
        """The cluster where the next search for a free one starts."""
        return self._next

    # --- reading

    def runs(self, first: int, limit: int, what: str) -> Tuple[List[Run], bool]:
        """Follow a chain for at most ``limit`` clusters.

        Returns its runs, and whether it ended there.  Raises `DiskError` naming ``what``
        when it leaves the volume, meets a free or bad cluster, or crosses itself.
        """
        runs: List[Run] = []
        cluster, left = first, limit
        while left > 0 and cluster < self._end:
            if not 2 <= cluster < self._limit:
                raise DiskError(f"{what} is damaged: its clusters lead to {cluster}")
            count = self._run_length(cluster, left)
            runs.append((cluster, count))
            if len(runs) > RUNS_MAX:
                raise DiskError(f"{what} is in more than {RUNS_MAX} pieces")
            left -= count
            cluster = self._entries[cluster + count - 1] & self._mask
        ended = cluster >= self._end
        if len(runs) > 1:
            _check_distinct(runs, what)
        return runs, ended

    def _run_length(self, first: int, limit: int) -> int:
        """Return how many clusters from ``first`` on follow each other, at most ``limit``."""
        entries, mask = self._entries, self._mask
        last = min(first + limit, self._limit) - 1
        at, step = first, _STEP_MIN
        while at + step <= last:
            if entries[at : at + step] != array(entries.typecode, range(at + 1, at + step + 1)):
                break
            at += step
            step = min(2 * step, _STEP_MAX)
        while at < last and entries[at] & mask == at + 1:
            at += 1
        return at - first + 1

    # --- writing

    def allocate(self, count: int) -> List[Run]:
        """Take ``count`` free clusters as one chain, in as few runs as possible.

        The caller has made sure that there are as many (`free_count`).
        """
        self._load_used()
        runs = self._find(count) if count else []
        for index, (first, length) in enumerate(runs):
            follower = runs[index + 1][0] if index + 1 < len(runs) else self._mask
            self._link(first, length, follower)
            self._used[first : first + length] = b"\1" * length
        self._free_count -= count
        if runs:
            self._next = runs[-1][0] + runs[-1][1]
        return runs

    def append(self, last: int) -> int:
        """Add one free cluster to the chain that ends with ``last``; return it."""
        [(cluster, _)] = self.allocate(1)
        self._link(last, 1, cluster)
        return cluster

    def release(self, runs: List[Run]) -> None:
        """Give the clusters of a chain back."""
        self._load_used()
        for first, length in runs:
            self._store(first, array(self._entries.typecode, bytes(length * self._width)))
            self._used[first : first + length] = bytes(length)
            self._free_count += length
            self._next = min(self._next, first)

    @property
    def _width(self) -> int:
        return self._entries.itemsize

    def _find(self, count: int) -> List[Run]:
        """Return the first free run that is long enough, else the longest ones."""
        found: List[Run] = []
        for start in (self._next, 2):
            found = []
            for first, length in self._free_runs(start):
                if length >= count:
                    return [(first, count)]
                found.append((first, length))
        found.sort(key=lambda run: -run[1])
        chosen: List[Run] = []
        left = count
        for first, length in found:
            chosen.append((first, min(length, left)))
            left -= chosen[-1][1]
            if left == 0:
                break
        return sorted(chosen)

    def _free_runs(self, start: int) -> Iterator[Run]:
        used = self._used
        first = used.find(0, start)
        while first >= 0:
            end = used.find(1, first)
            end = end if end >= 0 else len(used)
            yield first, end - first
            first = used.find(0, end)

    def _link(self, first: int, length: int, follower: int) -> None:
        chain = array(self._entries.typecode, range(first + 1, first + length))
        chain.append(follower)
        self._store(first, chain)

    def _store(self, first: int, values: array[int]) -> None:
        """Set entries, keeping the four bits of a FAT32 entry that are not ours."""
        entries, high = self._entries, ~self._mask & 0xFFFFFFFF
        count = len(values)
        if self._bits == 32:
            old = entries[first : first + count]
            if old.tobytes() != bytes(len(old) * self._width):
                values = array(entries.typecode, [v | o & high for v, o in zip(values, old)])
        entries[first : first + count] = values
        sector_bits = self._geometry.sector_bytes * 8
        begin = first * self._bits // sector_bits
        end = ((first + count) * self._bits - 1) // sector_bits + 1
        self._changed[begin:end] = b"\1" * (end - begin)

    def _load_used(self) -> None:
        """Build the map of clusters, a byte each: 0 is free, 1 is not."""
        if self._used:
            return
        used = bytearray()
        for at in range(0, self._limit, _SLICE):
            part = self._entries[at : min(at + _SLICE, self._limit)]
            used += _used_bytes(part.tobytes(), self._bits)
        used[:2] = b"\1\1"
        self._used = used
        self._free_count = used.count(0)

    def flush(self) -> None:
        """Write the sectors that changed to every copy of the table."""
        if 1 not in self._changed:
            return
        sector_bytes = self._geometry.sector_bytes
        raw = b"" if self._bits == 32 else _pack(self._entries, self._bits)
        begin = self._changed.find(1)
        while begin >= 0:
            end = self._changed.find(0, begin)
            end = end if end >= 0 else len(self._changed)
            low, high = begin * sector_bytes, end * sector_bytes
            if self._bits == 32:
                data = _pack(self._entries[low // 4 : high // 4], 32)
            else:
                data = raw[low:high]
            for copy in range(self._geometry.fat_copies):
                at = self._geometry.fat_offset + copy * self._geometry.fat_bytes
                write_at(self._fd, at + low, data)
            begin = self._changed.find(1, end)
        self._changed = bytearray(len(self._changed))


def _check_distinct(runs: List[Run], what: str) -> None:
    ordered = sorted(runs)
    for (first, count), (following, _) in zip(ordered, ordered[1:]):
        if first + count > following:
            raise DiskError(f"{what} is damaged: its clusters go in a circle")


def _unpack(raw: bytes, bits: int) -> array[int]:
    if bits == 12:
        # Two entries in three bytes; what is left over at the end is not an entry.
        whole = len(raw) // 3 * 3
        first = (a | (b & 0x0F) << 8 for a, b in zip(raw[0:whole:3], raw[1:whole:3]))
        second = (b >> 4 | c << 4 for b, c in zip(raw[1:whole:3], raw[2:whole:3]))
        entries = array("H", [entry for pair in zip(first, second) for entry in pair])
        left = raw[whole:]
        if len(left) == 2:
            entries.append(left[0] | (left[1] & 0x0F) << 8)
        return entries
    entries = array("H" if bits == 16 else "I")
    entries.frombytes(raw)
    if sys.byteorder == "big":
        entries.byteswap()
    return entries


def _pack(entries: array[int], bits: int) -> bytes:
    if bits == 12:
        padded = entries if len(entries) % 2 == 0 else entries + array("H", [0])
        pairs = zip(padded[0::2], padded[1::2])
        return b"".join((a | b << 12).to_bytes(3, "little") for a, b in pairs)
    if sys.byteorder == "big":
        entries = entries[:]
        entries.byteswap()
    return entries.tobytes()


def _used_bytes(raw: bytes, bits: int) -> bytes:
    """Return a byte for each entry (in the machine's byte order): 0 is free, else 1.

    The bytes of all entries are put over each other as one long number.
    """
    width = 4 if bits == 32 else 2
    count = len(raw) // width
    if not any((raw[0], raw[-1])) and raw == bytes(len(raw)):
        return bytes(count)
    top = width - 1 if sys.byteorder == "little" else 0
    merged = 0
    for index in range(width):
        plane = raw[index::width]
        if bits == 32 and index == top:
            plane = plane.translate(_LOW_NIBBLE)
        merged |= int.from_bytes(plane, "little")
    return merged.to_bytes(count, "little").translate(_TO_USED)
