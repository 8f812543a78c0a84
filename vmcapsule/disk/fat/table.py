"""The file allocation table: chains of clusters followed, made and given back.

Only the parts that are asked for are read, and few are kept: a table may have 256 MiB.
Work that touches much of it (which clusters are free?) is done on whole slices of bytes,
because a loop in Python takes seconds on a large volume.
"""

from __future__ import annotations

import sys
from array import array
from typing import Dict, Iterable, Iterator, List, Sequence, Tuple

from vmcapsule.disk.extents import Extent, Image, read_at, write_at
from vmcapsule.disk.fat.boot import CLUSTERS_MAX, Geometry
from vmcapsule.errors import DiskError

#: A chain in pieces: (first cluster, number of clusters), in the order of the chain.
Run = Tuple[int, int]

#: More pieces of one chain than this are refused: each costs memory.
RUNS_MAX = 1 << 16
#: Entries that are read together where chains are followed; so many pages are kept.
PAGE_ENTRIES = 1 << 10
PAGES_MAX = 1 << 10
#: Entries that are changed, or searched for free ones, together.
_WINDOW = 1 << 16
#: The first look for free clusters: a fresh volume has them right at the start.
_FIRST_LOOK = 1 << 12

#: So much of each copy is compared together.
_COMPARED_BYTES = 1 << 18

_STEP_MIN = 4
_CLEAN = {16: 0x8000, 32: 0x08000000}
_LOW_NIBBLE = bytes(value & 0x0F for value in range(256))
_TO_USED = bytes(1 if value else 0 for value in range(256))


