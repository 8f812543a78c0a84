"""The packs that carry a sandbox's data over vfat: any name, mode, hole or size.

The format is described in `vmcapsule.contract`.  Packing plans first: the plan says how
long each pack will be and which bytes of which file go where, so that packs can be
allocated whole and filled by the kernel.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from itertools import accumulate
from typing import Iterable, Iterator

from vmcapsule.contract import FILE_BYTES_MAX, PACK_BYTES_MAX, PACKS_MAX
from vmcapsule.disk.extents import Extent, Unreadable, data_extents
from vmcapsule.errors import InputError, TooLarge
from vmcapsule.named import NamedTuple
from vmcapsule.transfer.entries import FOLDER, Entries, Entry, Stretch

#: Data of files at least this long starts on a block boundary, so that file systems
#: that can share blocks do so.  Shorter files are packed tightly.
ALIGN_FROM_BYTES = 1 << 20
BLOCK_BYTES = 4096


class Member(NamedTuple):
    """One thing to pack: where it is on the host, and its path in the sandbox."""

    source: str
    path: str
    kind: str
    mode: int
    mtime_ns: int = 0
    size_bytes: int = 0
    has_holes: bool = False


class PackPlan(NamedTuple):
    """What the index will say, whence the data comes, and how long each pack will be."""

    entries: Entries
    sources: Sources
    pack_sizes_bytes: tuple[int, ...]


class Sources:
    """Where on the host each entry comes from, by its number.

    Mostly that is a folder and the entry's own path: then only the folder is kept.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._which = array("q")

    def append(self, source: str, path: str) -> None:
        """Add the next entry's."""
        self._which.append(self._numbered(source, path))

    def replace(self, number: int, source: str, path: str) -> None:
        """Another source for an entry."""
        self._which[number] = self._numbered(source, path)

    def of(self, number: int, path: str) -> str:
        """The source of the entry of that number and path."""
        which = self._which[number]
        return self._names[which] + path if which >= 0 else self._names[~which]

    def _numbered(self, source: str, path: str) -> int:
        if not source.endswith(path):
            self._names.append(source)
            return ~(len(self._names) - 1)
        folder = source[: len(source) - len(path)]
        number = self._numbers.setdefault(folder, len(self._names))
        if number == len(self._names):
            self._names.append(folder)
        return number


class _Gathered:
    """The members, a later one in the place of an earlier one of that path."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.entries = Entries()
        self.sources = Sources()
        self.with_holes: set[int] = set()
        self._numbers: dict[str, int] = {}
        for member in members:
            self._put(member)
        self._check_folders()

    def _put(self, member: Member) -> None:
        source, path, kind, mode, mtime_ns, size_bytes, has_holes = member
        count = len(self._numbers)
        number = self._numbers.setdefault(path, count)
        entry = Entry(path, kind, mode, mtime_ns, size_bytes)
        if number == count:
            self.entries.append(entry)
            self.sources.append(source, path)
        else:
            self.entries.replace(number, entry)
            self.sources.replace(number, source, path)
            self.with_holes.discard(number)
        if has_holes:
            self.with_holes.add(number)

    def _check_folders(self) -> None:
        """A file cannot have the name of a folder that others lie in."""
        known = ""
        for number, path in enumerate(self.entries.paths):
            above = path.rpartition("/")[0]
            if above == known:
                continue
            known = above
            other = self._numbers.get(above)
            if other is not None and self.entries[other].kind != FOLDER:
                raise InputError(
                    f"the input file '{self.sources.of(other, above)}' has the name of a "
                    f"folder that '{self.sources.of(number, path)}' lies in",
                    "rename one of them",
                )


class _Layout:
    """Hands out places in packs, one after the other."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def place(self, offset: int, length: int, align: bool) -> Iterator[Stretch]:
        while length:
            if not self.sizes or self.sizes[-1] >= PACK_BYTES_MAX:
                self.sizes.append(0)
            start = self.sizes[-1]
            if align:
                start = -(-start // BLOCK_BYTES) * BLOCK_BYTES
            piece = min(length, PACK_BYTES_MAX - start)
            if piece > 0:
                yield Stretch(offset, piece, len(self.sizes) - 1, start)
                offset, length = offset + piece, length - piece
            self.sizes[-1] = start + max(piece, 0)


def plan_packs(members: Iterable[Member]) -> PackPlan:
    """Lay out the packs for ``members``; later members replace earlier ones of that path.

    Holes of sparse files take no room.  Raises `InputError` for a file that cannot be
    opened, `TooLarge` when the packs would be larger than the format carries.
    """
    gathered = _Gathered(members)
    entries, sources = gathered.entries, gathered.sources
    layout = _Layout()
    for number, size_bytes in enumerate(entries.sizes):
        if size_bytes > FILE_BYTES_MAX:
            source = sources.of(number, entries.paths[number])
            raise TooLarge(
                f"the input file '{source}' has {size_bytes} bytes, more than the "
                f"{FILE_BYTES_MAX} that a file in the guest can have",
                "send what the job needs of it",
            )
        align = size_bytes >= ALIGN_FROM_BYTES
        if number in gathered.with_holes:
            parts = _data_of(sources.of(number, entries.paths[number]), size_bytes)
            entries.lay(number, (s for part in parts for s in layout.place(*part, align)))
        else:
            entries.lay(number, layout.place(0, size_bytes, align))
    if len(layout.sizes) > PACKS_MAX:
        raise TooLarge(
            f"the job's files hold {sum(layout.sizes)} bytes, more than the "
            f"{PACKS_MAX * PACK_BYTES_MAX} that a capsule carries",
            "let the job fetch large data itself",
        )
    return PackPlan(entries, sources, tuple(layout.sizes))


def _data_of(source: str, size_bytes: int) -> Iterator[tuple[int, int]]:
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(source, error) from error
    try:
        yield from data_extents(fd, size_bytes)
    except Unreadable as error:
        raise unreadable(source, error.cause) from error.cause
    finally:
        os.close(fd)


def unreadable(path: object, error: OSError) -> InputError:
    """The error for an input file that is missing or cannot be read."""
    return InputError(
        f"cannot read the input file '{path}': {error.strerror}",
        "check the name in the submit file and the file's permissions",
    )


class Pieces:
    """Extents taken as one run of bytes, of which parts are asked for.

    A part is found without a walk through all of them: a hostile volume can have a pack
    in a million pieces and an index that asks for a million parts of it.
    """

    def __init__(self, extents: Iterable[Extent]) -> None:
        self.extents = tuple(extents)
        self._ends = array("Q", accumulate(extent.length_bytes for extent in self.extents))

    def part(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield where ``length`` bytes from ``offset`` on lie; less when there are less."""
        index = bisect_right(self._ends, offset)
        while length > 0 and index < len(self.extents):
            extent, left = self.extents[index], self._ends[index] - offset
            piece = min(length, left)
            yield Extent(extent.offset_bytes + extent.length_bytes - left, piece)
            offset, length, index = offset + piece, length - piece, index + 1
