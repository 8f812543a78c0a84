"""Trees that hypothesis makes, on volumes new and used, judged by fsck.vfat, mtools, pyfatfs.

A few here; tox's environment "trees" makes 4,000 for each test, with a profile of its own.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.disk_volumes import (
    KINDS,
    Kind,
    complaints,
    copied,
    make_volume,
    mtools_put,
    mtools_tree,
    opened,
    our_tree,
    put,
    pyfatfs_tree,
)
from vmcapsule.disk.extents import Extent, Source, copy_sparse, read_at, write_extents
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.errors import SpaceError

Size = Tuple[int, int]

#: What no name may have, and a tilde, which would make it the short name of another.
FORBIDDEN = '"*/:<>?\\|~'
CHARS = st.sampled_from("aAbZ019 ._-+,;=[]!#$%&'()@^`{}éÉßıµŒ語ΩЖ") | st.characters(
    codec="utf-16", exclude_categories=("C", "Z"), exclude_characters=FORBIDDEN
)
WORD = st.text(CHARS, min_size=1, max_size=30).map(lambda word: word.strip(" ."))


def holdable(name: str) -> bool:
    """Also what mtools and pyfatfs make of a dot or a space at the start differs from ours."""
    return name not in ("", "-") and name.isprintable()  # "-" is mcopy's standard input


NAME = WORD.filter(holdable)
# mcopy takes brackets for a pattern.
MTOOLS_WORD = st.text("aAbZ019 ._-+,;=!#$%&'()@^`{}éÉß語漢", min_size=1, max_size=30)
MTOOLS_NAME = MTOOLS_WORD.map(lambda word: word.strip(" .")).filter(holdable)
# mtools adds one cluster to a folder at most for a name: 16 slots here.
MTOOLS_LONG = st.integers(14, 150).map(lambda n: "long name " + "x" * (n - 10))
LONG = st.integers(14, 250).map(lambda n: "long name " + "x" * (n - 10))
#: How long a file is: clusters, and bytes more or less.
SIZE = st.tuples(st.integers(0, 5), st.integers(-2, 2))


def trees(names: st.SearchStrategy[str]) -> st.SearchStrategy[Dict[str, Size]]:
    """Trees of up to four levels, whose names differ from one another in any reading."""
    path = st.lists(names, min_size=1, max_size=4).map(tuple)
    return st.dictionaries(path, SIZE, max_size=12).map(_without_clashes)


def _without_clashes(tree: Dict[Tuple[str, ...], Size]) -> Dict[str, Size]:
    chosen: Dict[str, Size] = {}
    spelling: Dict[str, str] = {}
    files, folders = set(), set()
    for parts, size in tree.items():
        keys = ["/".join(parts[:n]).casefold().upper() for n in range(1, len(parts) + 1)]
        if keys[-1] in folders | files or files & set(keys):
            continue
        full = [spelling.setdefault(key, part) for key, part in zip(keys, parts)]
        files.add(keys[-1])
        folders.update(keys[:-1])
        chosen["/".join(full)] = size
    return chosen


@dataclass(frozen=True)
class Scars:
    """What was on a volume before: so many files, of which each nth was removed since.

    ``full`` leaves less room behind them than the next files need.
    """

    files: int
    nth: int
    full: bool


SCARS = st.builds(Scars, st.integers(0, 60), st.integers(2, 4), st.booleans())

# Each tree takes several programs: a fifth of the examples that the profile has.
TREES = settings(
    max_examples=settings().max_examples // 5, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Dict[Kind, Path]:
    folder = tmp_path_factory.mktemp("blank")
    return {kind: make_volume(folder / str(n), kind) for n, kind in enumerate(KINDS)}


@contextmanager
def volume(blank: Path) -> Iterator[Tuple[Path, Path]]:
    """A copy of a blank volume, and a folder for what is needed beside it."""
    with tempfile.TemporaryDirectory(prefix="vmcapsule-tree-") as folder:
        image = Path(folder) / "v.img"
        copy_sparse(blank, image)
        yield image, Path(folder)


def contents(tree: Dict[str, Size], kind: Kind) -> Dict[str, bytes]:
    """Give every file as many bytes as it is to have, none like another's."""
    cluster_bytes = kind.cluster_sectors * 512
    filled = {}
    for number, (path, (clusters, more)) in enumerate(tree.items()):
        size = max(clusters * cluster_bytes + more, 0)
        filled[path] = (b"%d:" % number * (size // 2 + 1))[:size]
    return filled


def scarred(image: Path, kind: Kind, scars: Scars, room: int) -> Dict[str, bytes]:
    """Make a used volume of a blank one; return what is on it."""
    size = kind.cluster_sectors * 512
    old = {f"old file {n}": b"%03d" % n * (size // 3 * (n % 3 + 1)) for n in range(scars.files)}
    put(image, kind, old)
    if scars.full:
        with opened(image, kind) as opened_volume:
            free = opened_volume.free_bytes
        old["all the rest"] = bytes(max(free - room // 2 // size * size, 0))
        put(image, kind, {"all the rest": old["all the rest"]})
    removed: List[str] = [f"old file {n}" for n in range(0, scars.files, scars.nth)]
    put(image, kind, {}, remove=removed)
    return {path: data for path, data in old.items() if path not in removed}


class Recording:
    """An image that knows where it was written to."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.size_bytes, self._fd = size_bytes, fd
        self.written = bytearray(size_bytes)

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        return read_at(self._fd, offset_bytes, length_bytes)

    def within(self, extents: Iterable[Extent]) -> Iterator[Source]:
        for at, length in extents:
            self.written[at : at + length] = b"\1" * length
            yield Source(at, length, self._fd, at)


@TREES
@given(tree=trees(NAME | LONG), kind=st.sampled_from(KINDS), scars=SCARS)
def test_a_layout_knows_beforehand_where_all_is_written(
    blank: Dict[Kind, Path], tree: Dict[str, Size], kind: Kind, scars: Scars
) -> None:
    files = contents(tree, kind)
    with volume(blank[kind]) as (image, _):
        old = scarred(image, kind, replace(scars, full=False), 0)
        with opened(image, kind) as used:
            names = {path: len(data) for path, data in files.items()}
            gone = list(old)[::2] if scars.full else []
            layout = lay_out(used, names, remove=gone)
            fd = used.image
            assert isinstance(fd, int)
            to = Recording(fd, image.stat().st_size)
            for path, extents in layout.places():
                write_extents(to, extents, files[path])
            known = list(layout.extents())
            layout.write(to)
        for at, length in known:
            to.written[at : at + length] = bytes(length)
        assert to.written.find(1) == -1


@TREES
@given(tree=trees(NAME | LONG), kind=st.sampled_from(KINDS))
def test_what_we_write_others_read(
    blank: Dict[Kind, Path], tree: Dict[str, Size], kind: Kind
) -> None:
    files = contents(tree, kind)
    with volume(blank[kind]) as (image, scratch):
        put(image, kind, files)
        with opened(image, kind) as ours:
            assert our_tree(ours) == files
        assert complaints(image, kind, scratch) == ""
        assert pyfatfs_tree(image, kind) == files
        # It has no surrogate pairs, and takes a name like "\xb3" to be the short name "3".
        if max(map(max, files), default="") < "\ud800":
            assert mtools_tree(image, kind, scratch / "out") == files


@TREES
@given(tree=trees(NAME | LONG), kind=st.sampled_from(KINDS[:3]), scars=SCARS)
def test_what_we_write_between_other_files_others_read(
    blank: Dict[Kind, Path], tree: Dict[str, Size], kind: Kind, scars: Scars
) -> None:
    files = contents(tree, kind)
    room = sum(map(len, files.values()))
    with volume(blank[kind]) as (image, scratch):
        there = scarred(image, kind, scars, room)
        before = image.read_bytes()
        try:
            put(image, kind, files)
        except SpaceError:
            assert scars.full and image.read_bytes() == before
            files = {}
        with opened(image, kind) as ours:
            assert our_tree(ours) == {**there, **files}
        assert complaints(image, kind, scratch) == ""
        assert pyfatfs_tree(image, kind) == {**there, **files}


@TREES
@given(tree=trees(NAME | LONG), kind=st.sampled_from(KINDS), scars=SCARS)
def test_a_copy_of_a_used_volumes_content_has_all_its_files(
    blank: Dict[Kind, Path], tree: Dict[str, Size], kind: Kind, scars: Scars
) -> None:
    files = contents(tree, kind)
    with volume(blank[kind]) as (image, scratch):
        there = scarred(image, kind, replace(scars, full=False), 0)
        put(image, kind, files)
        copy = copied(image, kind.offset_bytes, scratch / "copy")
        with opened(copy, kind) as ours:
            assert our_tree(ours) == {**there, **files}
        assert complaints(copy, kind, scratch) == ""


@TREES
@given(tree=trees(MTOOLS_NAME | MTOOLS_LONG), kind=st.sampled_from(KINDS))
def test_what_mtools_writes_we_read(
    blank: Dict[Kind, Path], tree: Dict[str, Size], kind: Kind
) -> None:
    files = contents(tree, kind)
    with volume(blank[kind]) as (image, scratch):
        for path, data in files.items():
            file = scratch / "in" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        if files:
            mtools_put(image, kind, scratch / "in")
        with opened(image, kind) as ours:
            assert our_tree(ours) == files
            for path, data in files.items():
                assert ours.read(path.upper() if path.isascii() else path, 1 << 20) == data
