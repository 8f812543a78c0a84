"""Whatever is in the way and whatever fails: an output is whole at its place or left over.

What HTCondor's shadow does with the same outputs, one after the other, is the judge.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import (
    Any,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    cast,
)
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.returned import make_job
from tests.unit.users import acting_as
from vmcapsule.disk.extents import Extent
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import DeliveryError
from vmcapsule.guest import extract
from vmcapsule.transfer.entries import FILE, FOLDER, Entries, Entry, Stretch
from vmcapsule.transfer.outputs import Destinations
from vmcapsule.transfer.pack import Pieces

#: By path, what is there: bytes of a file, None for a folder, a word for anything else.
Tree = dict[str, Any]
PIPE, CLOSED = "pipe", b"closed"
NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
OBSTACLES = st.one_of(
    st.sampled_from([b"mine", CLOSED, None, PIPE]),
    # What no output is called: through a link to another output's place, what comes depends
    # on which of the two came first.
    st.sampled_from(["file", "folder", "nowhere", "itself"]).map(lambda target: f"-> {target}"),
)
#: What may fail at what: whatever asks the system something on the way.
CALLS = (
    "chmod", "close", "copy_file_range", "dup", "fchmod", "fstat", "fsync", "ftruncate",
    "listdir", "listxattr", "lstat", "mkdir", "open", "replace", "rmdir", "stat", "unlink",
)  # fmt: skip
ERRORS = (
    errno.EACCES, errno.EBUSY, errno.EDQUOT, errno.EIO, errno.EISDIR, errno.ENOSPC,
    errno.ENOTDIR, errno.ENOTEMPTY, errno.EROFS,
)  # fmt: skip


class Case(NamedTuple):
    """A tree of outputs, how its job lists and remaps them, and what is in the target."""

    outputs: Tree
    listed: tuple[str, ...]
    remaps: Mapping[str, str]
    preserve: bool
    home: Tree


@st.composite
def cases(draw: Callable[[Any], Any]) -> Case:
    files = draw(st.lists(PATHS, min_size=1, max_size=6, unique=True))
    outputs: Tree = {}
    for path in files:
        for end in [at for at, c in enumerate(path) if c == "/"]:
            outputs[path[:end]] = None
        outputs.setdefault(path, draw(st.sampled_from([path.encode(), path.encode(), None])))
    listed = draw(st.lists(st.sampled_from([*outputs]), min_size=1, max_size=5, unique=True))
    for path in listed:
        # What a file is, is no folder as well.
        outputs.setdefault(path, path.encode())
    remaps = draw(st.dictionaries(NAMES, PATHS, max_size=2))
    home = draw(
        st.dictionaries(
            st.lists(NAMES, min_size=1, max_size=2).map("/".join), OBSTACLES, max_size=4
        )
    )
    return Case(outputs, tuple(listed), remaps, draw(st.booleans()), home)


def order(case: Case) -> list[str]:
    """The index's order: item by item as listed, folders before what is in them."""
    found: dict[str, None] = {}
    for item in case.listed:
        for end in [at for at, c in enumerate(item) if c == "/"]:
            found.setdefault(item[:end])
        for path in sorted(case.outputs):
            if path == item or path.startswith(item + "/"):
                found.setdefault(path)
    return [*found]


def build(tree: Tree, home: Path) -> None:
    """Make what may be in a user's folder; of two that contradict the first is there."""
    always = {"file": b"mine", "folder": None, "itself": "-> itself"}
    for path, content in {**always, **tree}.items():
        place = home / path
        parent = Path(os.path.realpath(place.parent))
        if os.path.lexists(place) or not parent.is_relative_to(home):
            continue
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            continue
        if content is None:
            place.mkdir()
        elif content == PIPE:
            os.mkfifo(place)
        elif isinstance(content, bytes):
            place.write_bytes(content)
            place.chmod(0o444 if content == CLOSED else 0o644)
        else:
            place.symlink_to(home / content[3:])


