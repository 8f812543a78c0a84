"""Disks that a test makes, fills or writes to, in ways that no product of ours does."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Mapping

from vmcapsule import process
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.empty_disk import LABEL
from vmcapsule.disk.extents import write_extents
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.new_disk import NewDisk, empty
from vmcapsule.disk.vmdk.vmdk import RawDisk, create_vmdk, read_vmdk
from vmcapsule.guest import staging


def make_data_disk(
    target: Path,
    *,
    size_bytes: int,
    offset_bytes: int,
    label: str = LABEL,
    travels: bool = False,
) -> Path:
    """Make an empty data disk; return ``target``."""
    disk = NewDisk(empty(size_bytes, offset_bytes, label=label), {})
    with disk.made(target, travels=travels):
        return target


def put_files(volume: FatVolume, files: Mapping[str, bytes]) -> None:
    """Write files onto a volume that can be written to."""
    layout = lay_out(volume, {path: len(data) for path, data in files.items()})
    for path, extents in layout.places():
        write_extents(volume.image, extents, files[path])
    layout.write()


def stage_onto(load: staging.Payload, disk: DataDisk, *, travels: bool = False) -> None:
    """Put a new disk in the place of ``disk``, with what is on that and ``load``."""
    aside = disk.path.with_name(".staged")
    aside.mkdir()
    try:
        made = staging.stage(load, disk, aside, disk.look().size_bytes, travels=travels)
        for file in disk.look().files:
            file.unlink()
        for file in made.look().files:
            file.rename(disk.path.with_name(file.name))
    finally:
        shutil.rmtree(aside)


@contextmanager
def raw_edit(path: Path, scratch: Path) -> Iterator[RawDisk]:
    """Open a disk of any form for reading and writing, as a raw image.

    One that is not flat is made anew afterwards, with qemu-img's help; a streamOptimized disk
    becomes monolithicSparse.
    """
    disk = read_vmdk(path)
    if disk.form == "monolithicFlat":
        with _opened(disk.files[1], disk.capacity_bytes) as raw:
            yield raw
        return
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        image = Path(name) / "raw"
        process.run(
            ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, image], timeout_s=600
        )
        with _opened(image, disk.capacity_bytes) as raw:
            yield raw
        for file in disk.files:
            file.unlink()
        form = "monolithicSparse" if disk.form == "streamOptimized" else disk.form
        (Path(name) / "new").mkdir()
        new = create_vmdk(image, Path(name) / "new" / path.name, form, adapter=disk.adapter)
        for file in new.files:
            shutil.move(file, path.parent)


@contextmanager
def _opened(image: Path, size_bytes: int) -> Iterator[RawDisk]:
    fd = os.open(image, os.O_RDWR)
    try:
        yield RawDisk(fd, size_bytes, image)
    finally:
        os.close(fd)
