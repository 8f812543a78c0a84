"""The kernel as QEMU starts it fastest: the ELF image out of a bzImage.

Decompressing the kernel inside an emulated machine takes about a second; QEMU (4.0 and
newer) starts the plain ELF image through its PVH entry point.
Formats: Linux, Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import gzip
import lzma
import struct
from typing import Callable, Dict, Optional

from vmcapsule.process import run

_HEADER_MAGIC = b"HdrS"
#: An ELF note: length of the name and of the address, number 18, the name.
_PVH_NOTES = tuple(struct.pack("<III4s", 4, size, 18, b"Xen\0") for size in (4, 8))
_PT_LOAD = 1


def vmlinux(bzimage: bytes) -> Optional[bytes]:
    """Return the ELF image in ``bzimage``, or None where QEMU could not start it.

    That is: an old or foreign header, a compression unknown here, no PVH entry point.
    """
    if len(bzimage) < 0x260 or bzimage[0x202:0x206] != _HEADER_MAGIC:
        return None
    setup_bytes = ((bzimage[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    payload = bzimage[setup_bytes + offset : setup_bytes + offset + length]
    image = _decompressed(payload)
    if image is None or image[:4] != b"\x7fELF" or not any(n in image for n in _PVH_NOTES):
        return None
    return image[: _loaded_bytes(image)]


def _decompressed(payload: bytes) -> Optional[bytes]:
    # The last four bytes say how long the image is; zstd(1) would stumble over them.
    packed = payload[:-4]
    known: Dict[bytes, Callable[[bytes], bytes]] = {
        b"\x28\xb5\x2f\xfd": _unzstd,
        b"\x1f\x8b": gzip.decompress,
        b"\xfd7zXZ": lzma.decompress,
    }
    for magic, decompress in known.items():
        if packed.startswith(magic):
            return decompress(packed)
    return None


def _unzstd(data: bytes) -> bytes:
    return run(["zstd", "-dc"], stdin=data, timeout_s=60).stdout


def _loaded_bytes(image: bytes) -> int:
    """Return where the last loaded byte lies: sections behind it are for debuggers."""
    (start,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    end = start + size * count
    for number in range(count):
        kind, _, offset, _, _, length = struct.unpack_from(
            "<IIQQQQ", image, start + number * size
        )
        if kind == _PT_LOAD:
            end = max(end, offset + length)
    return int(end)
