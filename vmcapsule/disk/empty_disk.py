"""An empty data disk: one vfat partition, on whose layout host and guest agree."""

from __future__ import annotations

from pathlib import Path

from vmcapsule.disk.fat.format import format_fat
from vmcapsule.disk.mbr import Partition, mbr
from vmcapsule.disk.vmdk.write import flat_beside, write_flat

#: By this a guest made by our builder finds it.
LABEL = "CONDOR-DATA"
_TYPE_FAT32 = 0x0C


def build_data_disk(
    raw: Path, *, size_bytes: int, offset_bytes: int, label: str = LABEL
) -> None:
    """Write the raw data disk ``raw`` (sparse) of ``size_bytes``, empty.

    Its partition begins at ``offset_bytes`` and takes all the rest.  Raises `UsageError`
    where that cannot be.
    """
    room_bytes = size_bytes - offset_bytes
    with raw.open("wb") as file:
        file.truncate(size_bytes)
        # Windows goes by the type, Linux looks: FAT32's is right for both but the smallest.
        file.write(mbr([Partition(offset_bytes, room_bytes, _TYPE_FAT32)]))
        file.flush()
        format_fat(file.fileno(), offset_bytes, room_bytes, label)


def make_data_disk(
    target: Path,
    *,
    size_bytes: int,
    offset_bytes: int,
    label: str = LABEL,
    adapter: str = "ide",
) -> Path:
    """Make an empty, flat data disk, its image beside ``target``; return ``target``.

    See `build_data_disk`.
    """
    flat = flat_beside(target)
    build_data_disk(flat, size_bytes=size_bytes, offset_bytes=offset_bytes, label=label)
    write_flat(flat, target, adapter=adapter)
    return target
