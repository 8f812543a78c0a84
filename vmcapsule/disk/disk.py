"""A disk as everybody else sees it: some files and a size.  Which form it has is its own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Tuple

from vmcapsule.disk.vmdk.vmdk import read_vmdk


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
        disk = read_vmdk(path)
        return cls(disk.path, disk.files, disk.capacity_bytes, disk.form)
