"""vmdk disks: every form there and back, and descriptors that lie."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import List

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.edits import raw_edit
from vmcapsule import process
from vmcapsule.disk.extents import Extent, write_at
from vmcapsule.disk.vmdk.vmdk import (
    FORMS,
    Vmdk,
    create_vmdk,
    in_place,
    mapped,
    raw_view,
    read_vmdk,
)
from vmcapsule.errors import DiskError, SpaceError, ToolError, VmCapsuleError

SIZE = 8 << 20


@pytest.fixture(params=list(FORMS))
def disk(request, tmp_path: Path) -> Vmdk:
    return make(tmp_path, request.param)


def make(folder: Path, form: str) -> Vmdk:
    raw = folder / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(SIZE)
        os.pwrite(file.fileno(), b"first", 1 << 20)
    (folder / "vm").mkdir()
    made = create_vmdk(raw, folder / "vm" / "data.vmdk", form, adapter="lsilogic")
    raw.unlink()
    return made


def listing(folder: Path) -> List[str]:
    return sorted(path.name for path in folder.iterdir())


def qemu_reads(path: Path, scratch: Path) -> bytes:
    out = scratch / "judge.raw"
    process.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, out], timeout_s=60)
    return out.read_bytes()


def test_what_is_read_of_each_form(disk: Vmdk):
    assert disk.form in FORMS
    assert disk.capacity_bytes == SIZE
    assert disk.adapter == "lsilogic"
    assert listing(disk.path.parent) == sorted(file.name for file in disk.files)
    assert disk.files[0] == disk.path
    assert sum(extent.size_sectors for extent in disk.extents) * 512 == SIZE
    # Zeros take no room on the host's disk.
    assert sum(file.stat().st_blocks * 512 for file in disk.files) < 1 << 20


def test_what_is_written_where_a_disk_lies_is_there_afterwards(disk: Vmdk, tmp_path: Path):
    before = {file: file.stat().st_size for file in disk.files}
    if disk.form == "streamOptimized":
        with pytest.raises(DiskError, match="is compressed"), in_place(disk):
            pass
        return
    with in_place(disk) as there:
        write_at(there, 1 << 20, b"other")
        if disk.form != "twoGbMaxExtentFlat" and disk.form != "monolithicFlat":
            with pytest.raises(DiskError, match="no room at offset 3145728"):
                write_at(there, 3 << 20, b"in a hole")
    want = bytearray(SIZE)
    want[1 << 20 : (1 << 20) + 5] = b"other"
    assert qemu_reads(disk.path, tmp_path) == want
    assert {file: file.stat().st_size for file in disk.files} == before


def test_a_view_cannot_write_and_leaves_nothing(disk: Vmdk, tmp_path: Path):
    (tmp_path / "scratch").mkdir()
    before = {file: file.read_bytes() for file in disk.files}
    with raw_view(disk.path, tmp_path / "scratch") as raw:
        fd = raw.fd
        with pytest.raises(OSError):
            os.pwrite(raw.fd, b"x", 0)
    assert listing(tmp_path / "scratch") == []
    assert {file: file.read_bytes() for file in disk.files} == before
    with pytest.raises(OSError):
        os.fstat(fd)


def test_monolithic_flat_is_not_copied(tmp_path: Path):
    disk = make(tmp_path, "monolithicFlat")
    with raw_view(disk.path, tmp_path / "no such folder") as raw:
        assert raw.path == tmp_path / "vm" / "data-flat.vmdk"
        assert os.fstat(raw.fd).st_ino == raw.path.stat().st_ino


def test_a_map_has_every_byte_and_changes_nothing(disk: Vmdk, tmp_path: Path):
    (tmp_path / "scratch").mkdir()
    before = {file: file.read_bytes() for file in disk.files}
    with mapped(disk, tmp_path / "scratch") as there:
        assert there.size_bytes == SIZE
        assert there.read_at(0, SIZE) == qemu_reads(disk.path, tmp_path)
        assert there.read_at((1 << 20) + 2, 5) == b"rst\0\0"
        assert 5 <= there.data_bytes <= 64 << 10
        with pytest.raises(DiskError, match=f"of {SIZE} bytes has none"):
            there.read_at(SIZE - 5, 6)
        with pytest.raises(DiskError, match="none at -1-2"):
            there.read_at(-1, 3)
    assert listing(tmp_path / "scratch") == []
    assert {file: file.read_bytes() for file in disk.files} == before


PIECES = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.integers(1, 300_000), st.integers(1, 255)),
    max_size=6,
)
LOOKS = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)), min_size=1, max_size=4)


@settings(max_examples=max(settings().max_examples // 5, 10), deadline=None)
@given(form=st.sampled_from(sorted(FORMS)), pieces=PIECES, looks=LOOKS)
def test_any_part_of_any_disk_is_read_where_it_lies(form: str, pieces, looks):
    want = bytearray(SIZE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for at, length, value in pieces:
            length = min(length, SIZE - at)
            want[at : at + length] = bytes([value]) * length
        (folder / "raw").write_bytes(want)
        disk = create_vmdk(folder / "raw", folder / "data.vmdk", form)
        extents = sorted({(min(look), max(look) - min(look)) for look in looks})
        with mapped(disk, folder) as there:
            for at, length in extents:
                assert there.read_at(at, length) == want[at : at + length]
                sources = list(there.within([Extent(at, length)]))
                for source in sources:
                    end = source.offset_bytes + source.length_bytes
                    assert at <= source.offset_bytes < end <= at + length
                if len(sources) == 1 and at < sources[0].offset_bytes:
                    assert not any(want[at : sources[0].offset_bytes])


def test_a_flat_disk_may_begin_within_its_file(tmp_path: Path):
    image = os.urandom(3 << 20)
    (tmp_path / "x").write_bytes(image)
    lines = 'RW 100 FLAT "x" 3\nRW 1948 FLAT "x" 2048'
    text = GOOD.replace('RW 16 FLAT "a disk-flat.vmdk" 0', lines)
    (tmp_path / "d.vmdk").write_text(text.replace("monolithicFlat", "twoGbMaxExtentFlat"))
    disk = read_vmdk(tmp_path / "d.vmdk")
    with mapped(disk, tmp_path) as there:
        whole = there.read_at(0, disk.capacity_bytes)
    assert whole == image[3 * 512 : 103 * 512] + image[1 << 20 : (1 << 20) + 1948 * 512]
    assert whole == qemu_reads(disk.path, tmp_path)


def test_a_compressed_disk_that_says_it_is_not_has_a_remedy(tmp_path: Path):
    disk = make(tmp_path, "monolithicSparse")
    with disk.path.open("rb+") as file:
        file.seek(77)
        file.write(b"\1\0")
    with pytest.raises(DiskError, match="is compressed; convert it"), mapped(disk, tmp_path):
        pass


@pytest.mark.parametrize("form", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_a_disk_of_several_extents(tmp_path: Path, form: str):
    raw = tmp_path / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(5 << 30)
    disk = create_vmdk(raw, tmp_path / "data.vmdk", form)
    assert len(disk.extents) == 3 and len(disk.files) == 4
    assert disk.capacity_bytes == 5 << 30
    with raw_edit(disk.path, tmp_path) as opened:
        os.pwrite(opened.fd, b"far", (5 << 30) - 512)
    with raw_view(disk.path, tmp_path) as opened:
        assert os.pread(opened.fd, 3, (5 << 30) - 512) == b"far"


def test_create_overwrites_nothing(tmp_path: Path):
    (tmp_path / "raw").write_bytes(b"x" * 512)
    (tmp_path / "data.vmdk").write_text("old")
    with pytest.raises(DiskError, match="already there"):
        create_vmdk(tmp_path / "raw", tmp_path / "data.vmdk", "monolithicFlat")
    with pytest.raises(DiskError, match="unknown vmdk form 'vmfs'; use one of mono"):
        create_vmdk(tmp_path / "raw", tmp_path / "new.vmdk", "vmfs")


def test_a_full_disk_is_a_space_error(tmp_path: Path, monkeypatch):
    disk = make(tmp_path, "monolithicSparse")

    real = process.run

    def full(argv, **more: object):
        if argv[1] != "convert":
            return real(argv, **more)
        raise ToolError(
            "'qemu-img convert' failed: error while writing: No space left on device"
        )

    monkeypatch.setattr(process, "run", full)
    with pytest.raises(SpaceError), raw_view(disk.path, tmp_path):
        pass
    assert listing(tmp_path) == ["vm"]


# --- descriptors

GOOD = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"

# Extent description
RW 16 FLAT "a disk-flat.vmdk" 0

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.adapterType = "buslogic"
ddb.uuid = "60 00 C2 9d f9 9f 9b 9e"
"""


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    (tmp_path / "a disk-flat.vmdk").write_bytes(b"\0" * 16 * 512)
    (tmp_path / "other").write_bytes(b"\0" * 16 * 512)
    (tmp_path / "d.vmdk").write_text(GOOD)
    return tmp_path / "d.vmdk"


