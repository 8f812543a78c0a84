"""A data disk, whatever its form: opened for reading or writing, and copied."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

from vmcapsule.disk.content import content
from vmcapsule.disk.disk import Disk
from vmcapsule.disk.extents import created, write_at
from vmcapsule.disk.fat.boot import read_geometry
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.partition import locate_fat
from vmcapsule.disk.vmdk.format import Vmdk, read_delta, read_vmdk
from vmcapsule.disk.vmdk.vmdk import (
    in_place,
    make_transferable,
    mapped,
    raw_edit,
    viewed,
)
from vmcapsule.disk.vmdk.write import flat_beside, write_flat
from vmcapsule.errors import DiskError


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

    @contextmanager
    def edited(self) -> Iterator[FatVolume]:
        """Open the volume of a flat disk for reading and writing, inside the ``with`` block.

        Raises `DiskError` for a disk of another form.
        """
        with raw_edit(self.path) as raw:
            yield FatVolume.open(raw.fd, locate_fat(raw.fd, raw.size_bytes, self.offset_bytes))

    def overwrite(self, name: str, data: bytes) -> None:
        """Put ``data`` in place of a file's content, of the same length, where that lies.

        Nothing else of the disk changes, and nothing is converted, whatever its form.
        Raises `DiskError` where there is no such file of that length.
        """
        disk = read_vmdk(self.path)
        with in_place(disk) as there:
            offset_bytes = locate_fat(there, disk.capacity_bytes, self.offset_bytes)
            file = FatVolume.open(there, offset_bytes).lookup(name)
            places = tuple(there.within(file.extents)) if file is not None else ()
            length_bytes = sum(place.length_bytes for place in places)
            if file is None or not file.size_bytes == length_bytes == len(data):
                raise DiskError(f"there is no file '{name}' of {len(data)} bytes on the disk")
            left = memoryview(data)
            for place in places:
                write_at(place.fd, place.fd_offset, left[: place.length_bytes])
                left = left[place.length_bytes :]

    def copied(self, folder: Path) -> DataDisk:
        """Copy what is used of it to a flat disk of the same name in ``folder``.

        Raises `SpaceError` where there is no room.
        """
        disk = read_vmdk(self.path)
        target = folder / disk.path.name
        flat = flat_beside(target)
        with mapped(disk, folder) as there, created(flat, disk.capacity_bytes) as fd:
            there.copy(content(there, self.offset_bytes), fd)
        write_flat(flat, target, adapter=disk.adapter)
        return self._replace(path=target)

    def like(self, folder: Path, size_bytes: int) -> DataDisk:
        """Make an empty flat disk of ``size_bytes`` and the same name in ``folder``.

        A guest takes it for this one: same label, same place of its partition.
        """
        from vmcapsule.disk.empty_disk import make_data_disk  # seldom needed

        disk = read_vmdk(self.path)
        with mapped(disk, folder) as there:
            offset_bytes = locate_fat(there, there.size_bytes, self.offset_bytes)
            label = read_geometry(there, offset_bytes).label
        made = make_data_disk(
            folder / disk.path.name,
            size_bytes=size_bytes,
            offset_bytes=offset_bytes,
            label=label,
            adapter=disk.adapter,
        )
        return DataDisk(made, self.offset_bytes)

    def make_transferable(self, scratch: Path) -> None:
        """Turn a flat disk into one file without holes, which HTCondor would send as zeros."""
        make_transferable(self.path, scratch)
