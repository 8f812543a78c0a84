"""An empty data disk: one vfat partition, on whose layout host and guest agree."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable, Iterator, Tuple

from vmcapsule.disk.extents import Extent, Image, Source, write_at
from vmcapsule.disk.fat.format import empty_fat
from vmcapsule.disk.mbr import Partition, mbr

#: By this a guest made by our builder finds it.
LABEL = "CONDOR-DATA"
_TYPE_FAT32 = 0x0C


class EmptyDisk:
    """An empty data disk that is in no file yet: a few sectors in memory, zeros elsewhere.

    It is read as a `disk_map.DiskMap` is.  Its partition begins at ``offset_bytes`` and takes
    all the rest of ``size_bytes``.  Raises `UsageError` where that cannot be.
    """

    def __init__(self, size_bytes: int, offset_bytes: int, label: str = LABEL) -> None:
        room_bytes = size_bytes - offset_bytes
        # Windows goes by the type, Linux looks: FAT32's is right for both but the smallest.
        table = mbr([Partition(offset_bytes, room_bytes, _TYPE_FAT32)])
        self.size_bytes = size_bytes
        self._pieces: Tuple[Tuple[int, bytes], ...] = (
            (0, table),
            *empty_fat(offset_bytes, room_bytes, label),
        )

    @property
    def content(self) -> Tuple[Extent, ...]:
        """Where it is not zeros."""
        return tuple(Extent(at, len(data)) for at, data in self._pieces)

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Return bytes of the disk, as `extents.read_at` does of a file."""
        read = bytearray(length_bytes)
        for at, data in self._pieces:
            begin = max(at, offset_bytes)
            end = min(at + len(data), offset_bytes + length_bytes)
            if begin < end:
                read[begin - offset_bytes : end - offset_bytes] = data[begin - at : end - at]
        return bytes(read)

    def within(self, extents: Iterable[Extent]) -> Iterator[Source]:
        """Yield nothing: none of it is in a file."""
        return iter(())

    def write(self, image: Image) -> None:
        """Write it to an image of zeros."""
        for at, data in self._pieces:
            write_at(image, at, data)


def build_data_disk(
    raw: Path, *, size_bytes: int, offset_bytes: int, label: str = LABEL
) -> None:
    """Write the raw data disk ``raw`` (sparse) of ``size_bytes``, empty.

    See `EmptyDisk`, whose errors it raises.
    """
    empty = EmptyDisk(size_bytes, offset_bytes, label)
    with raw.open("wb") as file:
        file.truncate(size_bytes)
        empty.write(file.fileno())
