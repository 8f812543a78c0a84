"""Our FAT code against mkfs.vfat, fsck.vfat, mtools and pyfatfs."""

from __future__ import annotations

import os
import re
import struct
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.disk_volumes import (
    KINDS,
    Kind,
    complaints,
    make_volume,
    mtools_tree,
    opened,
    our_tree,
    put,
    pyfatfs_tree,
)
from vmcapsule import process
from vmcapsule.disk.extents import read_at, write_at
from vmcapsule.disk.fat import table as fat_table
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import DiskError, SpaceError

SMALL = KINDS[0]
KIND_IDS = [f"fat{k.bits}-{k.cluster_sectors}-{k.offset_bytes}" for k in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=KIND_IDS)
def test_a_blank_volume(tmp_path, kind):
    image = make_volume(tmp_path / "v.img", kind, "-n", "DATADISK")
    with opened(image, kind) as volume:
        assert (volume.bits, volume.label, volume.dirty) == (kind.bits, "DATADISK", False)
        assert volume.cluster_bytes == kind.cluster_sectors * 512
        assert list(volume.walk()) == []
        assert 0.9 * kind.size_bytes < volume.free_bytes < kind.size_bytes


@pytest.mark.parametrize("kind", KINDS, ids=KIND_IDS)
def test_a_folder_of_many_clusters_grows(tmp_path, kind):
    image = make_volume(tmp_path / "v.img", kind, "-n", "DATADISK")
    tree = {f"some/deep/folder/the file of number {n}.data": b"%d" % n for n in range(400)}
    paths = list(tree)
    put(image, kind, {path: tree[path] for path in paths[:250]})
    put(image, kind, {path: tree[path] for path in paths[250:]})
    with opened(image, kind) as volume:
        assert our_tree(volume) == tree
        assert volume.label == "DATADISK"
    assert complaints(image, kind, tmp_path) == ""
    assert mtools_tree(image, kind, tmp_path / "out") == tree


