"""The disk that the guest works on: as large as the job was promised, thrown away at the end.

A template's root has a few GiB free, which nobody asked the job's owner about.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator, Optional

from vmcapsule.contract import WORK_LABEL
from vmcapsule.disk.extents import write_error
from vmcapsule.errors import TooLarge

#: What every template's root should have free: a job that needs no more works there.  One
#: that says nothing of disk counts as requesting 1 GiB, and has some inputs.
FROM_BYTES = 2 << 30
#: ext4 has an inode for so many bytes, and so a file takes no less.
_FILE_BYTES = 16 << 10
#: Beside a fiftieth, for inodes and bitmaps: superblocks, and what ext4 keeps for itself.
_OVERHEAD_BYTES = 64 << 20
_NAME = "work.raw"


def work_bytes_for(files: int, carried_bytes: int, request_bytes: int) -> int:
    """How large a disk must be with room for so many input files, which hold
    ``carried_bytes``, and for the disk that the job requests; 0: it needs none.

    Raises `TooLarge` for more than a disk of ours can be.
    """
    needed_bytes = files * _FILE_BYTES + carried_bytes + request_bytes
    if needed_bytes <= FROM_BYTES:
        return 0
    from vmcapsule.disk.ext4 import GROUP_BYTES, SIZE_BYTES_MAX  # seldom needed

    size_bytes = needed_bytes + needed_bytes // 50 + _OVERHEAD_BYTES
    size_bytes += -size_bytes % GROUP_BYTES
    if size_bytes > SIZE_BYTES_MAX:
        raise TooLarge(
            f"the job requests {request_bytes} bytes of disk beside its files, more than a "
            "virtual machine can be given",
            "request less disk",
        )
    return size_bytes


def format_work_disk(fd: int, size_bytes: int) -> None:
    """Make an empty work disk of a file of no bytes; sparse, it takes next to nothing."""
    from vmcapsule.disk.ext4 import format_ext4  # seldom needed

    os.ftruncate(fd, size_bytes)
    format_ext4(fd, size_bytes, WORK_LABEL, os.urandom(16))


@contextlib.contextmanager
def raw_work_disk(folder: Path, size_bytes: int) -> Iterator[Optional[Path]]:
    """A new work disk in ``folder``, for as long as the block lasts; None for one of 0 bytes.

    Raises `SpaceError` where it cannot be made.
    """
    if size_bytes == 0:
        yield None
        return
    path = folder / _NAME
    try:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                format_work_disk(fd, size_bytes)
            finally:
                os.close(fd)
        except OSError as error:
            raise write_error(error, f"cannot make a disk of {size_bytes} bytes") from error
        yield path
    finally:
        path.unlink(missing_ok=True)
