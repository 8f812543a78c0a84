"""FAT volumes as a hostile guest may leave them: nothing but our own errors, no hangs."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.disk_volumes import KINDS, Kind, make_volume
from tests.unit.edits import put_files
from vmcapsule.disk.extents import read_at, write_at
from vmcapsule.disk.fat import folder as fat_folder
from vmcapsule.disk.fat import table as fat_table
from vmcapsule.disk.fat import volume as fat
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import DiskError, VmCapsuleError

FAT12, FAT16, FAT32 = KINDS[0], KINDS[2], KINDS[6]


def populate(fd: int) -> None:
    names = [f"vmcapsule/a file with a long name {n}.txt" for n in range(20)]
    files = {name: b"x" * (700 * n) for n, name in enumerate(names)}
    files["vmcapsule/deep/er/exit.json"] = b"{}" * 3000
    files["condor-init.py"] = b"#" * 4000
    put_files(FatVolume.open(fd, 0), files)


class Image:
    """An open image whose metadata can be put back after each example."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self.fd = os.open(make_volume(path, kind), os.O_RDWR)
        self.kind = kind
        populate(self.fd)
        volume = FatVolume.open(self.fd, 0)
        self.geometry = volume.geometry
        self.fat_at = self.geometry.fat_offset
        folders = self.geometry.root_offset or self.geometry.data_offset
        #: boot sector and FSInfo; the FAT's part in use; root folder and what follows
        self.regions = [(0, 1024), (self.fat_at, 512), (folders, 24 << 10)]
        self._saved = [(at, read_at(self.fd, at, length)) for at, length in self.regions]

    def restore(self) -> None:
        for at, data in self._saved:
            write_at(self.fd, at, data)

    def set_entry(self, cluster: int, value: int) -> None:
        assert self.kind.bits in (16, 32)
        width = self.kind.bits // 8
        write_at(self.fd, self.fat_at + cluster * width, value.to_bytes(width, "little"))

    def find_entry(self, short: bytes) -> int:
        """Return the image offset of a short entry."""
        at, _ = self.regions[2]
        found = read_at(self.fd, at, 1 << 20).find(short)
        assert found >= 0
        return at + found

    def patch_entry(self, short: bytes, *, cluster: int = -1, size: int = -1) -> None:
        at = self.find_entry(short)
        if cluster >= 0:
            write_at(self.fd, at + 20, struct.pack("<H", cluster >> 16))
            write_at(self.fd, at + 26, struct.pack("<H", cluster & 0xFFFF))
        if size >= 0:
            write_at(self.fd, at + 28, struct.pack("<I", size))

    def open(self) -> FatVolume:
        return FatVolume.open(self.fd, 0)

    def first_cluster(self, short: bytes) -> int:
        at = self.find_entry(short)
        high, low = read_at(self.fd, at + 20, 2), read_at(self.fd, at + 26, 2)
        return int.from_bytes(low + high, "little")


@pytest.fixture(scope="module", params=[FAT12, FAT16, FAT32], ids=["fat12", "fat16", "fat32"])
def any_image(request, tmp_path_factory) -> Iterator[Image]:
    image = Image(tmp_path_factory.mktemp("fat") / "v.img", request.param)
    yield image
    os.close(image.fd)


@pytest.fixture(params=[FAT16, FAT32], ids=["fat16", "fat32"])
def image(request, tmp_path) -> Iterator[Image]:
    image = Image(tmp_path / "v.img", request.param)
    yield image
    os.close(image.fd)


