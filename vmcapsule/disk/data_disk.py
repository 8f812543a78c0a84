"""A data disk, whatever its form: opened for reading, and a file of it overwritten."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional

from vmcapsule.disk.disk import Disk
from vmcapsule.disk.extents import write_extents
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.partition import locate_fat
from vmcapsule.disk.vmdk.format import Vmdk, read_delta, read_vmdk
from vmcapsule.disk.vmdk.vmdk import in_place, viewed
from vmcapsule.errors import DiskError
from vmcapsule.named import NamedTuple


class DataDisk(NamedTuple):
    """A disk with a vfat partition, of which ``path`` names the disk.

    ``offset_bytes`` is where the partition begins; None: the first one that is vfat.  Each
    method raises `DiskError` for a disk that is damaged and `TemplateError` where no vfat
    file system begins there.  Where ``path`` names a redo log, ``base`` is the disk that it
    is over; it can be looked at and opened, and nothing else.
    """

    path: Path
    offset_bytes: Optional[int] = None
    base: Optional[Path] = None

    def look(self) -> Disk:
        """Which files it consists of, and how large it is."""
        return Disk.of(self._read())

    @contextmanager
    def opened(
        self, scratch: Path, size_bytes_max: Optional[int] = None
    ) -> Iterator[FatVolume]:
        """Open the volume for reading, inside the ``with`` block only.

        It is read where it lies; only what is compressed, or in far too many pieces, is
        converted into a folder of its own in ``scratch`` first.  A disk that claims more
        than ``size_bytes_max`` is refused: reading it could fill the host's.
        """
        disk = self._read()
        if size_bytes_max is not None and disk.capacity_bytes > size_bytes_max:
            raise DiskError(
                f"the returned disk '{self.path}' claims {disk.capacity_bytes} bytes, it left "
                f"with {size_bytes_max}",
                "something between here and the guest replaced it; run the job again",
            )
        with viewed(disk, scratch) as image:
            offset_bytes = locate_fat(image, disk.capacity_bytes, self.offset_bytes)
            yield FatVolume.open(image, offset_bytes)

    def with_redo_log(self, folder: Path) -> DataDisk:
        """This disk with what is in the redo log over it that lies in ``folder``, if one does.

        Raises `DiskError` where several do.
        """
        stem, name = re.escape(self.path.stem), re.escape(self.path.name)
        is_log = re.compile(rf"{stem}-[0-9]{{6}}\.vmdk|{name}\.REDO_\w{{1,32}}", re.ASCII)
        try:
            found = [path for path in folder.iterdir() if is_log.fullmatch(path.name)]
        except FileNotFoundError:
            return self
        if len(found) > 1:
            raise DiskError(
                f"there are {len(found)} redo logs of '{self.path.name}' in '{folder}'",
                "have one snapshot taken of a machine, and none of that; run the job again",
            )
        return self._replace(path=found[0], base=self.path) if found else self

    def _read(self) -> Vmdk:
        return (
            read_vmdk(self.path)
            if self.base is None
            else read_delta(self.path, read_vmdk(self.base))
        )

    def overwrite(self, name: str, data: bytes) -> None:
        """Put ``data`` in place of a file's content, of the same length, where that lies.

        Nothing else of the disk changes, and nothing is converted, whatever its form.
        Raises `DiskError` where there is no such file of that length.
        """
        disk = read_vmdk(self.path)
        with in_place(disk) as there:
            offset_bytes = locate_fat(there, disk.capacity_bytes, self.offset_bytes)
            file = FatVolume.open(there, offset_bytes).lookup(name)
            if file is None or file.is_folder or file.size_bytes != len(data):
                raise DiskError(f"there is no file '{name}' of {len(data)} bytes on the disk")
            write_extents(there, file.extents, data)
