"""A disk's first sector: boot code and the table of its primary partitions."""

from __future__ import annotations

import struct
from typing import Sequence

from vmcapsule.named import NamedTuple

SECTOR_BYTES = 512


class Partition(NamedTuple):
    """A primary partition: bytes from the disk's start, a type code, bootable or not."""

    offset_bytes: int
    size_bytes: int
    kind: int
    active: bool = False


def mbr(partitions: Sequence[Partition], code: bytes = b"") -> bytes:
    """Return the disk's first sector: boot code, up to four partitions, the signature.

    The cylinder/head/sector fields say "beyond", as is usual: firmware that boots large
    disks reads the sector numbers behind them.
    """
    entries = b""
    for part in partitions:
        entries += struct.pack(
            "<B3sB3sII",
            0x80 if part.active else 0,
            b"\xfe\xff\xff",
            part.kind,
            b"\xfe\xff\xff",
            part.offset_bytes // SECTOR_BYTES,
            part.size_bytes // SECTOR_BYTES,
        )
    return code[:440].ljust(446, b"\0") + entries.ljust(64, b"\0") + b"\x55\xaa"
