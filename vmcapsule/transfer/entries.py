"""The files, folders and links of a sandbox, by the hundred thousand."""

from __future__ import annotations

from array import array
from itertools import chain
from typing import Any, Iterable, Iterator, Sequence

from vmcapsule.named import NamedTuple

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
    stretches: Sequence[Stretch] = ()
    target: str = ""


class Stretches(Sequence[Stretch]):
    """Stretches, each made as it is asked for: a sparse file can be in a million pieces."""

    def __init__(self, numbers: array[int]) -> None:
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers) // 4

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return [self[at] for at in range(*which.indices(len(self)))]
        at = 4 * range(len(self))[which]
        return Stretch(*self._numbers[at : at + 4])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]

    def __hash__(self) -> int:
        return hash(tuple(self))


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

    def lay(self, number: int, stretches: Iterable[Stretch]) -> None:
        """Say where the data of an entry is that has no stretches yet."""
        kept = array("Q", chain.from_iterable(stretches))
        if not kept:
            return
        is_whole = len(kept) == 4 and kept[0] == 0 and kept[1] == self._sizes[number]
        if is_whole and kept[2] < _ELSEWHERE:
            self._packs[number] = kept[2]
            self._starts[number] = kept[3]
        else:
            self._others[number] = kept

    def go_on(self, stretches: Iterable[Stretch]) -> None:
        """Say where more of the last entry's data is."""
        last = len(self._paths) - 1
        more = [*self[last].stretches, *stretches] if last not in self._others else stretches
        self._others.setdefault(last, array("Q")).extend(chain.from_iterable(more))
        self._packs[last] = _ELSEWHERE

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

    def _other_stretches(self, number: int) -> Sequence[Stretch]:
        kept = self._others.get(number)
        return Stretches(kept) if kept else ()

    @property
    def paths(self) -> Sequence[str]:
        """The entries' paths, in order."""
        return self._paths

    @property
    def sizes(self) -> Sequence[int]:
        """The sizes of their data in bytes, in order; 0 but for files."""
        return self._sizes
