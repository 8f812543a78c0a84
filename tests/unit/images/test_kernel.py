"""The ELF image out of a bzImage, and None for all that is not one."""

from __future__ import annotations

import gzip
import lzma
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule import process
from vmcapsule.images.kernel import vmlinux

LOADED = 300


def elf(note: bytes = struct.pack("<III4s", 4, 8, 18, b"Xen\0")) -> bytes:
    """A kernel of one segment of `LOADED` bytes, with debugging sections behind it."""
    header = b"\x7fELF".ljust(32, b"\0") + struct.pack("<Q", 64)
    header = header.ljust(54, b"\0") + struct.pack("<HH", 56, 1)
    segment = struct.pack("<IIQQQQ", 1, 5, 0, 0, 0, LOADED)
    return (header.ljust(64, b"\0") + segment + note).ljust(LOADED, b"k") + b"debug" * 9


def bzimage(payload: bytes) -> bytes:
    setup = bytearray(2 * 512)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, 16, len(payload))
    return bytes(setup) + b"startup code...." + payload + b"trailer"


@pytest.mark.parametrize("how", ["gzip", "xz", "zstd"])
def test_compressed_kernel_is_taken_out_and_trimmed(how: str) -> None:
    packed = {
        "gzip": gzip.compress,
        "xz": lzma.compress,
        "zstd": lambda data: process.run(["zstd", "-c"], stdin=data, timeout_s=20).stdout,
    }[how](elf())
    image = vmlinux(bzimage(packed + struct.pack("<I", len(elf()))))
    assert image == elf()[:LOADED]


def test_kernel_without_pvh_entry_is_not_for_qemu() -> None:
    assert vmlinux(bzimage(gzip.compress(elf(note=b"")) + bytes(4))) is None


def test_unknown_compression() -> None:
    assert vmlinux(bzimage(b"LZ99" + elf() + bytes(4))) is None


@given(st.binary(max_size=2048))
def test_no_kernel_at_all(data: bytes) -> None:
    assert vmlinux(data) is None
