"""Free clusters given to many files at once, as chains in as few pieces as there can be."""

from __future__ import annotations

from array import array
from typing import Iterable, Iterator, List, Sequence, Tuple

from vmcapsule.disk.fat.table import RUNS_MAX, FatEditor, Run

#: Of free room in more pieces than a file may have only the longest are used.
FREE_RUNS_MAX = RUNS_MAX


def choose(free: Iterator[Run], need: int) -> Tuple[List[Run], int]:
    """Choose free runs that have ``need`` clusters: the first that is enough, else the longest.

    Returns them in the order of the disk and how many clusters they have: ``need``, or
    less where there are no more.
    """
    found = array("Q")  # a run as one number, so that the longer is the greater
    for first, length in free:
        if length >= need:
            return [(first, need)], need
        found.append(length << 32 | first)
        if len(found) == 2 * FREE_RUNS_MAX:
            found = array("Q", sorted(found, reverse=True)[:FREE_RUNS_MAX])
    chosen: List[Run] = []
    left = need
    for number in sorted(found, reverse=True)[:FREE_RUNS_MAX]:
        if left == 0:
            break
        chosen.append((number & 0xFFFFFFFF, min(number >> 32, left)))
        left -= chosen[-1][1]
    chosen.sort()
    return chosen, need - left


class Chains:
    """The clusters of many files and folders, each known by its number.

    Arrays, as there may be 100,000: where the pieces of each begin, and the pieces.
    """

    def __init__(self, needs: Iterable[int], runs: Sequence[Run]) -> None:
        """Pour ``runs`` into files that need so many clusters, one after the other."""
        self._starts = array("I", (0,))
        self._firsts = array("I")
        self._counts = array("I")
        pool = iter(runs)
        first = length = 0
        for need in needs:
            while need:
                if not length:
                    first, length = next(pool)
                taken = min(need, length)
                self._firsts.append(first)
                self._counts.append(taken)
                first, length, need = first + taken, length - taken, need - taken
            self._starts.append(len(self._firsts))

    def runs(self, number: int) -> List[Run]:
        """The clusters of one file, in their order."""
        begin, end = self._starts[number], self._starts[number + 1]
        return list(zip(self._firsts[begin:end], self._counts[begin:end]))

    def first(self, number: int) -> int:
        """The first cluster of one file; 0 where it has none."""
        begin = self._starts[number]
        return self._firsts[begin] if begin < self._starts[number + 1] else 0

    def link(self, editor: FatEditor) -> None:
        """Enter all chains into the FAT."""
        firsts, counts = self._firsts, self._counts
        for begin, end in zip(self._starts, self._starts[1:]):
            for at in range(begin, end):
                editor.link(firsts[at], counts[at], firsts[at + 1] if at + 1 < end else 0)