def use_everything(fd: int) -> None:
    """Do all that vmcapsule does with a returned disk, and all it does with a template."""
    with suppress(VmCapsuleError):
        volume = FatVolume.open(fd, 0)
        assert volume.free_bytes >= 0
        assert isinstance(volume.dirty, bool)
        with suppress(VmCapsuleError):
            assert isinstance(volume.label, str)
        with suppress(VmCapsuleError):
            for file in volume.walk():
                file.path.encode()  # can be printed
                assert all(part not in ("", ".", "..") for part in file.path.split("/"))
                assert "\0" not in file.path
                assert sum(e.length_bytes for e in file.extents) == file.size_bytes
        for path in ("vmcapsule/deep/er/exit.json", "condor-init.py"):
            with suppress(VmCapsuleError):
                assert len(volume.read(path, 10_000)) <= 10_000
    with suppress(VmCapsuleError):
        volume = FatVolume.open(fd, 0)
        for path in ("new", "vmcapsule/deep/er/exit.json", "vmcapsule/another long name"):
            with suppress(VmCapsuleError):
                lay_out(volume, {path: 3000})  # which writes nothing
        with suppress(VmCapsuleError):
            lay_out(volume, {}, folders=["vmcapsule/deep/new folder"])
        with suppress(VmCapsuleError):
            lay_out(volume, {}, remove=["condor-init.py"])


FLIPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1 << 20), st.integers(0, 255)),
    min_size=1,
    max_size=12,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(flips=FLIPS)
def test_flipped_bytes_raise_only_our_errors(
    any_image: Image, flips: List[Tuple[int, int, int]]
):
    try:
        for region, where, value in flips:
            at, length = any_image.regions[region]
            write_at(any_image.fd, at + where % length, bytes([value]))
        use_everything(any_image.fd)
    finally:
        any_image.restore()


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(entries=st.dictionaries(st.integers(2, 60), st.integers(0, 70) | st.integers(0, 2**28)))
def test_any_fat_raises_only_our_errors(image: Image, entries: Dict[int, int]):
    mask = 0xFFFF if image.kind.bits == 16 else 0x0FFFFFFF
    try:
        for cluster, value in entries.items():
            image.set_entry(cluster, value & mask)
        use_everything(image.fd)
    finally:
        image.restore()


# --- the boot sector


@pytest.mark.parametrize(
    ("at", "value", "length"),
    [
        (11, 0, 2),  # sector size
        (11, 513, 2),
        (11, 8192, 2),
        (13, 0, 1),  # sectors in a cluster
        (13, 3, 1),
        (14, 0, 2),  # reserved sectors
        (16, 0, 1),  # FATs
        (32, 0xFFFFFFFF, 4),  # sectors: past the end of the image
        (36, 1, 4),  # FAT sectors: too few for the clusters
        (36, 0xFFFFFFFF, 4),
        (17, 512, 2),  # root entries on FAT32
        (44, 0, 4),  # root cluster
        (44, 0x0FFFFFF8, 4),
        (42, 1, 2),  # version
        (40, 0x81, 2),  # the second FAT is the one in use
        (510, 0, 2),  # signature
    ],
)
def test_each_field_of_the_boot_sector_is_checked(tmp_path, at, value, length):
    image = Image(tmp_path / "v.img", FAT32)
    write_at(image.fd, at, value.to_bytes(length, "little"))
    # What precedes the checked field must not be what is refused.
    if at == 32:
        write_at(image.fd, 19, b"\0\0")
    with pytest.raises(DiskError, match="FAT volume"):
        image.open()
    os.close(image.fd)


def test_a_volume_without_room_for_data(tmp_path):
    image = Image(tmp_path / "v.img", FAT16)
    sectors = image.geometry.data_offset // 512
    write_at(image.fd, 19, struct.pack("<H", sectors))
    with pytest.raises(DiskError, match="no room for data"):
        image.open()
    os.close(image.fd)


def test_a_volume_that_is_cut_short(image: Image):
    os.truncate(image.fd, image.kind.size_bytes - 512)
    with pytest.raises(DiskError, match="damaged"):
        image.open()
    os.truncate(image.fd, 100)
    with pytest.raises(DiskError, match="no FAT volume"):
        image.open()


def test_no_volume_at_an_offset(image: Image):
    for offset in (512, -512, 1 << 50):
        with pytest.raises(DiskError):
            FatVolume.open(image.fd, offset)


# --- chains

INIT = b"CONDOR~1PY "


def test_a_chain_in_a_circle(image: Image):
    first = image.first_cluster(INIT)
    image.set_entry(first + 1, first)
    image.patch_entry(INIT, size=30_000)
    with pytest.raises(DiskError, match="'condor-init.py' is damaged: .* in a circle"):
        image.open().lookup("condor-init.py")


