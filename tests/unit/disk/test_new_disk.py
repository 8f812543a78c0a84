"""A disk made new is the same in either form, and what it began with is on it."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, Mapping
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.disk.test_trees import (
    MTOOLS_NAME,
    SCARS,
    TREES,
    Scars,
    Size,
    contents,
    scarred,
    trees,
)
from tests.unit.disk_volumes import KINDS, Kind, complaints, make_volume, mtools_tree, put
from vmcapsule import process
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.extents import write_extents
from vmcapsule.disk.fat import tree
from vmcapsule.disk.fat.boot import read_geometry
from vmcapsule.disk.fat.format import FIRST_FILE_ALIGN_BYTES
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.new_disk import Beginning, NewDisk, alike, empty
from vmcapsule.disk.vmdk.vmdk import FORMS, create_vmdk, mapped, read_vmdk
from vmcapsule.errors import DiskError, SpaceError, VmCapsuleError

MIB = 1 << 20


@contextmanager
def one_moment() -> Iterator[None]:
    """What is made meanwhile has the same times."""
    then = time.gmtime(1_700_000_000)
    with mock.patch.object(tree, "time", SimpleNamespace(gmtime=lambda: then)):
        yield


def make(start: Beginning, target: Path, files: Mapping[str, bytes], *, travels: bool) -> Path:
    sizes = {path: len(data) for path, data in files.items()}
    disk = NewDisk(start, sizes, stale=lambda path: path.startswith("stale/"))
    with disk.made(target, travels=travels) as image:
        for path, data in files.items():
            write_extents(image, disk.places[path], data)
    return target


def both_forms(start: Beginning, folder: Path, files: Mapping[str, bytes]) -> Path:
    """Make a disk in both forms, which have to be alike; return its raw image."""
    with one_moment():
        flat = make(start, folder / "flat.vmdk", files, travels=False)
        sparse = make(start, folder / "sparse.vmdk", files, travels=True)
    assert read_vmdk(flat).form == "monolithicFlat"
    disk = read_vmdk(sparse)
    assert (disk.form, disk.files) == ("monolithicSparse", (sparse,))
    raw = folder / "flat-flat.vmdk"
    wanted = raw.read_bytes()
    assert len(wanted) == disk.capacity_bytes == start.image.size_bytes
    with mapped(disk, folder) as there:
        assert there.read_at(0, disk.capacity_bytes) == wanted
    checked = process.run(["qemu-img", "check", "-f", "vmdk", sparse], timeout_s=60)
    assert checked.returncode == 0
    judged = folder / "judged"
    process.run(
        ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", sparse, judged], timeout_s=60
    )
    assert judged.read_bytes() == wanted
    return raw


def judge(raw: Path, kind: Kind, files: Mapping[str, bytes]) -> None:
    assert complaints(raw, kind, raw.parent) == ""
    assert mtools_tree(raw, kind, raw.parent / "out") == files


@TREES
@given(
    kind=st.sampled_from(KINDS),
    form=st.sampled_from(sorted(FORMS)),
    scars=SCARS,
    tree=trees(MTOOLS_NAME),
)
def test_both_forms_are_alike_and_keep_what_the_templates_disk_has(
    kind: Kind, form: str, scars: Scars, tree: Dict[str, Size]
) -> None:
    files = contents(tree, kind)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        used = make_volume(folder / "used", kind)
        put(used, kind, {"stale/a record": b"of an earlier run" * 100})
        room = sum(map(len, files.values())) + 64 * kind.cluster_sectors * 512
        old = scarred(used, kind, scars, room)
        create_vmdk(used, folder / "template.vmdk", form)
        like = DataDisk(folder / "template.vmdk", kind.offset_bytes)
        with alike(like, like.look().size_bytes, folder) as start:
            try:
                raw = both_forms(start, folder, files)
            except SpaceError:
                assert scars.full or kind.bits == 12
                return
        judge(raw, kind, {**old, **files})


@TREES
@given(
    tree=trees(MTOOLS_NAME),
    size=st.sampled_from([16 * MIB, 33 * MIB, 40 * MIB]),
    offset=st.sampled_from([32256, MIB]),
)
def test_both_forms_of_an_empty_disk_are_alike(
    tree: Dict[str, Size], size: int, offset: int
) -> None:
    start = empty(size, offset)
    geometry = read_geometry(start.image, offset)
    sectors = geometry.cluster_bytes // 512
    kind = Kind(geometry.bits, size - offset, sectors, offset)
    files = contents(tree, kind)
    with tempfile.TemporaryDirectory() as name:
        judge(both_forms(start, Path(name), files), kind, files)


def test_a_larger_disk_has_the_others_label_place_and_controller(tmp_path: Path) -> None:
    start = empty(20 * MIB, 32256, label="TOOLS", adapter="lsilogic")
    like = DataDisk(make(start, tmp_path / "a.vmdk", {"old": b"old"}, travels=True))
    with alike(like, 40 * MIB, tmp_path) as larger:
        made = make(larger, tmp_path / "b.vmdk", {"new": b"new"}, travels=True)
    disk = read_vmdk(made)
    assert (disk.capacity_bytes, disk.adapter) == (40 * MIB, "lsilogic")
    with DataDisk(made).opened(tmp_path) as volume:
        assert (volume.label, volume.geometry.offset_bytes) == ("TOOLS", 32256)
        assert [file.path for file in volume.walk()] == ["new"]


def test_a_large_file_is_one_run_of_the_sparse_disk_where_linux_writes_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call copies it, and its place in the file is as good as that on the disk."""
    for offset in (MIB, 32256):
        disk = NewDisk(empty(4 << 30, offset), {"record/a": 70_000, "big": 300 * MIB})
        with disk.made(tmp_path / f"{offset}.vmdk", travels=True) as image:
            assert not isinstance(image, int)
            (extent,) = disk.places["big"]
            (place,) = image.within([extent])
            assert place.length_bytes == 300 * MIB
            shift = place.fd_offset - extent.offset_bytes
            assert shift % FIRST_FILE_ALIGN_BYTES == 0
        # A grain for the file's end, those of the tables, and one that is left out.
        assert (tmp_path / f"{offset}.vmdk").stat().st_size < 303 * MIB