class FatTable:
    """The FAT of one volume, for reading."""

    def __init__(self, image: Image, geometry: Geometry) -> None:
        self._image = image
        self._geometry = geometry
        self._bits = geometry.bits
        self._limit = geometry.cluster_count + 2
        self._mask = (1 << min(self._bits, 28)) - 1
        self._end = self._mask & ~7  # this and above end a chain; one less is a bad cluster
        self._pages: Dict[int, array[int]] = {}

    @property
    def marked_dirty(self) -> bool:
        """Whether the second entry says that the volume was not unmounted."""
        clean = _CLEAN.get(self._bits, 0)
        return self._page(0)[1] & clean != clean

    @property
    def is_sound(self) -> bool:
        """Whether it begins as a FAT does, and all its copies are alike."""
        geometry, begun = self._geometry, self._page(0)[0] & self._mask
        if begun | 0xFF != self._mask or begun & 0xFF < 0xF0:
            return False
        starts = [
            geometry.fat_offset + n * geometry.fat_bytes for n in range(geometry.fat_copies)
        ]
        for at in range(0, geometry.fat_bytes, _COMPARED_BYTES):
            length = min(_COMPARED_BYTES, geometry.fat_bytes - at)
            first, *others = (read_at(self._image, start + at, length) for start in starts)
            if any(other != first for other in others):
                return False
        return True

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
            count, follower = self._run(cluster, left)
            runs.append((cluster, count))
            if len(runs) > RUNS_MAX:
                raise DiskError(f"{what} is in more than {RUNS_MAX} pieces")
            left -= count
            cluster = follower
        ended = cluster >= self._end
        if len(runs) > 1:
            _check_distinct(runs, what)
        return runs, ended

    def _run(self, first: int, limit: int) -> Tuple[int, int]:
        """How many clusters from ``first`` on follow each other, and where the last leads."""
        last = min(first + limit, self._limit) - 1
        at = first
        while at < last:
            page, start = self._page(at // PAGE_ENTRIES), at % PAGE_ENTRIES
            most = min(last - at, len(page) - start)
            count = _ascending(page, start, most, at + 1, self._mask)
            at += count
            if count < most:
                break
        follower = self._page(at // PAGE_ENTRIES)[at % PAGE_ENTRIES] & self._mask
        return at - first + 1, follower

    def _page(self, number: int) -> array[int]:
        page = self._pages.get(number)
        if page is None:
            if len(self._pages) == PAGES_MAX:
                del self._pages[next(iter(self._pages))]
            page = _load(self._image, self._geometry, number * PAGE_ENTRIES, PAGE_ENTRIES)
            self._pages[number] = page
        return page

    def free_runs(
        self, released: Sequence[Run] = (), enough: int = CLUSTERS_MAX
    ) -> Iterator[Run]:
        """Yield the runs of free clusters in the order of the disk, as they are found.

        The runs of ``released`` are taken as free.  One of ``enough`` clusters or more is
        the last, and may go on: no more of the table is read.
        """
        begin = end = 2
        at, count = 0, _FIRST_LOOK
        while at < self._limit:
            entries = _load(self._image, self._geometry, at, count)
            used = bytearray(_used_bytes(entries.tobytes(), self._bits))
            for first, length in released:
                low, high = max(first - at, 0), min(first + length - at, len(used))
                if low < high:  # else it lies in another part of the table
                    used[low:high] = bytes(high - low)
            used[: max(2 - at, 0)] = b"\1" * max(2 - at, 0)
            for first, stop in _zeros(used):
                if at + first != end:
                    if end > begin:
                        yield begin, end - begin
                    begin = at + first
                end = at + stop
            if end - begin >= enough:
                break
            at, count = at + count, min(2 * count, _WINDOW)
        if end > begin:
            yield begin, end - begin


class FatEditor:
    """Changes to the FAT of one volume, reaching all its copies window by window."""

    def __init__(self, image: Image, geometry: Geometry) -> None:
        self._image = image
        self._geometry = geometry
        self._mask = (1 << min(geometry.bits, 28)) - 1
        self._window = array("I")
        self._start = -1
        self._changed = (0, 0)

    def link(self, first: int, count: int, follower: int = 0) -> None:
        """Chain ``count`` clusters from ``first`` on; the last ends it or has a follower."""
        last = first + count - 1
        while first < last:
            at, stop = self._at(first, last)
            self._store(at, array(self._window.typecode, range(first + 1, first + stop + 1)))
            first += stop
        at, _ = self._at(last, last + 1)
        self._store(at, array(self._window.typecode, (follower or self._mask,)))

    def release(self, first: int, count: int) -> None:
        """Make ``count`` clusters from ``first`` on free."""
        end = first + count
        while first < end:
            at, stop = self._at(first, end)
            zeros = bytes(stop * self._window.itemsize)
            self._store(at, array(self._window.typecode, zeros))
            first += stop

    def _at(self, cluster: int, end: int) -> Tuple[int, int]:
        """Where an entry is in its window, and how many of those before ``end`` are."""
        start = cluster - cluster % _WINDOW
        if start != self._start:
            self.flush()
            self._window = _load(self._image, self._geometry, start, _WINDOW)
            self._start = start
        at = cluster - start
        return at, min(end - cluster, len(self._window) - at)

    def _store(self, at: int, values: array[int]) -> None:
        """Set entries, keeping the four bits of a FAT32 entry that are not ours."""
        window, end = self._window, at + len(values)
        if self._geometry.bits == 32:
            old, high = window[at:end], ~self._mask & 0xFFFFFFFF
            if any(old):
                values = array("I", [v | o & high for v, o in zip(values, old)])
        window[at:end] = values
        low, high = self._changed
        self._changed = (min(low, at), max(high, end)) if high else (at, end)

    def flush(self) -> None:
        """Write what was changed and not yet written, to every copy."""
        low, high = self._changed
        if not high:
            return
        self._changed = (0, 0)
        geometry = self._geometry
        low -= low % 2  # a pair of FAT12's entries takes three bytes
        high = min(high + high % 2, len(self._window))
        data = _pack(self._window[low:high], geometry.bits)
        for extent in _in_copies(geometry, self._start + low, self._start + high):
            write_at(self._image, extent.offset_bytes, data)


def entries_of(geometry: Geometry, runs: Iterable[Run]) -> Iterator[Extent]:
    """Yield where a `FatEditor` writes that changes the entries of ``runs``, in every copy."""
    changed: Dict[int, Tuple[int, int]] = {}
    for first, count in runs:
        end = first + count
        for start in range(first - first % _WINDOW, end, _WINDOW):
            low, high = changed.get(start, (end, 0))
            changed[start] = min(low, max(first, start)), max(high, min(end, start + _WINDOW))
    for low, high in changed.values():
        high = min(high + high % 2, geometry.cluster_count + 2)
        yield from _in_copies(geometry, low - low % 2, high)


def _in_copies(geometry: Geometry, first: int, end: int) -> Iterator[Extent]:
    """Where entries from the even ``first`` on are, in every copy."""
    at = geometry.fat_offset + first * geometry.bits // 8
    length = -(-(end - first) * geometry.bits // 8)
    for copy in range(geometry.fat_copies):
        yield Extent(at + copy * geometry.fat_bytes, length)


def _load(image: Image, geometry: Geometry, first: int, count: int) -> array[int]:
    """Read entries from the even ``first`` on, up to the last that stands for a cluster."""
    bits = geometry.bits
    count = min(count, geometry.cluster_count + 2 - first)
    at = geometry.fat_offset + first * bits // 8
    return _unpack(read_at(image, at, -(-count * bits // 8)), bits)


def _ascending(page: array[int], start: int, most: int, value: int, mask: int) -> int:
    """How many of ``most`` entries from ``start`` on are ``value``, ``value`` + 1, ..."""
    done, step = 0, _STEP_MIN
    while done + step <= most:
        wanted = array(page.typecode, range(value + done, value + done + step))
        if page[start + done : start + done + step] != wanted:
            break
        done += step
        step = min(2 * step, PAGE_ENTRIES)
    while done < most and page[start + done] & mask == value + done:
        done += 1
    return done


def _zeros(used: bytearray) -> Iterator[Tuple[int, int]]:
    """Yield where each run of zeros begins and ends."""
    first = used.find(0)
    while first >= 0:
        end = used.find(1, first)
        end = end if end >= 0 else len(used)
        yield first, end
        first = used.find(0, end)


def _check_distinct(runs: List[Run], what: str) -> None:
    ordered = sorted(runs)
    for (first, count), (following, _) in zip(ordered, ordered[1:]):
        if first + count > following:
            raise DiskError(f"{what} is damaged: its clusters go in a circle")


def _unpack(raw: bytes, bits: int) -> array[int]:
    if bits == 12:
        # Two entries in three bytes; what is left over at the end is not a pair.
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
        data = b"".join((a | b << 12).to_bytes(3, "little") for a, b in pairs)
        return data[: -(-len(entries) * bits // 8)]
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
