"""A tree onto a data disk and out again, beside mtools, pyfatfs and a plain copy.

All write into the same empty volume, made by the same formatter: ours into a copy, which it
makes itself.  Only that and the copying is timed, as a whole process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from bench.measure import Contender, Runs, alternate, command, median_s
from bench.place import (
    MTOOLS,
    OFFSET_BYTES,
    Place,
    discard,
    disk_bytes_for,
    empty_disk,
    folder_for,
    fresh,
    make_tree,
)
from bench.results import OURS, Growth, Measure, Outcome, at_most
from vmcapsule.process import run

CP, MCOPY, PYFATFS = "cp", "mcopy", "pyfatfs"
#: What is delivered is on disk before its only other copy goes; a mere cp waits for nothing.
FLUSHED_CP = "cp, flushed"
_FLUSHED_CP = 'cp -r "$1" "$2" && sync --file-system "$2"'
#: A file in a FAT is shorter than this.
_FAT_FILE_BYTES = 1 << 32
#: pyfatfs writes both FATs anew for each file, and reads them as Python lists.
_PYFATFS_FILES_MAX = 1000
_PYFATFS_BYTES_MAX = 1 << 30


@dataclass(frozen=True)
class Bench:
    """A tree, and for each contender a disk and a folder of its own."""

    place: Place
    folder: Path
    files: int
    file_bytes: int

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    def disk(self, name: str) -> Path:
        return self.folder / f"disk-{name}" / "data.vmdk"

    @property
    def staged(self) -> Path:
        """The disk that ours makes, like the one it is given."""
        return self.folder / "staged" / "data.vmdk"

    def image(self, name: str) -> Path:
        return self.disk(name).with_name("data-flat.vmdk")

    def out(self, name: str) -> Path:
        return self.folder / f"out-{name}"

    def blank(self, name: str) -> None:
        """An empty disk for ``name``."""
        self.disk(name).parent.mkdir(exist_ok=True)
        empty_disk(self.disk(name), disk_bytes_for(self.files, self.file_bytes))
        if name == OURS:
            fresh(self.staged.parent)
            self.staged.parent.mkdir()

    def bare(self, name: str) -> None:
        """An empty folder for ``name``."""
        if self.out(name).exists():
            discard(self.place, self.out(name))
        self.out(name).mkdir()

    # The contenders

    def staging(self, names: Sequence[str]) -> List[Contender]:
        """Those who bring the tree onto a disk, or for cp, into a folder."""
        commands = {
            OURS: self.place.driver("stage", self.tree, self.disk(OURS), self.staged.parent),
            CP: command("cp", "-r", self.tree, self.out("cp-in")),
            MCOPY: command(
                "mcopy", "-s", "-i", self._drive(MCOPY), self.tree, "::", env=MTOOLS
            ),
            PYFATFS: self.place.driver("pyfatfs_copy", "in", self.tree, *self._volume(PYFATFS)),
        }
        bare = partial(self.bare, "cp-in")
        return [
            Contender(name, commands[name], bare if name == CP else partial(self.blank, name))
            for name in names
        ]

    def extraction(self, names: Sequence[str]) -> List[Contender]:
        """Those who bring it back from where staging left it."""
        commands = {
            OURS: self.place.driver("extract", self.staged, self.out(OURS)),
            CP: command("cp", "-r", self.out("cp-in") / "tree", self.out(CP)),
            FLUSHED_CP: command(
                "sh", "-c", _FLUSHED_CP, "sh", self.out("cp-in") / "tree", self.out(FLUSHED_CP)
            ),
            MCOPY: command(
                "mcopy", "-s", "-n", "-i", self._drive(MCOPY), "::tree", self.out(MCOPY),
                env=MTOOLS,
            ),
            PYFATFS: self.place.driver(
                "pyfatfs_copy", "out", self.out(PYFATFS) / "tree", *self._volume(PYFATFS)
            ),
        }  # fmt: skip
        return [Contender(name, commands[name], partial(self.bare, name)) for name in names]

    def _drive(self, name: str) -> str:
        return f"{self.image(name)}@@{OFFSET_BYTES}"

    def _volume(self, name: str) -> Tuple[Path, int]:
        return self.image(name), OFFSET_BYTES

    def check(self, names: Sequence[str]) -> None:
        """Everybody brought back what was sent; `ToolError` where not."""
        for name in names:
            run(["diff", "-rq", self.tree, self.out(name) / "tree"], timeout_s=600)


def both_ways(
    bench: Bench,
    names: Sequence[str],
    rounds: int,
    budget_s: float = 120.0,
    extracting: Sequence[str] = (),
) -> Tuple[Dict[str, Runs], ...]:
    """Stage and extract; the runs of each, by contender.  ``extracting`` only extract."""
    make_tree(bench.tree, bench.files, bench.file_bytes)
    staged = alternate(bench.staging(names), rounds, budget_s)
    out = [*names, *extracting]
    extracted = alternate(bench.extraction(out), rounds, budget_s)
    bench.check(out)
    return staged, extracted


def large(place: Place) -> Outcome:
    """One large file."""
    rounds, size_bytes = place.sizes.rounds, place.sizes.large_bytes
    with folder_for(place, "large") as folder:
        bench = Bench(place, folder, 1, size_bytes)
        names = [OURS, CP, MCOPY, PYFATFS]
        staged, extracted = both_ways(bench, names, rounds, extracting=[FLUSHED_CP])
    what = f"one file of {size_of(size_bytes)}"
    kept = (at_most(extracted, CP, 1.1), at_most(extracted, FLUSHED_CP, 1.1))
    return Outcome(
        (
            Measure(
                f"stage {what}", staged, (at_most(staged, CP, 1.1), at_most(staged, MCOPY, 0.8))
            ),
            Measure(f"extract {what}", extracted, (*kept, at_most(extracted, MCOPY, 0.8))),
        )
    )


def small(place: Place) -> Outcome:
    """Thousands of small files."""
    sizes = place.sizes
    with folder_for(place, "small") as folder:
        bench = Bench(place, folder, sizes.files, sizes.file_bytes)
        names = [OURS, MCOPY, CP]
        staged, extracted = both_ways(bench, names, sizes.rounds, extracting=[FLUSHED_CP])
    what = f"{sizes.files:,} files of {sizes.file_bytes // 1000} kB"
    kept = (at_most(extracted, MCOPY, 1.0), at_most(extracted, FLUSHED_CP, 1.1))
    return Outcome(
        (
            Measure(f"stage {what}", staged, (at_most(staged, MCOPY, 1.0),)),
            Measure(f"extract {what}", extracted, kept),
        )
    )


def growth(place: Place) -> Outcome:
    """Both kinds, from little to much: seconds to stage and extract together."""
    by_files: Dict[str, List[Tuple[float, float]]] = {}
    by_bytes: Dict[str, List[Tuple[float, float]]] = {}
    for files in place.sizes.grow_files:
        place.say(f"{files:,} files")
        names = [OURS, MCOPY, CP, *([PYFATFS] if files <= _PYFATFS_FILES_MAX else [])]
        _grow(place, files, place.sizes.file_bytes, names, files, by_files)
    for size in place.sizes.grow_bytes:
        place.say(size_of(size))
        names = [OURS, CP, *([MCOPY] if size < _FAT_FILE_BYTES else [])]
        names += [PYFATFS] if size <= _PYFATFS_BYTES_MAX else []
        _grow(place, 1, size, names, size, by_bytes)
    return Outcome(
        growths=tuple(
            Growth(by, "seconds to stage and extract", {k: tuple(v) for k, v in points.items()})
            for by, points in (("files", by_files), ("bytes", by_bytes))
        )
    )


def _grow(
    place: Place,
    files: int,
    file_bytes: int,
    names: Sequence[str],
    at: int,
    points: Dict[str, List[Tuple[float, float]]],
) -> None:
    with folder_for(place, "growth") as folder:
        bench = Bench(place, folder, files, file_bytes)
        staged, extracted = both_ways(bench, names, 3, budget_s=30.0)
    for name in names:
        total_s = median_s(staged[name]) + median_s(extracted[name])
        points.setdefault(name, []).append((at, round(total_s, 4)))


def size_of(size_bytes: int) -> str:
    """A size for people to read."""
    gib = size_bytes / 2**30
    return f"{gib:g} GiB" if gib >= 1 else f"{size_bytes / 2**20:g} MiB"