def test_a_good_descriptor(flat: Path):
    # The last is what QEMU leaves behind when its CID has leading zeros.
    for text in (GOOD, GOOD.replace("\n", "\r\n"), GOOD + "\0\0\0", GOOD + '\0"\n\0\0'):
        flat.write_bytes(text.encode())
        disk = read_vmdk(flat)
        assert (disk.form, disk.capacity_bytes) == ("monolithicFlat", 8192)
        assert disk.extents[0].file == flat.parent / "a disk-flat.vmdk"
        assert disk.adapter == "buslogic"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a disk-flat.vmdk", "/etc/passwd", "not a plain file name"),
        ("a disk-flat.vmdk", "../d/a disk-flat.vmdk", "not a plain file name"),
        ("a disk-flat.vmdk", "..", "not a plain file name"),
        ("a disk-flat.vmdk", "", "not a plain file name"),
        ("a disk-flat.vmdk", "nbd:localhost:10809", "not a plain file name"),
        ("a disk-flat.vmdk", "json:{}", "not a plain file name"),
        ("a disk-flat.vmdk", "x\0", "goes on behind its end"),
        ("a disk-flat.vmdk", "x\b", "control characters"),
        ("a disk-flat.vmdk", "missing", "No such file"),
        ("a disk-flat.vmdk", "link", "symbolic link"),
        ("a disk-flat.vmdk", "fifo", "not a regular file"),
        ("a disk-flat.vmdk", "folder", "not a regular file"),
        ("a disk-flat.vmdk", "d.vmdk", "names itself"),
        ('vmdk" 0', 'vmdk" 1', "too short for its disk: 8192 bytes, not 8704"),
        ("RW 16", "RW 17", "too short"),
        ("RW 16", "RW 0", "empty"),
        ("RW 16", "RDONLY 16", "access RDONLY"),
        ("RW 16", "RW -16", "no vmdk descriptor has"),
        ("RW 16", "RW 999999999999999", "too short"),
        ("FLAT", "SPARSE", "SPARSE extent"),
        ("FLAT", "VMFS", "VMFS extent"),
        ('RW 16 FLAT "a disk-flat.vmdk" 0', "RW 16 ZERO", "ZERO extent"),
        ('RW 16 FLAT "a disk-flat.vmdk" 0', "", "no extents"),
        ("\n\n# The", '\nRW 16 FLAT "other" 0\n# The', "has 2 extents"),
        ("parentCID=ffffffff", "parentCID=12345678", "parentCID is '12345678'"),
        ("CID=fffffffe", 'parentFileNameHint="/etc/passwd"', "has a parent"),
        ("# The", '# parentFileNameHint="x"', "has a parent"),
        ("# The", '# createType="monolithicSparse"', "in a comment"),
        (
            '"monolithicFlat"',
            '"vmfs"',
            "'vmfs'; convert it .* monolithicFlat, monolithicSparse",
        ),
        ('"monolithicFlat"', '"monolithicSparse"', "FLAT extent"),
        ('createType="monolithicFlat"', "", "no createType"),
        ("version=1", 'createType="twoGbMaxExtentFlat"', "sets 'createType' twice"),
        ("version=1", "RW\n1", "no vmdk descriptor has"),
        ("version=1", "RW\v16 FLAT", "control characters"),
        ("version=1", "x\r=1", "control characters"),
        ("version=1", "\udcff", "not text"),
        ("RW 16", "\nRW 16", "empty line before an extent"),
        ("RW 16", " \t\nRW 16", "empty line before an extent"),
        ("version=1", "#" * 70_000, "no vmdk disk"),
    ],
)
def test_each_lie_of_a_descriptor(flat: Path, old: str, new: str, message: str):
    (flat.parent / "link").symlink_to("/etc/passwd")
    (flat.parent / "folder").mkdir()
    os.mkfifo(flat.parent / "fifo")
    assert old in GOOD
    flat.write_bytes(GOOD.replace(old, new).encode("utf-8", "surrogateescape"))
    with pytest.raises(DiskError, match=message):
        read_vmdk(flat)