def test_a_chain_that_leaves_the_volume(image: Image):
    image.set_entry(image.first_cluster(INIT), image.geometry.cluster_count + 2)
    with pytest.raises(DiskError, match="'condor-init.py' is damaged"):
        image.open().lookup("condor-init.py")


def test_a_chain_into_free_clusters(image: Image):
    image.set_entry(image.first_cluster(INIT), 0)
    with pytest.raises(DiskError, match="'condor-init.py' is damaged"):
        image.open().lookup("condor-init.py")


def test_a_chain_shorter_than_the_size(image: Image):
    image.patch_entry(INIT, size=1 << 20)
    with pytest.raises(DiskError, match="'condor-init.py' is damaged: .* size of 1048576"):
        image.open().lookup("condor-init.py")
    image.patch_entry(INIT, cluster=0)
    with pytest.raises(DiskError, match="'condor-init.py' is damaged"):
        image.open().lookup("condor-init.py")


def test_a_longer_chain_is_read_only_where_the_volume_was_not_unmounted(image: Image):
    image.patch_entry(INIT, size=1000)
    with pytest.raises(DiskError, match="more than"):
        image.open().lookup("condor-init.py")
    write_at(image.fd, 65 if image.kind.bits == 32 else 37, b"\1")
    assert image.open().read("condor-init.py", 1000) == b"#" * 1000


def test_a_folder_in_a_circle(image: Image):
    # vmcapsule/deep gets the clusters of vmcapsule.
    image.patch_entry(b"DEEP       ", cluster=image.first_cluster(b"VMCAPS~1   "))
    with pytest.raises(DiskError, match="folder '.*' is in the tree twice"):
        list(image.open().walk())


def test_a_folder_whose_chain_is_endless(image: Image):
    first = image.first_cluster(b"DEEP       ")
    image.set_entry(first, first)
    with pytest.raises(DiskError, match="damaged"):
        image.open().lookup("vmcapsule/deep/er")


def test_a_folder_longer_than_any_can_be(image: Image, monkeypatch):
    monkeypatch.setattr(fat, "FOLDER_BYTES_MAX", image.geometry.cluster_bytes)
    with pytest.raises(DiskError, match="do not end"):
        image.open().lookup("vmcapsule/deep")


def test_many_files_that_share_clusters(image: Image, monkeypatch):
    """A small disk cannot pretend to hold more than it has room for."""
    size = image.geometry.cluster_bytes * 2000
    put_files(FatVolume.open(image.fd, 0), {f"LINK{n}": b"" for n in range(200)})
    lay_out(image.open(), {"shared.bin": size, "one": 1}).write()
    first = image.open().find("shared.bin").first_cluster
    for n in range(200):
        image.patch_entry(b"LINK%-7d" % n, cluster=first, size=size)
    with pytest.raises(DiskError, match="shares clusters"):
        list(image.open().walk())
    assert image.open().lookup("LINK7").extents == image.open().lookup("shared.bin").extents


def test_a_path_longer_than_any_can_be(image: Image):
    lay_out(image.open(), {}, folders=["/".join(["x" * 250] * 16)]).write()
    assert max(len(file.path) for file in image.open().walk()) == 16 * 251 - 1
    lay_out(image.open(), {}, folders=["/".join(["x" * 250] * 17)]).write()
    with pytest.raises(DiskError, match="too long"):
        list(image.open().walk())


def test_a_file_in_too_many_pieces(image: Image, monkeypatch):
    monkeypatch.setattr(fat_table, "RUNS_MAX", 1)
    first = image.first_cluster(INIT)
    image.set_entry(first, first + 3000)
    image.set_entry(first + 3000, 0x0FFFFFFF if image.kind.bits == 32 else 0xFFFF)
    with pytest.raises(DiskError, match="pieces"):
        image.open().lookup("condor-init.py")


def test_more_folder_entries_than_are_read(image: Image, monkeypatch):
    monkeypatch.setattr(fat, "WALK_SLOTS_MAX", 600)
    put_files(FatVolume.open(image.fd, 0), {f"full/FILE{n}": b"" for n in range(700)})
    with pytest.raises(DiskError, match="folder entries"):
        list(image.open().walk())


