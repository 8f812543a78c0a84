"""Work on FAT volumes that must not take much memory: a process for each, which says it.

``python -m tests.unit.disk_memory WORK DISK`` prints the most memory it had, in KiB.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vmcapsule.disk.empty_disk import build_data_disk
from vmcapsule.disk.extents import write_at
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatVolume

OFFSET_BYTES = 1 << 20


def made(path: Path, size_bytes: int) -> FatVolume:
    build_data_disk(path, size_bytes=size_bytes, offset_bytes=OFFSET_BYTES)
    return found(path)


def found(path: Path) -> FatVolume:
    return FatVolume.open(os.open(path, os.O_RDWR), OFFSET_BYTES)


def write_many(path: Path) -> None:
    """100,000 files."""
    names = (f"folder {n // 10_000}/a file of number {n}.data" for n in range(100_000))
    layout = lay_out(made(path, 8 << 30), dict.fromkeys(names, 20_000))
    assert sum(len(extents) for _, extents in layout.places()) == 100_000
    layout.write()


def read_many(path: Path) -> None:
    volume = found(path)
    assert sum(file.size_bytes for file in volume.walk()) == 100_000 * 20_000
    assert volume.lookup("folder 9/a file of number 99999.data") is not None


def use_largest(path: Path) -> None:
    """A disk whose FAT alone has 256 MiB."""
    volume = made(path, 2 << 40)
    lay_out(volume, {f"big{n}": (4 << 30) - 1 for n in range(100)}).write()
    assert sum(len(file.extents) for file in volume.walk()) == 100
    assert volume.free_bytes > 1600 << 30


def use_pieces(path: Path) -> None:
    """Every other cluster is taken, so that a file is in as many pieces as may be."""
    volume = made(path, 17 << 30)
    geometry = volume.geometry
    taken = b"\xff\xff\xff\x0f\0\0\0\0" * (geometry.cluster_count // 2 - 2)
    write_at(volume.image, geometry.fat_offset + 16, taken)
    # The only piece that is long is the rest of the disk.
    rest = volume.free_bytes // geometry.cluster_bytes - geometry.cluster_count // 2 + 2
    layout = lay_out(volume, {"a": (rest + 65_000) * geometry.cluster_bytes})
    [pieces] = (len(extents) for _, extents in layout.places())
    layout.write()
    [file] = volume.walk()
    assert len(file.extents) == pieces > 65_000


def use_full_folder(path: Path) -> None:
    """A folder of as many entries as vfat allows."""
    volume = made(path, 8 << 30)
    lay_out(volume, {f"f/F{n}": 1 for n in range(65_534)}).write()
    file = volume.lookup("f/f65533")
    assert file is not None and file.size_bytes == 1


if __name__ == "__main__":
    works = (write_many, read_many, use_largest, use_pieces, use_full_folder)
    {work.__name__: work for work in works}[sys.argv[1]](Path(sys.argv[2]))
    status = Path("/proc/self/status").read_text().splitlines()
    [most] = [line.split()[1] for line in status if line.startswith("VmHWM:")]
    print(most)
