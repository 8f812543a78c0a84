"""A disk as everybody else sees it: some files and a size.  Which form it has is its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Tuple

from vmcapsule.disk.extents import open_image
from vmcapsule.disk.vmdk.format import Vmdk, read_vmdk
from vmcapsule.disk.vmdk.write import sources_of, write_sparse
from vmcapsule.named import NamedTuple


class Disk(NamedTuple):
    """A disk that was looked at: ``path`` names it, ``files`` are all that it consists of.

    ``form`` is for people to read.
    """

    path: Path
    files: Tuple[Path, ...]
    size_bytes: int
    form: str

    @classmethod
    def at(cls, path: Path) -> Disk:
        """Look at the disk that ``path`` names.

        Raises `DiskError` where it is damaged, of no known form, or names files that are
        not beside it.
        """
        return cls.of(read_vmdk(path))

    @classmethod
    def of(cls, disk: Vmdk) -> Disk:
        """What everybody else sees of a vmdk disk; of a redo log its own files."""
        return cls(disk.path, disk.files, disk.capacity_bytes, disk.form)


def from_raw(raw: Path, target: Path, *, like: Path) -> Disk:
    """Make the new disk ``target`` of a raw image, without its holes, so that it can travel.

    It is for the kind of controller that the disk ``like`` is for.  Raises `SpaceError` or
    `DiskError`.
    """
    fd = open_image(raw, os.O_RDONLY)
    try:
        size_bytes = os.fstat(fd).st_size
        adapter = read_vmdk(like).adapter
        write_sparse(sources_of(fd, size_bytes), size_bytes, target, adapter=adapter)
    finally:
        os.close(fd)
    return Disk.at(target)