def test_what_is_no_vmdk_at_all(tmp_path: Path):
    with pytest.raises(DiskError, match="No such file"):
        read_vmdk(tmp_path / "missing")
    with pytest.raises(DiskError, match="not a regular file"):
        read_vmdk(tmp_path)
    (tmp_path / "raw").write_bytes(b"\0" * 100_000)
    with pytest.raises(DiskError, match="neither a sparse extent nor a text descriptor"):
        read_vmdk(tmp_path / "raw")
    for content in (b"", b"KDMV", b"COWD" + bytes(600), bytes(512)):
        (tmp_path / "raw").write_bytes(content)
        with pytest.raises(DiskError):
            read_vmdk(tmp_path / "raw")


# --- sparse extents


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (4, struct.pack("<I", 9), "version 9"),
        (12, struct.pack("<Q", 0), "capacity of 0"),
        (12, struct.pack("<Q", 1 << 60), "capacity"),
        (20, struct.pack("<Q", 3), "grains"),
        (28, struct.pack("<Q", 1 << 60), "past its end"),
        (28, struct.pack("<Q", 0), "without a descriptor"),
        (36, struct.pack("<Q", 1 << 60), "past its end"),
        (44, struct.pack("<I", 1 << 31), "grains"),
        (512, b"#parentFileNameHint\n", "has a parent"),
        (512 + 5000, b"parentFileNameHint", "has a parent"),
    ],
)
@pytest.mark.parametrize("form", ["monolithicSparse", "streamOptimized"])
def test_each_lie_of_a_sparse_header(tmp_path: Path, form: str, at: int, value: bytes, message):
    disk = make(tmp_path, form)
    with disk.path.open("r+b") as file:
        os.pwrite(file.fileno(), value, at)
    with pytest.raises(DiskError, match=message):
        read_vmdk(disk.path)


