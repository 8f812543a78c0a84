"""An empty ext4 file system on a disk that is all zeros, of any size, in a few writes.

What a guest is given to write on need not be formatted there, where the program for it may
be missing, and is slow where the machine is emulated.  Of each group of 128 MiB only its
descriptor is written: it says that the rest, bitmaps and inodes, is still to be filled in,
which Linux does as it comes to use a group.  There is no journal, for what is thrown away
after one run is never repaired.

Source: Linux's Documentation/filesystems/ext4; the features are as old as Linux 3.0.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Iterator

from vmcapsule.disk.extents import write_at

BLOCK_BYTES = 4096
_GROUP_BLOCKS = 8 * BLOCK_BYTES
#: A file system of ours is a multiple of this: no group is cut short.
GROUP_BYTES = _GROUP_BLOCKS * BLOCK_BYTES
#: Where block numbers have 32 bits.
SIZE_BYTES_MAX = (1 << 32) * BLOCK_BYTES - GROUP_BYTES
#: One for 16 KiB, as mke2fs has it.
_GROUP_INODES = 8192
_INODE_BYTES = 256
_TABLE_BLOCKS = _GROUP_INODES * _INODE_BYTES // BLOCK_BYTES
_ROOT, _LOST_AND_FOUND, _USED_INODES, _FOLDERS = 2, 11, 11, 2
#: A group's descriptor without its checksum, of which there are two bytes more.
_DESCRIPTOR = struct.Struct("<IIIHHHHIHHH")
_DESCRIPTOR_BYTES = _DESCRIPTOR.size + 2
_INODES_TO_DO, _BLOCKS_TO_DO, _TABLE_IS_ZERO = 1, 2, 4
_SUPERBLOCK_AT, _SUPERBLOCK_BYTES = 1024, 1024
#: dir_index; filetype, extents; sparse_super, large_file, huge_file, gdt_csum, dir_nlink,
#: extra_isize: what mke2fs makes, but for a journal and for what needs a newer Linux.
_COMPAT, _INCOMPAT, _RO_COMPAT = 0x20, 0x42, 0x7B
_EXTRA_INODE_BYTES = 32


def format_ext4(fd: int, size_bytes: int, label: str, uuid: bytes) -> None:
    """Write an empty ext4 file system onto ``fd``, which is ``size_bytes`` of zeros.

    ``label`` has up to 16 characters of ASCII, ``uuid`` 16 bytes.  Only root may write to
    its top folder.  Raises `ValueError` for a size that is no multiple of `GROUP_BYTES`, or
    beyond `SIZE_BYTES_MAX`.
    """
    if size_bytes % GROUP_BYTES or not 0 < size_bytes <= SIZE_BYTES_MAX:
        raise ValueError(f"no ext4 file system of {size_bytes} bytes can be made")
    groups = size_bytes // GROUP_BYTES
    directory_blocks = -(-groups * _DESCRIPTOR_BYTES // BLOCK_BYTES)
    # What each group has before its data: perhaps a copy, two bitmaps, inodes.
    heads = [1 + directory_blocks if _has_copy(group) else 0 for group in range(groups)]
    descriptors = b"".join(_descriptors(heads, uuid))
    free = sum(_free_blocks(group, head) for group, head in enumerate(heads))
    for group in filter(_has_copy, range(groups)):
        start = group * GROUP_BYTES
        superblock = _superblock(groups, free, group, label, uuid)
        write_at(fd, start + (_SUPERBLOCK_AT if group == 0 else 0), superblock)
        write_at(fd, start + BLOCK_BYTES, descriptors)
    for group in {0, groups - 1}:
        _write_bitmap(fd, group, heads[group])
    _write_first_group(fd, heads[0])


def _has_copy(group: int) -> bool:
    """Whether a group begins with a copy of superblock and descriptors (sparse_super)."""
    return group <= 1 or any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


def _free_blocks(group: int, head: int) -> int:
    return _GROUP_BLOCKS - head - 2 - _TABLE_BLOCKS - (_FOLDERS if group == 0 else 0)


def _descriptors(heads: list[int], uuid: bytes) -> Iterator[bytes]:
    seed = _crc16(uuid)
    for group, head in enumerate(heads):
        bitmap = group * _GROUP_BLOCKS + head
        free_inodes, folders, flags = _GROUP_INODES, 0, _INODES_TO_DO
        if group == 0:
            free_inodes, folders, flags = _GROUP_INODES - _USED_INODES, _FOLDERS, 0
        elif group < len(heads) - 1:
            # e2fsck wants the last one's bitmap, for that group might be cut short.
            flags |= _BLOCKS_TO_DO
        places = (bitmap, bitmap + 1, bitmap + 2)
        counts = (_free_blocks(group, head), free_inodes, folders, flags | _TABLE_IS_ZERO)
        data = _DESCRIPTOR.pack(*places, *counts, 0, 0, 0, free_inodes)
        yield data + struct.pack("<H", _crc16(struct.pack("<I", group) + data, seed))


def _crc16(data: bytes, crc: int = 0xFFFF) -> int:
    """CRC-16 with the polynomial 0x8005, low bits first, as in Linux's lib/crc16.c."""
    table = _crc_table()
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _superblock(groups: int, free_blocks: int, group: int, label: str, uuid: bytes) -> bytes:
    inodes = groups * _GROUP_INODES
    block = bytearray(_SUPERBLOCK_BYTES)
    fields = (
        # inodes, blocks, none reserved for root, what is free of both; the first is block 0
        (0, "<IIIIII", (inodes, groups * _GROUP_BLOCKS, 0, free_blocks, inodes - 11, 0)),
        # 4 KiB twice, as 1 KiB shifted; what a group has, twice for blocks
        (24, "<IIIII", (2, 2, _GROUP_BLOCKS, _GROUP_BLOCKS, _GROUP_INODES)),
        # never to be checked; magic, clean, go on after errors
        (54, "<HHHH", (0xFFFF, 0xEF53, 1, 1)),
        # revision; the first inode that is not reserved, an inode's size, whose copy this is
        (76, "<I4xIHH", (1, _LOST_AND_FOUND, _INODE_BYTES, group)),
        (92, "<III16s16s", (_COMPAT, _INCOMPAT, _RO_COMPAT, uuid, label.encode("ascii"))),
        # how names are hashed in large folders: a seed, half MD4, bytes are signed
        (236, "<16sB", (uuid, 1)),
        (348, "<HHI", (_EXTRA_INODE_BYTES, _EXTRA_INODE_BYTES, 1)),
    )
    for offset, form, values in fields:
        struct.pack_into(form, block, offset, *values)
    return bytes(block)


