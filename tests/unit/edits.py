"""A disk of any form, written to by a test as a raw image, with qemu-img's help."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from vmcapsule import process
from vmcapsule.disk.vmdk import vmdk
from vmcapsule.disk.vmdk.vmdk import RawDisk, create_vmdk, read_vmdk


@contextmanager
def raw_edit(path: Path, scratch: Path) -> Iterator[RawDisk]:
    """Open a disk for reading and writing; one that is not flat is made anew afterwards.

    A streamOptimized disk becomes monolithicSparse.
    """
    disk = read_vmdk(path)
    if disk.form == "monolithicFlat":
        with vmdk.raw_edit(path) as raw:
            yield raw
        return
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        image = Path(name) / "raw"
        process.run(
            ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, image], timeout_s=600
        )
        fd = os.open(image, os.O_RDWR)
        try:
            yield RawDisk(fd, disk.capacity_bytes, image)
        finally:
            os.close(fd)
        for file in disk.files:
            file.unlink()
        form = "monolithicSparse" if disk.form == "streamOptimized" else disk.form
        (Path(name) / "new").mkdir()
        new = create_vmdk(image, Path(name) / "new" / path.name, form, adapter=disk.adapter)
        for file in new.files:
            shutil.move(file, path.parent)