def test_a_parent_named_behind_the_descriptor(tmp_path: Path):
    """QEMU looks for one in 20 sectors, whatever the descriptor's size."""
    disk = make(tmp_path, "monolithicSparse")
    with disk.path.open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<Q", 2), 36)
    assert read_vmdk(disk.path).capacity_bytes == SIZE
    with disk.path.open("r+b") as file:
        os.pwrite(file.fileno(), b'parentFileNameHint="/etc/passwd"', 512 + 2000)
    with pytest.raises(DiskError, match="has a parent"):
        read_vmdk(disk.path)


def test_an_extent_with_a_descriptor_of_its_own_is_not_opened(tmp_path: Path):
    """With a capacity of 0, QEMU opens the files that the embedded descriptor names."""
    disk = make(tmp_path, "twoGbMaxExtentSparse")
    extent = disk.files[1]
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" + bytes(SIZE))
    inner = (
        GOOD.replace("16 FLAT", f"{SIZE // 512} FLAT")
        .replace("a disk-flat.vmdk", str(secret))
        .encode()
    )
    with extent.open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<QQQQ", 0, 128, 1, 20), 12)
        os.pwrite(file.fileno(), inner.ljust(20 * 512, b"\0"), 512)
    # What this test is about: QEMU would do it.
    assert qemu_reads(disk.path, tmp_path).startswith(b"secret")
    with pytest.raises(DiskError, match="capacity of 0"):
        read_vmdk(disk.path)