def test_the_upper_half_of_a_fat16_cluster_is_not_one(tmp_path):
    image = Image(tmp_path / "v.img", FAT16)
    write_at(image.fd, image.find_entry(INIT) + 20, b"\x34\x12")
    assert image.open().read("condor-init.py", 5000) == b"#" * 4000
    os.close(image.fd)


def test_the_upper_bits_of_fat32_entries_mean_nothing(tmp_path):
    image = Image(tmp_path / "v.img", FAT32)
    first = image.first_cluster(INIT)
    free = image.open().free_bytes
    for cluster in range(first, first + 7):
        image.set_entry(cluster, (cluster + 1) | 0xA0000000)
    for cluster in range(50_000, 50_010):
        image.set_entry(cluster, 0x50000000)
    assert image.open().read("condor-init.py", 5000) == b"#" * 4000
    volume = image.open()
    assert volume.free_bytes == free
    below = free - (image.geometry.cluster_count + 2 - 50_005) * volume.cluster_bytes
    lay_out(volume, {"below": below, "new": 1}).write()
    entry = read_at(image.fd, image.fat_at + 4 * 50_005, 4)
    assert entry == b"\xff\xff\xff\x5f"
    os.close(image.fd)


# --- names


@pytest.mark.parametrize(
    "long_name",
    ["../etc/passwd", "..", ".", "a/b", "nul\0x", "line\nfeed", "\x7f"],
)
def test_names_that_lead_elsewhere_are_not_used(image: Image, long_name: str):
    """The short name stands for a file whose long one is no part of a path."""
    at = image.find_entry(INIT)
    slots = fat_folder.fat_names.long_slots(long_name, INIT)
    # The 14 characters of the old name took two slots.
    write_at(image.fd, at - 64, b"\xe5" * 64)
    write_at(image.fd, at - len(slots), slots)
    names = [file.path for file in image.open().walk()]
    want = "nul" if "\0" in long_name else "CONDOR~1.PY"
    assert want in names
    assert long_name not in names


@pytest.mark.parametrize(
    "short", [b"..         ", b".          ", b"A/B     TXT", b"X\0      TXT"]
)
def test_short_names_that_lead_elsewhere_are_left_out(image: Image, short: bytes):
    before = {file.path for file in image.open().walk()}
    write_at(image.fd, image.find_entry(INIT), short)
    volume = image.open()
    assert {file.path for file in volume.walk()} == before - {"condor-init.py"}
    assert volume.lookup("..") is None and volume.lookup("vmcapsule/..") is None


def test_a_lone_surrogate_is_no_name(image: Image):
    raw = "co".encode("utf-16-le") + b"\x3d\xd8" + "x".encode("utf-16-le") + b"\0\0"
    at = image.find_entry(INIT)
    slot = fat_folder.fat_names.long_slots("abcd", INIT)
    raw = raw.ljust(26, b"\xff")
    slot = slot[:1] + raw[:10] + slot[11:14] + raw[10:22] + slot[26:28] + raw[22:26]
    write_at(image.fd, at - 64, b"\xe5" * 64)
    write_at(image.fd, at - 32, slot)
    assert "CONDOR~1.PY" in [file.path for file in image.open().walk()]


def test_what_is_behind_the_end_of_a_folder_stays_dead(image: Image):
    """The specification lets anything stand behind the first free entry."""
    volume = image.open()
    before = {file.path for file in volume.walk()}
    [extent, *_] = volume.folder_extents(image.geometry.root_cluster, "root")
    data = volume.folder_bytes(image.geometry.root_cluster, "root")
    end = next(at for at in range(0, len(data), 32) if data[at] == 0) // 32
    stamp = fat_folder.Stamp(0x21, 0)
    dead = fat_folder.pack_entry(b"DEAD    TXT", 0x20, 0, 0, stamp)
    write_at(image.fd, extent.offset_bytes + 32 * (end + 1), dead * 2)
    assert {file.path for file in image.open().walk()} == before
    put_files(FatVolume.open(image.fd, 0), {"NEW": b""})
    assert {file.path for file in image.open().walk()} == before | {"NEW"}
