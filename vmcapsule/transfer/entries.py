"""The files, folders and links of a sandbox, by the hundred thousand."""

from __future__ import annotations

from array import array
from itertools import chain
from typing import Iterable, Iterator, NamedTuple, Sequence

FILE, FOLDER, LINK = "file", "dir", "link"
_KINDS = (FILE, FOLDER, LINK)
#: No pack has this number.
_ELSEWHERE = 0xFFFF


class Stretch(NamedTuple):
    """``length`` bytes of a file's data, at ``offset`` in it, kept in a pack."""

    offset: int
    length: int
    pack: int
    pack_offset: int


class Entry(NamedTuple):
    """One file, folder or link of a sandbox, as a line of the index says it."""

    path: str
    kind: str
    mode: int
    mtime_ns: int = 0
    size_bytes: int = 0
    stretches: tuple[Stretch, ...] = ()
    target: str = ""


class Entries:
    """A sequence of `Entry`, each made as it is asked for.

    Kept as columns: a hundred thousand take 3 MB beside their paths, as tuples 40.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._paths: list[str] = []
        self._kinds = bytearray()
        self._modes = array("H")
        self._mtimes_ns = array("q")
        self._sizes = array("Q")
        #: Nearly every file is whole in one stretch; by number, what is kept otherwise.
        self._packs = array("H")
        self._starts = array("Q")
        self._others: dict[int, array[int]] = {}
        self._targets: dict[int, str] = {}
        for entry in entries:
            self.append(entry)

    def append(self, entry: Entry) -> None:
        """Add an entry at the end."""
        path, kind, mode, mtime_ns, size_bytes, stretches, target = entry
        number = len(self._paths)
        self._paths.append(path)
        self._kinds.append(_KINDS.index(kind))
        self._modes.append(mode)
        self._mtimes_ns.append(mtime_ns)
        self._sizes.append(size_bytes)
        self._packs.append(_ELSEWHERE)
        self._starts.append(0)
        if stretches:
            self.lay(number, stretches)
        if target:
            self._targets[number] = target

    def replace(self, number: int, entry: Entry) -> None:
        """Put an entry without stretches in the place of such a one of the same path."""
        self._kinds[number] = _KINDS.index(entry.kind)
        self._modes[number] = entry.mode
        self._mtimes_ns[number] = entry.mtime_ns
        self._sizes[number] = entry.size_bytes

    def lay(self, number: int, stretches: Sequence[Stretch]) -> None:
        """Say where the data of an entry is that has no stretches yet."""
        if len(stretches) == 1:
            offset, length, pack, start = stretches[0]
            if offset == 0 and length == self._sizes[number] and pack < _ELSEWHERE:
                self._packs[number] = pack
                self._starts[number] = start
                return
        if stretches:
            self._others[number] = array("Q", chain.from_iterable(stretches))

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self._paths)))

    def __getitem__(self, number: int) -> Entry:
        size_bytes, pack = self._sizes[number], self._packs[number]
        return Entry(
            self._paths[number],
            _KINDS[self._kinds[number]],
            self._modes[number],
            self._mtimes_ns[number],
            size_bytes,
            (Stretch(0, size_bytes, pack, self._starts[number]),)
            if pack != _ELSEWHERE
            else self._other_stretches(number),
            self._targets.get(number, ""),
        )

    def _other_stretches(self, number: int) -> tuple[Stretch, ...]:
        kept = self._others.get(number, ())
        return tuple(Stretch(*kept[at : at + 4]) for at in range(0, len(kept), 4))

    @property
    def paths(self) -> Sequence[str]:
        """The entries' paths, in order."""
        return self._paths

    @property
    def sizes(self) -> Sequence[int]:
        """The sizes of their data in bytes, in order; 0 but for files."""
        return self._sizes