def test_short_names_of_like_files_are_told_apart(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    names = [f"collision {n:04}.text" for n in range(120)]
    put(image, SMALL, dict.fromkeys(names, b""))
    with opened(image, SMALL) as volume:
        assert volume.lookup("COLLIS~1.TEX") == volume.lookup(names[0].upper())._replace(
            path="COLLIS~1.TEX"
        )
        assert volume.lookup("colli~57.tex") is not None
        assert volume.lookup("COLLI~99.TEX") is not None
        assert volume.lookup("COLL~120.TEX") is not None
        assert volume.lookup("COLL~121.TEX") is None
    assert complaints(image, SMALL, tmp_path) == ""


def test_no_short_name_is_that_of_another_file(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    tree = {"a long name": b"1", "ALONGN~1": b"2", "alongn~2": b"3", "a long name too": b"4"}
    put(image, SMALL, tree)
    with opened(image, SMALL) as volume:
        assert our_tree(volume) == tree
        assert [volume.read(path, 9) for path in tree] == list(tree.values())
    assert complaints(image, SMALL, tmp_path) == ""


def test_a_plain_name_has_no_long_one_and_keeps_its_case(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    put(image, SMALL, {"README.TXT": b"a", "exit.idx": b"b"})
    with opened(image, SMALL) as volume:
        assert [file.path for file in volume.walk()] == ["README.TXT", "exit.idx"]
    listing = process.run(["mdir", "-i", image, "::"], timeout_s=60).stdout.decode()
    assert "README   TXT" in listing
    assert "EXIT     IDX" in listing or "exit     idx" in listing


def test_surrogate_pairs(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    # 13 characters fill a slot to the last: no terminator follows.
    tree = {"\U0001f600" * 6 + "x": b"1", "a\U00010348b": b"2", "\U0001f4be" * 127: b"3"}
    put(image, SMALL, tree)
    with opened(image, SMALL) as volume:
        assert our_tree(volume) == tree
    assert complaints(image, SMALL, tmp_path) == ""
    assert pyfatfs_tree(image, SMALL) == tree


def test_extents_are_where_the_bytes_lie_in_the_image(tmp_path):
    kind = KINDS[3]
    image = make_volume(tmp_path / "v.img", kind)
    data = os.urandom(100_000)
    with opened(image, kind) as volume:
        layout = lay_out(volume, {"one.bin": len(data)})
        [(path, [extent])] = layout.places()
        assert (path, extent.length_bytes) == ("one.bin", len(data))
        assert extent.offset_bytes > kind.offset_bytes
        layout.write()
        assert volume.lookup("one.bin").extents == (extent,)
    raw = bytearray(image.read_bytes())
    raw[extent.offset_bytes : extent.offset_bytes + len(data)] = data
    image.write_bytes(raw)
    assert mtools_tree(image, kind, tmp_path / "out") == {"one.bin": data}


def test_files_lie_one_after_the_other(tmp_path):
    kind = KINDS[5]
    image = make_volume(tmp_path / "v.img", kind)
    with opened(image, kind) as volume:
        layout = lay_out(volume, {f"a/{n}": 5000 for n in range(100)})
        extents = [extent for _, [extent] in layout.places()]
    step = -(-5000 // 2048) * 2048
    first = extents[0].offset_bytes
    assert [e.offset_bytes for e in extents] == [first + n * step for n in range(100)]


def test_a_file_in_pieces(tmp_path):
    """With every other cluster taken, a file is put together from what is free."""
    image = make_volume(tmp_path / "v.img", SMALL)
    data = os.urandom(40 * 512 + 7)
    with opened(image, SMALL) as volume:
        room = volume.free_bytes // 512
    count = room - 150  # some are the folder's own
    put(image, SMALL, {f"f/{n}": b"x" * 512 for n in range(count)})
    with opened(image, SMALL) as volume:
        rest = volume.free_bytes
        assert 0 < rest < 40 * 512
    put(image, SMALL, {}, remove=[f"f/{n}" for n in range(0, 80, 2)])
    with opened(image, SMALL) as volume:
        assert volume.free_bytes == rest + 40 * 512
    put(image, SMALL, {"big": data})
    with opened(image, SMALL) as volume:
        extents = volume.lookup("big").extents
        # The longest free run is used whole, then single clusters.
        assert len(extents) == 1 + 41 - rest // 512
        assert sum(e.length_bytes for e in extents) == len(data)
        assert volume.read("big", 1 << 20) == data
    assert complaints(image, SMALL, tmp_path) == ""
    assert mtools_tree(image, SMALL, tmp_path / "out")["big"] == data


def test_replacing_a_file_frees_it(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    free = []
    for name, data in (("Data.bin", b"x" * 5000), ("DATA.BIN", b"y" * 600), ("data.bin", b"")):
        put(image, SMALL, {name: data})
        with opened(image, SMALL) as volume:
            free.append(volume.free_bytes)
            assert our_tree(volume) == {"Data.bin": data}
        assert complaints(image, SMALL, tmp_path) == ""
    assert [more - free[0] for more in free] == [0, 8 * 512, 10 * 512]


def test_what_is_removed_makes_room_for_what_comes(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    with opened(image, SMALL) as volume:
        size = volume.free_bytes // 2 // 512 * 512
    put(image, SMALL, {"a": b"a" * size, "b": b"b" * (size - 512)})
    put(image, SMALL, {"A": b"A" * size}, remove=["b"])
    put(image, SMALL, {"c": b"c" * size})
    with opened(image, SMALL) as volume:
        assert our_tree(volume) == {"a": b"A" * size, "c": b"c" * size}
    assert complaints(image, SMALL, tmp_path) == ""


def test_a_full_disk_says_what_is_needed_and_keeps_what_was_there(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    put(image, SMALL, {"old": b"x" * 5000})
    before = image.read_bytes()
    with opened(image, SMALL) as volume:
        free = volume.free_bytes
        for files, folders in (
            ({"big.bin": free + 1}, ()),
            ({"old": free + 5120 + 1}, ()),
            ({"one": free - 512, "folder/two": 512}, ()),
            ({"fits": free}, ("one more",)),
        ):
            with pytest.raises(SpaceError) as caught:
                lay_out(volume, files, folders=folders)
            need, have = map(int, re.findall(r"(\d+)", str(caught.value))[:2])
            assert need == have + 512 and have in (free, free + 5120)
    assert image.read_bytes() == before
    put(image, SMALL, {"fits": b"x" * free})
    with opened(image, SMALL) as volume:
        assert volume.free_bytes == 0
    assert complaints(image, SMALL, tmp_path) == ""


def test_a_full_root_folder_is_told(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL, "-r", "16")
    put(image, SMALL, {f"FILE{n}": b"" for n in range(16)})
    with pytest.raises(SpaceError, match="root folder of the data disk is full"):
        put(image, SMALL, {"FILE16": b""})
    # A long name takes two deleted entries that do not adjoin.
    put(image, SMALL, {"a long name": b"new"}, remove=["FILE3", "FILE9"])
    with opened(image, SMALL) as volume:
        assert len(list(volume.walk())) == 15
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
    put(image, SMALL, {}, folders=["a"])
    with pytest.raises(DiskError):
        put(image, SMALL, {name: b"1234567890"})
    with pytest.raises(DiskError):
        put(image, SMALL, {f"{name}/x": b""})
    with opened(image, SMALL) as volume:
        assert [file.path for file in volume.walk()] == ["a"]


@pytest.mark.parametrize(
    "tree", [["name", "NAME"], ["f/x", "F"], ["A/b", "a/B"], ["f", "f/g"], ["straße", "STRAßE"]]
)
def test_names_that_vfat_cannot_tell_apart_are_refused(tmp_path, tree):
    image = make_volume(tmp_path / "v.img", SMALL)
    before = image.read_bytes()
    with pytest.raises(DiskError, match="cannot tell"):
        put(image, SMALL, dict.fromkeys(tree, b"x"))
    assert image.read_bytes() == before


def test_folders_are_found_under_any_spelling(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    put(image, SMALL, {"A long folder/x": b"1"})
    put(image, SMALL, {"a LONG folder/y": b"2", "ALONGF~1/z": b"3"}, remove=["alongf~1/X"])
    put(image, SMALL, {"New folder/x": b"4", "NEW FOLDER/y": b"5"}, folders=["new folder/q"])
    with opened(image, SMALL) as volume:
        assert [file.path for file in volume.walk()] == [
            "A long folder",
            "A long folder/y",
            "A long folder/z",
            "New folder",
            "New folder/q",
            "New folder/x",
            "New folder/y",
        ]
    assert complaints(image, SMALL, tmp_path) == ""


def test_what_is_missing_or_of_another_kind(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    put(image, SMALL, {"a/file": b"12345"})
    with opened(image, SMALL) as volume:
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
        with pytest.raises(DiskError, match="a folder has that name"):
            lay_out(volume, {"a": 4})
        with pytest.raises(DiskError, match="a file has that name"):
            lay_out(volume, {"a/file/x": 4})
        with pytest.raises(DiskError, match="4 GiB"):
            lay_out(volume, {"huge": 1 << 32})
        for path in ("a", "b", "a/b", "b/a"):
            with pytest.raises(DiskError, match="there is no file"):
                lay_out(volume, {}, remove=[path])
    put(image, SMALL, {}, remove=["a/file"])
    with opened(image, SMALL) as volume:
        assert [file.path for file in volume.walk()] == ["a"]
    assert complaints(image, SMALL, tmp_path) == ""


def test_a_layout_writes_nothing(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    before = image.read_bytes()
    with opened(image, SMALL) as volume:
        lay_out(volume, {"a/b/c": 5000})
    assert image.read_bytes() == before


def test_only_what_changed_of_the_fat_is_written(tmp_path):
    """Garbage in an untouched part of the second FAT is not repaired by the way."""
    kind = KINDS[4]
    image = make_volume(tmp_path / "v.img", kind)
    with opened(image, kind) as volume:
        geometry = volume.geometry
        mark = geometry.fat_offset + geometry.fat_bytes + 100 * 512
        write_at(volume.image, mark, b"\xff" * 4)
        put(image, kind, {"a": b"x" * 512})
        assert read_at(volume.image, mark, 4) == b"\xff" * 4
        first = read_at(volume.image, geometry.fat_offset, 512)
        assert first == read_at(volume.image, geometry.fat_offset + geometry.fat_bytes, 512)
        assert first[12:16] == b"\xff\xff\xff\x0f"


def test_the_count_of_free_clusters_is_kept(tmp_path):
    """fsck.vfat compares it; one that says it is not known is left so."""
    kind = KINDS[6]
    image = make_volume(tmp_path / "v.img", kind)
    with opened(image, kind) as volume:
        at = volume.geometry.info_offset + 488
        put(image, kind, {"a/b": b"x" * 3000})
        put(image, kind, {"c": b"x" * 3000}, remove=["a/b"])
        free = int.from_bytes(read_at(volume.image, at, 4), "little")
        assert free * volume.cluster_bytes == volume.free_bytes
        write_at(volume.image, at, b"\xff" * 4)
        put(image, kind, {"d": b"x" * 3000})
        assert read_at(volume.image, at, 4) == b"\xff" * 4


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
        assert not volume.dirty
        width = kind.bits // 8
        write_at(volume.image, volume.geometry.fat_offset + 2 * width - 1, b"\x07")
    with opened(image, kind) as volume:
        assert volume.dirty


def test_the_last_entry_of_a_fat12_sector(tmp_path):
    """339 clusters: the last entry ends half a byte before its sector does."""
    kind = Kind(12, 175 << 10, 1, 0)
    image = make_volume(tmp_path / "v.img", kind, "-r", "112", "-R", "2", "-a")
    with opened(image, kind) as volume:
        assert volume.geometry.cluster_count == 339
        assert volume.free_bytes == 339 * 512
    put(image, kind, {"all": b"x" * 339 * 512})
    assert complaints(image, kind, tmp_path) == ""
    with opened(image, kind) as volume:
        assert volume.free_bytes == 0
        assert volume.read("all", 1 << 20) == b"x" * 339 * 512


def test_names_that_differ_only_in_case_are_both_found(tmp_path):
    """A guest that mounts with iocharset=utf8 can make them."""
    image = make_volume(tmp_path / "v.img", SMALL)
    put(image, SMALL, {"readme long": b"lower", "rEADME lonX": b"upper"})
    raw = image.read_bytes().replace("X".encode("utf-16-le") + b"\0\0", b"g\0\0\0")
    image.write_bytes(raw)
    with opened(image, SMALL) as volume:
        assert volume.read("readme long", 10) == b"lower"
        assert volume.read("rEADME long", 10) == b"upper"
        assert volume.read("README LONG", 10) == b"lower"


def test_zero_length_files_have_no_extents(tmp_path):
    image = make_volume(tmp_path / "v.img", SMALL)
    with opened(image, SMALL) as volume:
        places = dict(lay_out(volume, {"empty": 0, "one": 1}).places())
    assert places["empty"] == ()
    assert [extent.length_bytes for extent in places["one"]] == [1]
    put(image, SMALL, {"empty": b"", "one": b"1"})
    with opened(image, SMALL) as volume:
        assert our_tree(volume) == {"empty": b"", "one": b"1"}
    assert complaints(image, SMALL, tmp_path) == ""


def test_the_whole_range_of_a_four_gib_file(tmp_path):
    kind = Kind(32, 5 << 30, 64, 1 << 20)
    image = make_volume(tmp_path / "v.img", kind)
    with opened(image, kind) as volume:
        layout = lay_out(volume, {"largest": (4 << 30) - 1})
        [(_, [extent])] = layout.places()
        assert extent.length_bytes == (4 << 30) - 1
        layout.write()
        assert volume.lookup("largest").extents == (extent,)


@pytest.fixture(scope="module")
def blank_fat16():
    kind = next(kind for kind in KINDS if kind.bits == 16)
    with tempfile.TemporaryDirectory() as folder:
        yield make_volume(Path(folder) / "v.img", kind), kind


@given(
    used=st.lists(st.booleans(), min_size=4, max_size=300),
    released=st.lists(st.tuples(st.integers(2, 320), st.integers(1, 40)), max_size=4),
    enough=st.integers(1, 500),
    windows=st.tuples(st.integers(1, 64), st.integers(1, 64)),
)
def test_free_clusters_are_found_in_every_part_of_the_table(
    blank_fat16, used, released, enough, windows
):
    """Also where what is released lies in another part than the one that is looked at."""
    image, kind = blank_fat16
    looks = {"_FIRST_LOOK": windows[0], "_WINDOW": max(windows)}
    with opened(image, kind) as volume, mock.patch.multiple(fat_table, **looks):
        geometry = volume.geometry
        taken = [True] * 2 + [*used[2:], *[True] * (geometry.cluster_count + 2 - len(used))]
        entries = struct.pack(f"<{len(taken)}H", *(0xFFFF * bit for bit in taken))
        write_at(volume.image, geometry.fat_offset, entries)
        for first, length in released:
            taken[first : first + length] = [False] * length
        wanted = [number for number, bit in enumerate(taken) if not bit]
        found = list(volume.table.free_runs(released, enough))
    clusters = [first + n for first, length in found for n in range(length)]
    assert clusters == wanted[: len(clusters)]
    assert len(clusters) == len(wanted) or found[-1][1] >= enough
    assert all(a + n < b for (a, n), (b, _) in zip(found, found[1:]))