@pytest.mark.parametrize("travels", [False, True])
def test_too_little_room_on_the_disk_is_told_before_anything_is_written(
    tmp_path: Path, travels: bool
) -> None:
    with pytest.raises(SpaceError, match="no room on the data disk: the files need"):
        make(empty(16 * MIB, MIB), tmp_path / "d.vmdk", {"f": bytes(20 * MIB)}, travels=travels)
    assert list(tmp_path.iterdir()) == []


class Failing:
    """Of the calls that write, the one of that number fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left, self.failed = number, False
        for name in ("open", "truncate", "pwrite", "copy_file_range"):
            monkeypatch.setattr(os, name, self._counting(getattr(os, name)))

    def _counting(self, call: Any) -> Any:
        def counted(*arguments: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left < 0 and not self.failed:
                self.failed = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **more)

        return counted


@pytest.mark.parametrize("travels", [False, True])
def test_a_full_disk_leaves_nothing_wherever_it_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, travels: bool
) -> None:
    (tmp_path / "template").mkdir()
    start = empty(20 * MIB, MIB)
    template = make(start, tmp_path / "template/data.vmdk", {"old": b"old"}, travels=False)
    target = tmp_path / "new" / "data.vmdk"
    target.parent.mkdir()
    number, raised = 0, []
    while True:
        with monkeypatch.context() as patch, alike(DataDisk(template), 20 * MIB, tmp_path) as s:
            failing = Failing(patch, number)
            try:
                make(s, target, {"f": b"f" * 100_000, "g/h": b"h"}, travels=travels)
            except VmCapsuleError as error:
                raised.append(type(error))
        if not failing.failed:
            break
        assert list(target.parent.iterdir()) == [], number
        number += 1
    assert number > 10 and set(raised) == {SpaceError}
    with DataDisk(target).opened(tmp_path) as volume:
        assert volume.read("f", 1 << 20) == b"f" * 100_000


@pytest.mark.parametrize("travels", [False, True])
def test_nothing_is_overwritten(tmp_path: Path, travels: bool) -> None:
    (tmp_path / "d.vmdk").write_text("mine")
    with pytest.raises(DiskError, match="cannot create .*exists"):
        make(empty(16 * MIB, MIB), tmp_path / "d.vmdk", {}, travels=travels)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_what_does_not_travel_is_a_raw_image_that_is_mostly_a_hole(tmp_path: Path) -> None:
    made = make(empty(8 << 30, MIB), tmp_path / "d.vmdk", {"f": b"f" * 1000}, travels=False)
    image = made.with_name("d-flat.vmdk")
    assert image.stat().st_size == 8 << 30 and image.stat().st_blocks * 512 < MIB
    with image.open("rb") as file:
        volume = FatVolume.open(file.fileno(), MIB)
        assert volume.read("f", 2000) == b"f" * 1000
