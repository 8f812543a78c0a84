"""Blank FAT volumes, made by mkfs.vfat, and other programs' opinion of what we wrote."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, Iterator, Optional

from vmcapsule import process
from vmcapsule.disk.content import content
from vmcapsule.disk.disk_map import DiskMap
from vmcapsule.disk.extents import copy_range, created, data_extents, write_extents
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.vmdk.write import Source

#: mtools takes the encoding of long names from the locale, and that of short ones from
#: here: its default is 850, Linux's and ours 437.
ENV = {**os.environ, "LC_ALL": "C.UTF-8", "DEFAULT_CODEPAGE": "437", "MTOOLSRC": "/dev/null"}


@dataclass(frozen=True)
class Kind:
    """A kind of volume: FAT bits, size, sectors in a cluster, offset in the image."""

    bits: int
    size_bytes: int
    cluster_sectors: int
    offset_bytes: int


KINDS = (
    Kind(12, 1 << 20, 1, 0),
    Kind(12, 4 << 20, 4, 32256),
    Kind(16, 9 << 20, 4, 0),
    Kind(16, 40 << 20, 16, 1 << 20),
    Kind(32, 34 << 20, 1, 32256),
    Kind(32, 140 << 20, 4, 1 << 20),
    Kind(32, 34 << 20, 1, 0),
)


def make_volume(path: Path, kind: Kind, *options: str) -> Path:
    """Make a sparse image with one blank volume at the kind's offset."""
    with path.open("wb") as file:
        file.truncate(kind.offset_bytes + kind.size_bytes)
    return format_volume(path, kind, *options)


def format_volume(path: Path, kind: Kind, *options: str) -> Path:
    """Make a blank volume at the kind's offset of an image that is there."""
    arguments = ["-F", kind.bits, "-s", kind.cluster_sectors, "--mbr=n", *options]
    if kind.offset_bytes:
        arguments += ["--offset", kind.offset_bytes // 512]
    size_kib = kind.size_bytes // 1024
    process.run(["mkfs.vfat", *map(str, arguments), path, str(size_kib)], timeout_s=60)
    return path


def complaints(image: Path, kind: Kind, scratch: Path) -> str:
    """Return what fsck.vfat has to complain about, or ""."""
    volume = image
    if kind.offset_bytes:
        volume = scratch / "volume.img"
        with image.open("rb") as src, volume.open("wb") as dst:
            dst.truncate(kind.size_bytes)
            for run in data_extents(src.fileno(), kind.offset_bytes + kind.size_bytes):
                at = max(run.offset_bytes, kind.offset_bytes)
                length = run.offset_bytes + run.length_bytes - at
                copy_range(src.fileno(), at, dst.fileno(), at - kind.offset_bytes, length)
    result = process.run(["fsck.vfat", "-n", volume], timeout_s=60, check=False)
    lines = result.stdout.decode().splitlines()
    # A clean volume gets two lines: the program's version and the counts.
    return "" if result.returncode == 0 and len(lines) == 2 else "\n".join(lines)


@contextmanager
def opened(image: Path, kind: Kind) -> Iterator[FatVolume]:
    """Open a volume, of which we may write with `lay_out`."""
    fd = os.open(image, os.O_RDWR)
    try:
        yield FatVolume.open(fd, kind.offset_bytes)
    finally:
        os.close(fd)


def put(
    image: Path,
    kind: Kind,
    files: Dict[str, bytes],
    *,
    folders: Iterable[str] = (),
    remove: Iterable[str] = (),
) -> None:
    """Write files onto a volume, as our product does."""
    with opened(image, kind) as volume:
        sizes = {path: len(data) for path, data in files.items()}
        layout = lay_out(volume, sizes, folders=folders, remove=remove)
        for path, extents in layout.places():
            write_extents(volume.image, extents, files[path])
        layout.write()


def whole(fd: int, size_bytes: int) -> DiskMap:
    """A disk without holes, whatever the file system says."""
    return DiskMap(size_bytes, [Source(0, size_bytes, fd, 0)])


def copied(image: Path, offset: Optional[int], target: Path) -> Path:
    """Copy what is content of a preallocated disk to a new one."""
    size = image.stat().st_size
    with image.open("rb") as file, created(target, size) as fd:
        disk = whole(file.fileno(), size)
        disk.copy(content(disk, offset), fd)
    return target


def our_tree(volume: FatVolume) -> Dict[str, bytes]:
    """Return the contents of all files by path, as we read them."""
    return {f.path: volume.read(f.path, 1 << 24) for f in volume.walk() if not f.is_folder}


def pyfatfs_tree(image: Path, kind: Kind) -> Dict[str, bytes]:
    """Return the contents of all files by path, as pyfatfs reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pkg_resources is deprecated
        from pyfatfs.PyFatFS import PyFatFS
    with PyFatFS(str(image), offset=kind.offset_bytes, read_only=True) as volume:
        return {path[1:]: volume.readbytes(path) for path in volume.walk.files("/")}


def mtools_tree(image: Path, kind: Kind, folder: Path) -> Dict[str, bytes]:
    """Copy everything out with mcopy; return the files' contents by path."""
    folder.mkdir()
    drive = f"{image}@@{kind.offset_bytes}"
    process.run(["mcopy", "-s", "-n", "-i", drive, "::", folder], timeout_s=60, env=ENV)
    return read_tree(folder)


def mtools_put(image: Path, kind: Kind, folder: Path) -> None:
    """Copy everything in a folder onto a volume with mcopy."""
    drive = f"{image}@@{kind.offset_bytes}"
    names = sorted(folder.iterdir())
    process.run(["mcopy", "-s", "-i", drive, *names, "::"], timeout_s=60, env=ENV)


def read_tree(folder: Path) -> Dict[str, bytes]:
    """Return the contents of all files below a folder, by relative path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