def test_a_footer_that_overrules_the_header(tmp_path: Path):
    disk = make(tmp_path, "streamOptimized")
    header = disk.path.read_bytes()[:512]
    with disk.path.open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<Q", (1 << 64) - 1), 56)
        end = disk.path.stat().st_size
        os.pwrite(file.fileno(), header + bytes(512), end)
    assert read_vmdk(disk.path).capacity_bytes == SIZE
    with disk.path.open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<Q", 7), end + 12)
    with pytest.raises(DiskError, match="footer"):
        read_vmdk(disk.path)


def test_an_extent_smaller_than_its_descriptor_says(tmp_path: Path):
    disk = make(tmp_path, "twoGbMaxExtentSparse")
    disk.path.write_text(disk.path.read_text().replace("RW 16384", "RW 16385"))
    with pytest.raises(DiskError, match="holds 16384 sectors, not the 16385"):
        read_vmdk(disk.path)


def test_one_extent_of_a_split_disk_is_not_the_disk(tmp_path: Path):
    disk = make(tmp_path, "twoGbMaxExtentSparse")
    with pytest.raises(DiskError, match="without a descriptor|no vmdk disk"):
        read_vmdk(disk.files[1])


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    form=st.sampled_from(["monolithicSparse", "streamOptimized", "monolithicFlat"]),
    flips=st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 70_000),
)
def test_flipped_bytes_raise_only_our_errors(samples, form, flips, cut):
    path, content = samples[form]
    data = bytearray(content)
    for at, value in flips:
        data[at % len(data)] = value
    path.write_bytes(data[:cut] if cut < len(data) else data)
    try:
        disk = read_vmdk(path)
    except VmCapsuleError:
        return
    assert all(file.parent == path.parent for file in disk.files)
    assert disk.capacity_bytes > 0


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    made = {}
    for form in ("monolithicSparse", "streamOptimized", "monolithicFlat"):
        disk = make(tmp_path_factory.mktemp("vmdk"), form)
        made[form] = (disk.path, disk.path.read_bytes())
    return made


def test_no_file_outside_is_ever_touched_by_a_link_to_the_disk(tmp_path: Path):
    disk = make(tmp_path, "monolithicSparse")
    (tmp_path / "link.vmdk").symlink_to(disk.path)
    with pytest.raises(DiskError, match="symbolic link"):
        read_vmdk(tmp_path / "link.vmdk")
    shutil.copy(disk.path, tmp_path / "copy.vmdk")
    assert read_vmdk(tmp_path / "copy.vmdk").capacity_bytes == SIZE


@pytest.mark.parametrize(
    "form", ["monolithicSparse", "twoGbMaxExtentSparse", "streamOptimized"]
)
def test_a_disk_that_was_cut_short_is_damaged(tmp_path: Path, form: str) -> None:
    """qemu-img itself reads zeros behind the end."""
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(4 << 20))
    disk = create_vmdk(raw, tmp_path / "d.vmdk", form)
    largest = max(disk.files, key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size - (256 << 10))
    for look in (raw_view(disk.path, tmp_path), mapped(disk, tmp_path)):
        with pytest.raises(DiskError, match="damaged"), look:
            pass