def _write_first_group(fd: int, head: int) -> None:
    """The inodes and folders of the one group in which something is."""
    table = head + 2
    data = table + _TABLE_BLOCKS
    inodes = ((1 << _USED_INODES) - 1).to_bytes(_GROUP_INODES // 8, "little")
    write_at(fd, (head + 1) * BLOCK_BYTES, inodes.ljust(BLOCK_BYTES, b"\xff"))
    for number, block, mode, links in (
        (_ROOT, data, 0o40755, 3),
        (_LOST_AND_FOUND, data + 1, 0o40700, 2),
    ):
        inode = struct.pack(
            "<H2xI16x2xHI8xI", mode, BLOCK_BYTES, links, BLOCK_BYTES // 512, block
        )
        inode = inode.ljust(128, b"\0") + struct.pack("<H", _EXTRA_INODE_BYTES)
        write_at(fd, table * BLOCK_BYTES + (number - 1) * _INODE_BYTES, inode)
    names = [(b".", _ROOT), (b"..", _ROOT), (b"lost+found", _LOST_AND_FOUND)]
    write_at(fd, data * BLOCK_BYTES, _folder(names))
    write_at(fd, (data + 1) * BLOCK_BYTES, _folder([(b".", _LOST_AND_FOUND), (b"..", _ROOT)]))


def _write_bitmap(fd: int, group: int, head: int) -> None:
    """Say which blocks of a group are in use: those at its beginning."""
    used = _GROUP_BLOCKS - _free_blocks(group, head)
    data = ((1 << used) - 1).to_bytes(BLOCK_BYTES, "little")
    write_at(fd, group * GROUP_BYTES + head * BLOCK_BYTES, data)


def _folder(entries: list[tuple[bytes, int]]) -> bytes:
    """A folder's block: the last entry takes all that is left of it."""
    data = b""
    for number, (name, inode) in enumerate(entries, 1):
        room = 8 + -(-len(name) // 4) * 4 if number < len(entries) else BLOCK_BYTES - len(data)
        data += struct.pack("<IHBB", inode, room, len(name), 2) + name.ljust(room - 8, b"\0")
    return data
