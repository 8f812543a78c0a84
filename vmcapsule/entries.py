"""The files, folders and links of a sandbox, by the hundred thousand."""

from __future__ import annotations

from array import array
from typing import Iterable, Iterator, NamedTuple

FILE, FOLDER, LINK = "file", "dir", "link"
_KINDS = (FILE, FOLDER, LINK)


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

    Kept as columns: a hundred thousand take 5 MB beside their paths, as tuples 40.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._paths: list[str] = []
        self._kinds = bytearray()
        self._modes = array("H")
        self._mtimes_ns = array("q")
        self._sizes = array("Q")
        #: Four numbers a stretch, and how many numbers there are after each entry's.
        self._stretches = array("Q")
        self._ends = array("Q", [0])
        self._targets: dict[int, str] = {}
        for entry in entries:
            self.append(entry)

    def append(self, entry: Entry) -> None:
        """Add an entry at the end."""
        path, kind, mode, mtime_ns, size_bytes, stretches, target = entry
        if target:
            self._targets[len(self._paths)] = target
        self._paths.append(path)
        self._kinds.append(_KINDS.index(kind))
        self._modes.append(mode)
        self._mtimes_ns.append(mtime_ns)
        self._sizes.append(size_bytes)
        for stretch in stretches:
            self._stretches.extend(stretch)
        self._ends.append(len(self._stretches))

    def replace(self, number: int, entry: Entry) -> None:
        """Put an entry without stretches in the place of such a one of the same path."""
        self._kinds[number] = _KINDS.index(entry.kind)
        self._modes[number] = entry.mode
        self._mtimes_ns[number] = entry.mtime_ns
        self._sizes[number] = entry.size_bytes

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self._paths)))

    def __getitem__(self, number: int) -> Entry:
        # Nearly every file lies in one stretch.
        start, end = self._ends[number], self._ends[number + 1]
        return Entry(
            self._paths[number],
            _KINDS[self._kinds[number]],
            self._modes[number],
            self._mtimes_ns[number],
            self._sizes[number],
            tuple(Stretch(*self._stretches[at : at + 4]) for at in range(start, end, 4)),
            self._targets.get(number, ""),
        )

    @property
    def paths(self) -> Iterator[str]:
        """The entries' paths, in order."""
        return iter(self._paths)
