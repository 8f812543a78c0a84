"""Our FAT code against mkfs.vfat, fsck.vfat, mtools and pyfatfs."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmcapsule import process
from vmcapsule.disk.extents import Extent, read_at, write_at
from vmcapsule.disk.fat import FatVolume
from vmcapsule.errors import DiskError, SpaceError

from .disk_volumes import KINDS, Kind, complaints, make_volume, mtools_put, mtools_tree

SMALL = KINDS[0]
KIND_IDS = [f"fat{k.bits}-{k.cluster_sectors}-{k.offset_bytes}" for k in KINDS]


@contextmanager
def opened(image: Path, kind: Kind, *, writable: bool = True) -> Iterator[FatVolume]:
    fd = os.open(image, os.O_RDWR)
    try:
        yield FatVolume.open(fd, kind.offset_bytes, writable=writable)
    finally:
        os.close(fd)


def our_tree(volume: FatVolume) -> Dict[str, bytes]:
    return {f.path: volume.read(f.path, 1 << 24) for f in volume.walk() if not f.is_folder}


def pyfatfs_tree(image: Path, kind: Kind) -> Dict[str, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pkg_resources is deprecated
        from pyfatfs.PyFatFS import PyFatFS
    with PyFatFS(str(image), offset=kind.offset_bytes, read_only=True) as volume:
        return {path[1:]: volume.readbytes(path) for path in volume.walk.files("/")}


# --- names and trees

WORD = st.text(
    st.sampled_from("aAbZ019 ._-+,;=[]!#$%&'()@^`{}éÉßıµŒ語ΩЖ") | st.characters(codec="utf-16"),
    min_size=1,
    max_size=30,
)


def holdable(name: str) -> bool:
    return name != "-" and not (  # to mcopy that is its standard input
        set(name) & set('"*/:<>?\\|~\x7f')
        or any(char < " " or not char.isprintable() for char in name)
        or name[-1] in " ."
        # What mtools and pyfatfs make of these differs; vfat compares them as we do.
        or name[0] in " ."
    )


NAME = WORD.filter(holdable)
# mcopy takes brackets for a pattern.
MTOOLS_NAME = st.text("aAbZ019 ._-+,;=!#$%&'()@^`{}éÉß語漢", min_size=1, max_size=30).filter(
    holdable
)
# mtools adds one cluster to a folder at most for a name: 16 slots here.
MTOOLS_LONG = st.integers(14, 150).map(lambda n: "long name " + "x" * (n - 10))
LONG = st.integers(14, 250).map(lambda n: "long name " + "x" * (n - 10))
# mtools has no surrogate pairs, and takes a name like "\xb3" to be the short name "3".
BMP_NAME = NAME.filter(lambda name: max(name) < "\ud800")
DATA = st.integers(0, 9000).flatmap(
    lambda n: st.just(os.urandom(8) * (n // 8) + b"." * (n % 8))
)


def trees(names: st.SearchStrategy[str]) -> st.SearchStrategy[Dict[str, bytes]]:
    """Trees of up to three levels, whose names differ from one another in any reading."""
    path = st.lists(names, min_size=1, max_size=4).map(tuple)
    return st.dictionaries(path, DATA, max_size=12).map(_without_clashes)


def _without_clashes(tree: Dict[Tuple[str, ...], bytes]) -> Dict[str, bytes]:
    chosen: Dict[str, bytes] = {}
    spelling: Dict[str, str] = {}
    files, folders = set(), set()
    for parts, data in tree.items():
        keys = ["/".join(parts[:n]).casefold().upper() for n in range(1, len(parts) + 1)]
        if keys[-1] in folders | files or files & set(keys):
            continue
        full = [spelling.setdefault(key, part) for key, part in zip(keys, parts)]
        files.add(keys[-1])
        folders.update(keys[:-1])
        chosen["/".join(full)] = data
    return chosen


def fill(volume: FatVolume, tree: Dict[str, bytes]) -> None:
    for path, data in tree.items():
        if "/" in path:
            volume.make_folder(path.rpartition("/")[0])
        volume.write(path, data)
    volume.flush()


QUIET = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@QUIET
@given(tree=trees(NAME | LONG), kind=st.sampled_from(KINDS))
def test_what_we_write_pyfatfs_reads(tmp_path, tree, kind):
    image = make_volume(tmp_path / "v.img", kind)
    with opened(image, kind) as volume:
        fill(volume, tree)
    with opened(image, kind, writable=False) as volume:
        assert our_tree(volume) == tree
    assert complaints(image, kind, tmp_path) == ""
    assert pyfatfs_tree(image, kind) == tree


@QUIET
@given(tree=trees(BMP_NAME | LONG), kind=st.sampled_from(KINDS))
def test_what_we_write_mtools_reads(tmp_path_factory, tree, kind):
    scratch = tmp_path_factory.mktemp("v")
    image = make_volume(scratch / "v.img", kind)
    with opened(image, kind) as volume:
        fill(volume, tree)
    assert complaints(image, kind, scratch) == ""
    assert mtools_tree(image, kind, scratch / "out") == tree


@QUIET
@given(tree=trees(MTOOLS_NAME | MTOOLS_LONG), kind=st.sampled_from(KINDS))
def test_what_mtools_writes_we_read(tmp_path_factory, tree, kind):
    scratch = tmp_path_factory.mktemp("v")
    image = make_volume(scratch / "v.img", kind)
    for path, data in tree.items():
        file = scratch / "in" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    if tree:
        mtools_put(image, kind, scratch / "in")
    with opened(image, kind, writable=False) as volume:
        assert our_tree(volume) == tree
        for path, data in tree.items():
            assert volume.read(path.upper() if path.isascii() else path, 1 << 20) == data


# --- single cases


@pytest.mark.parametrize("kind", KINDS, ids=KIND_IDS)
def test_a_blank_volume(tmp_path, kind):
    image = make_volume(tmp_path / "v.img", kind, "-n", "DATADISK")
    with opened(image, kind) as volume:
        assert (volume.bits, volume.label, volume.dirty) == (kind.bits, "DATADISK", False)
        assert volume.cluster_bytes == kind.cluster_sectors * 512
        assert list(volume.walk()) == []
        assert 0.9 * kind.size_bytes < volume.free_bytes < kind.size_bytes


@pytest.mark.parametrize("kind", KINDS, ids=KIND_IDS)
def test_many_files_make_a_folder_of_many_clusters(tmp_path, kind):
    image = make_volume(tmp_path / "v.img", kind)
    tree = {f"some/deep/folder/the file of number {n}.data": b"%d" % n for n in range(400)}
    with opened(image, kind) as volume:
        fill(volume, tree)
        assert our_tree(volume) == tree
    assert complaints(image, kind, tmp_path) == ""
    assert mtools_tree(image, kind, tmp_path / "out") == tree


def test_short_names_of_like_files_are_told_apart(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    names = [f"collision {n:04}.text" for n in range(120)]
    with opened(image, SMALL) as volume:
        fill(volume, {name: b"" for name in names})
        assert volume.lookup("COLLIS~1.TEX") == volume.lookup(names[0].upper()).__class__(
            "COLLIS~1.TEX", False, 0, ()
        )
        assert volume.lookup("colli~57.tex") is not None
        assert volume.lookup("COLLI~99.TEX") is not None
        assert volume.lookup("COLL~120.TEX") is not None
        assert volume.lookup("COLL~121.TEX") is None
    assert complaints(image, SMALL, tmp_path) == ""


def test_a_plain_name_has_no_long_one_and_keeps_its_case(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    with opened(image, SMALL) as volume:
        fill(volume, {"README.TXT": b"a", "exit.idx": b"b"})
        assert [file.path for file in volume.walk()] == ["README.TXT", "exit.idx"]
    listing = process.run(["mdir", "-i", image, "::"], timeout_s=60).stdout.decode()
    assert "README   TXT" in listing
    assert "EXIT     IDX" in listing or "exit     idx" in listing


def test_surrogate_pairs(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    # 13 characters fill a slot to the last: no terminator follows.
    tree = {"\U0001f600" * 6 + "x": b"1", "a\U00010348b": b"2", "\U0001f4be" * 127: b"3"}
    with opened(image, SMALL) as volume:
        fill(volume, tree)
        assert our_tree(volume) == tree
    assert complaints(image, SMALL, tmp_path) == ""
    assert pyfatfs_tree(image, SMALL) == tree


def test_extents_are_where_the_bytes_lie_in_the_image(tmp_path):
    kind = KINDS[3]
    image = make_volume(tmp_path / "v.img", kind)
    data = os.urandom(100_000)
    with opened(image, kind) as volume:
        [extent] = volume.create("one.bin", len(data))
        assert extent.length_bytes == len(data)
        assert extent.offset_bytes > kind.offset_bytes
        volume.flush()
        assert volume.lookup("one.bin").extents == (extent,)
    raw = bytearray(image.read_bytes())
    raw[extent.offset_bytes : extent.offset_bytes + len(data)] = data
    image.write_bytes(raw)
    assert mtools_tree(image, kind, tmp_path / "out") == {"one.bin": data}


def test_a_file_in_pieces(tmp_path):
    """With every other cluster taken, a file is put together from what is free."""
    image = make_volume(tmp_path / "v.img", SMALL)
    data = os.urandom(40 * 512 + 7)
    with opened(image, SMALL) as volume:
        volume.make_folder("f")
        count = 0
        while volume.free_bytes > 20 * 512:
            volume.write(f"f/{count}", b"x" * 512)
            count += 1
        rest = volume.free_bytes
        for n in range(0, 60, 2):
            volume.remove(f"f/{n}")
        assert volume.free_bytes == rest + 30 * 512
        volume.write("big", data)
        extents = volume.lookup("big").extents
        # The longest free run is used whole, then single clusters.
        assert len(extents) == 1 + (41 * 512 - rest) // 512
        assert sum(e.length_bytes for e in extents) == len(data)
        assert volume.read("big", 1 << 20) == data
        volume.flush()
    assert complaints(image, SMALL, tmp_path) == ""
    assert mtools_tree(image, SMALL, tmp_path / "out")["big"] == data


def test_replacing_a_file_frees_it(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    with opened(image, SMALL) as volume:
        volume.write("Data.bin", b"x" * 5000)
        before = volume.free_bytes
        volume.write("DATA.BIN", b"y" * 600)
        assert volume.free_bytes == before + (10 - 2) * 512
        assert our_tree(volume) == {"Data.bin": b"y" * 600}
        volume.write("data.bin", b"")
        assert volume.free_bytes == before + 10 * 512
        volume.flush()
    assert complaints(image, SMALL, tmp_path) == ""


def test_a_full_disk_says_what_is_needed_and_keeps_what_was_there(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    with opened(image, SMALL) as volume:
        volume.write("old", b"x" * 5000)
        free = volume.free_bytes
        with pytest.raises(SpaceError) as caught:
            volume.create("big.bin", free + 1)
        assert str(free + 512) in str(caught.value) and str(free) in str(caught.value)
        with pytest.raises(SpaceError):
            volume.create("old", free + 5120 + 1)
        assert (volume.free_bytes, our_tree(volume)) == (free, {"old": b"x" * 5000})
        volume.create("fits", free)
        assert volume.free_bytes == 0
        with pytest.raises(SpaceError):
            volume.make_folder("one more")
        volume.flush()
    assert complaints(image, SMALL, tmp_path) == ""


def test_a_full_root_folder_is_told(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL, "-r", "16")
    with opened(image, SMALL) as volume:
        for n in range(16):
            volume.write(f"FILE{n}", b"")
        with pytest.raises(SpaceError, match="root folder of the data disk is full"):
            volume.write("FILE16", b"")
        # A long name takes two deleted entries that do not adjoin.
        volume.remove("FILE3")
        volume.remove("FILE9")
        volume.write("a long name", b"new")
        assert len(list(volume.walk())) == 15
        volume.flush()
    assert complaints(image, SMALL, tmp_path) == ""


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/../b",
        "a//b",
        "x:y",
        "tab\t",
        "dot.",
        "space ",
        "n\0",
        "\udcff",
        "x" * 256,
    ]
    + ["\U0001f600" * 128],
)
def test_names_that_vfat_cannot_hold_are_refused(tmp_path, name):
    image = make_volume(tmp_path / "v.img", SMALL)
    with opened(image, SMALL) as volume:
        volume.make_folder("a")
        with pytest.raises(DiskError):
            volume.create(name, 10)
        with pytest.raises(DiskError):
            volume.make_folder(name)
        volume.flush()
        assert [file.path for file in volume.walk()] == ["a"]


def test_read_only_and_missing(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    with opened(image, SMALL) as volume:
        fill(volume, {"a/file": b"12345"})
        assert volume.lookup("a").is_folder and volume.lookup("").is_folder
        assert volume.lookup("a/other") is None
        assert volume.lookup("b/file") is None
        assert volume.lookup("a/file/x") is None
        with pytest.raises(DiskError, match="more than the 4"):
            volume.read("a/file", 4)
        with pytest.raises(DiskError, match="there is no 'b'"):
            volume.read("b", 4)
        with pytest.raises(DiskError, match="folder"):
            volume.read("a", 4)
        with pytest.raises(DiskError, match="folder"):
            volume.create("a", 4)
        with pytest.raises(DiskError, match="does not exist"):
            volume.create("b/file", 4)
        with pytest.raises(DiskError, match="not empty"):
            volume.remove("a")
        with pytest.raises(DiskError, match="4 GiB"):
            volume.create("huge", 1 << 32)
        volume.remove("a/file")
        volume.remove("a")
        volume.flush()
        assert list(volume.walk()) == []
    assert complaints(image, SMALL, tmp_path) == ""
    with opened(image, SMALL, writable=False) as volume, pytest.raises(DiskError):
        volume.create("x", 1)


def test_nothing_is_written_before_flush(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    before = image.read_bytes()
    with opened(image, SMALL) as volume:
        volume.make_folder("a/b")
        volume.create("a/b/c", 5000)
        assert image.read_bytes() == before


def test_only_changed_sectors_of_the_fat_are_written(tmp_path):
    """Garbage in an untouched sector of the second FAT is not repaired by the way."""
    kind = KINDS[4]
    image = make_volume(tmp_path / "v.img", kind)
    with opened(image, kind) as volume:
        geometry = volume._geometry
        marks = []
        for copy in (0, 1):
            at = geometry.fat_offset + copy * geometry.fat_bytes + 100 * 512
            write_at(volume._fd, at, b"\xff" * 4 if copy else b"\0" * 4)
            marks.append(at)
        volume.write("a", b"x" * 512)
        volume.flush()
        assert read_at(volume._fd, marks[1], 4) == b"\xff" * 4
        first = read_at(volume._fd, geometry.fat_offset, 512)
        assert first == read_at(volume._fd, geometry.fat_offset + geometry.fat_bytes, 512)
        assert first[12:16] == b"\xff\xff\xff\x0f"


def test_the_dirty_flag_is_seen(tmp_path):
    for kind, at in ((SMALL, 37), (KINDS[2], 37), (KINDS[6], 65)):
        image = make_volume(tmp_path / "v.img", kind)
        fd = os.open(image, os.O_RDWR)
        write_at(fd, at, b"\x01")
        assert FatVolume.open(fd, 0).dirty
        os.close(fd)


@pytest.mark.parametrize("index", [2, 4])
def test_the_dirty_flag_in_the_fat_is_seen(tmp_path, index):
    """Windows sets it there."""
    kind = KINDS[index]
    image = make_volume(tmp_path / "v.img", kind)
    with opened(image, kind) as volume:
        width = kind.bits // 8
        write_at(volume._fd, volume._geometry.fat_offset + 2 * width - 1, b"\x07")
        assert not volume.dirty
    with opened(image, kind) as volume:
        assert volume.dirty


def test_a_folder_that_cannot_grow_takes_no_file(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    with opened(image, SMALL) as volume:
        volume.make_folder("f")
        for n in range(14):  # a cluster has room for 16 entries, two are the folder's own
            volume.write(f"f/FILE{n}", b"")
        free = volume.free_bytes
        with pytest.raises(SpaceError, match=f"needs {free + 512} bytes, {free} are free"):
            volume.create("f/FILE14", free)
        assert volume.free_bytes == free
        volume.create("f/FILE14", free - 512)
        volume.flush()
    assert complaints(image, SMALL, tmp_path) == ""


def test_the_last_entry_of_a_fat12_sector(tmp_path):
    """339 clusters: the last entry ends half a byte before its sector does."""
    kind = Kind(12, 175 << 10, 1, 0)
    image = make_volume(tmp_path / "v.img", kind, "-r", "112", "-R", "2", "-a")
    with opened(image, kind) as volume:
        assert volume._geometry.cluster_count == 339
        assert volume.free_bytes == 339 * 512
        volume.write("all", b"x" * 339 * 512)
        assert volume.free_bytes == 0
        volume.flush()
    assert complaints(image, kind, tmp_path) == ""
    with opened(image, kind) as volume:
        assert volume.read("all", 1 << 20) == b"x" * 339 * 512


def test_names_that_differ_only_in_case_are_both_found(tmp_path):
    """A guest that mounts with iocharset=utf8 can make them."""
    image = make_volume(tmp_path / "v.img", SMALL)
    with opened(image, SMALL) as volume:
        fill(volume, {"readme long": b"lower", "rEADME lonX": b"upper"})
    raw = image.read_bytes().replace("X".encode("utf-16-le") + b"\0\0", b"g\0\0\0")
    image.write_bytes(raw)
    with opened(image, SMALL, writable=False) as volume:
        assert volume.read("readme long", 10) == b"lower"
        assert volume.read("rEADME long", 10) == b"upper"
        assert volume.read("README LONG", 10) == b"lower"


def test_zero_length_files_have_no_extents(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    with opened(image, SMALL) as volume:
        assert volume.create("empty", 0) == ()
        assert volume.create("one", 1)[0].length_bytes == 1
        assert isinstance(volume.create("two", 2)[0], Extent)
        assert volume.read("empty", 0) == b""


def test_the_whole_range_of_a_four_gib_file(tmp_path):
    kind = Kind(32, 5 << 30, 64, 1 << 20)
    image = make_volume(tmp_path / "v.img", kind)
    with opened(image, kind) as volume:
        [extent] = volume.create("largest", (4 << 30) - 1)
        assert extent.length_bytes == (4 << 30) - 1
        volume.flush()
    with opened(image, kind, writable=False) as volume:
        assert volume.lookup("largest").extents == (extent,)