def seen(home: Path) -> Tree:
    """What is there, in `build`'s words."""
    found: Tree = {}
    for folder, folders, files in os.walk(home):
        for name in (*folders, *files):
            place = Path(folder, name)
            mode = place.lstat().st_mode
            what: Any = None
            if stat.S_ISREG(mode):
                what = place.read_bytes()
            elif stat.S_ISLNK(mode):
                what = f"-> {os.path.relpath(place.readlink(), home)}"
            elif not stat.S_ISDIR(mode):
                what = PIPE
            found[str(place.relative_to(home))] = what
    return found


def is_in(place: str, folder: str) -> bool:
    return f"{place}/".startswith(f"{folder}/")


def seen_without_drafts(home: Path) -> Tree:
    """What a person sees: where removing fails, too, a hidden draft may stay."""
    return {path: what for path, what in seen(home).items() if ".vmcapsule" not in path}


class Delivery:
    """A case's outputs in a pack, and the user's folder that they are to come to."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.home = case, folder / "home"
        self.home.mkdir()
        build(case.home, self.home)
        self.paths = order(case)
        self.entries = Entries()
        data = b""
        for path in self.paths:
            content = case.outputs[path]
            if content is None:
                self.entries.append(Entry(path, FOLDER, 0o755))
                continue
            stretch = Stretch(0, len(content), 0, len(data))
            self.entries.append(Entry(path, FILE, 0o644, 0, len(content), (stretch,)))
            data += content
        (folder / "pack").write_bytes(data)
        self.pack = (folder / "pack").open("rb")
        self.size_bytes = len(data)
        job = make_job(
            self.home,
            TransferOutput=f'"{",".join(case.listed)}"',
            TransferOutputRemaps=f'"{";".join(f"{a}={b}" for a, b in case.remaps.items())}"',
            PreserveRelativePaths=str(case.preserve).lower(),
        )
        self.place_of = Destinations(job).place

    def run(self, only: Optional[Sequence[str]] = None) -> extract.Delivered:
        volume = cast(FatVolume, SimpleNamespace(image=self.pack.fileno()))
        pieces = Pieces([Extent(0, self.size_bytes)])
        outputs = extract.PackedFiles(self.entries, (pieces,))
        return extract.deliver(volume, outputs, self.place_of, "token", only)

    def natively(self, home: Path, only: Optional[Sequence[str]] = None) -> set[str]:
        """Write as the shadow does into ``home``; return what of it fails.

        Not what a later one would have replaced: of that nothing is missing in the end.
        """
        failed: dict[str, Optional[str]] = {}
        closed: set[str] = set()
        for path in self.paths if only is None else [p for p in self.paths if p in only]:
            content = self.case.outputs[path]
            place = None
            try:
                place = self.place_of(path)
                if place is None:
                    continue
                if any(is_in(place, folder) for folder in closed if content or place != folder):
                    # Here we are stricter: what comes for a folder that failed, or in its
                    # place, waits for it.
                    raise NotADirectoryError
                shadow_writes(home / os.path.relpath(place, self.home), content)
            except (DeliveryError, OSError):
                failed[path] = place
                if content is None:
                    closed.add(place)
            else:
                closed.discard(place)
                if content is not None:
                    failed = {p: there for p, there in failed.items() if there != place}
        return set(failed)

    def is_there(self, path: str) -> bool:
        """Whether an output is whole at its place, or a later one is."""
        if self.is_nowhere(path):
            return True
        place = self.place_of(path) or ""
        later = self.paths[self.paths.index(path) :]
        same = [p for p in later if not self.is_nowhere(p) and self.place_of(p) == place]
        here = [self.case.outputs[p] for p in same]
        return (None if Path(place).is_dir() else Path(place).read_bytes()) in here

    def bring(self, paths: Iterable[str]) -> None:
        """What is left over comes when what was in its way is gone."""
        left_over = [path for path in paths if not self.is_nowhere(path)]
        while left_over:
            for path in left_over:
                self.move_away(path)
            count = len(left_over)
            left_over = [*self.run(left_over).left_over]
            assert len(left_over) < count

    def is_nowhere(self, path: str) -> bool:
        """Whether it is not wanted, or its remaps go round in a cycle."""
        try:
            return self.place_of(path) is None
        except DeliveryError:
            return True

    def move_away(self, path: str) -> None:
        """Do what the message asks for: remove what is where this output should be."""
        place = Path(self.place_of(path) or "")
        for there in (place, *place.parents[: len(place.relative_to(self.home).parts) - 1]):
            if there.is_symlink() or not there.is_dir():
                if os.path.lexists(there):
                    there.unlink()
            elif there == place:
                shutil.rmtree(there)


def shadow_writes(place: Path, content: Optional[bytes]) -> None:
    """One item of ``FileTransfer::DoDownload``; the parents are those of a remap."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        if not place.is_dir():
            place.unlink(missing_ok=True)
            place.mkdir()
    elif place.is_fifo():
        raise PermissionError  # where it would wait
    else:
        place.write_bytes(content)


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """A folder of somebody's who may not write to everything; in memory where that can be."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    with acting_as(), tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


anything = settings(max_examples=250, deadline=None)


@anything
@given(case=cases())
@example(
    case=Case(
        {"a": b"a", "b": None, "b/x": b"b/x", "c": None, "c/x": None, "c/x/y": b"y", "z": b"z"},
        ("a", "b/x", "c/x", "z"), {}, False, {},
    )
)  # fmt: skip
def test_outputs_that_collide_end_as_with_htcondor(case: Case) -> None:
    with new_folder() as folder:
        delivery = Delivery(case, folder)
        native = folder / "native"
        native.mkdir()
        build(case.home, native)
        failed = delivery.natively(native)
        done = delivery.run()
        assert set(done.left_over) == failed
        assert seen(delivery.home) == seen(native)
        delivery.bring(done.left_over)


class Failing:
    """Lets the ``number``-th call of an `os` function fail."""

    def __init__(self, name: str, number: int, error: int) -> None:
        self.name, self.left, self.error = name, number, error
        self.real = getattr(os, name)
        self.has_failed = False

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        self.left -= 1
        if self.left != 0:
            return self.real(*arguments, **more)
        if self.name == "close":
            self.real(*arguments)
        self.has_failed = True
        raise OSError(self.error, os.strerror(self.error))


@anything
@given(
    case=cases(),
    call=st.sampled_from(CALLS),
    number=st.integers(1, 12),
    error=st.sampled_from(ERRORS),
)
def test_whatever_fails_an_output_is_whole_at_its_place_or_left_over(
    case: Case, call: str, number: int, error: int
) -> None:
    with new_folder() as folder:
        delivery = Delivery(case, folder)
        before = seen(delivery.home)
        native = folder / "native"
        native.mkdir()
        build(case.home, native)
        delivery.natively(native)
        wanted = seen(native)

        left_over: Optional[list[str]]
        with mock.patch.object(os, call, Failing(call, number, error)):
            try:
                left_over = [*delivery.run().left_over]
            except DeliveryError:
                left_over = None
        after = seen_without_drafts(delivery.home)
        # Nothing is half there, and of the user's nothing is gone that would not be natively.
        whole = [*before.values(), *wanted.values(), *case.outputs.values()]
        assert all(what in whole for what in after.values())
        for path, what in before.items():
            assert (
                path in after
                and (after[path] == what or after[path] in whole)
                or wanted.get(path) != what
            )
        # What is not left over is there, and the rest comes when nothing is in its way.
        left_over = [*delivery.run(left_over).left_over]
        for path in delivery.paths:
            assert path in left_over or delivery.is_there(path)
        delivery.bring(left_over)
