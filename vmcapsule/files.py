"""Files in folders that a stranger may write to: none makes a reader wait, or read for ever.

A FIFO, a socket, a link or a file without an end may lie at any name there.  An error of
these functions is an `OSError` that names the path and says what was found.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open a regular file that is not a link; ``mode`` is for one that ``flags`` create."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for somebody at its other end.
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return fd


def read_regular(path: Path, limit_bytes: int) -> bytes:
    """Read all of a regular file, which is not a link and holds ``limit_bytes`` at most."""
    fd = open_regular(path)
    try:
        pieces: list[bytes] = []
        left = limit_bytes + 1
        while left > 0:
            piece = os.read(fd, min(left, 1 << 20))
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(fd)
    raise OSError(errno.EFBIG, f"it is larger than {limit_bytes} bytes", str(path))


def why_unsafe(folder: Path, *, is_shared: bool) -> str:
    """Why others could put what is theirs in the place of what is in ``folder``.

    Empty where they cannot, and where the folder is not there, or not for us.  In one that
    ``is_shared`` all may make what is theirs: the sticky bit guards what is there.
    """
    try:
        status = folder.stat()
    except OSError:
        return ""
    if status.st_uid not in (0, os.getuid()):
        return f"it belongs to the user with uid {status.st_uid}, neither to root nor to you"
    if not status.st_mode & stat.S_IWOTH or (is_shared and status.st_mode & stat.S_ISVTX):
        return ""
    return "all may write to it" + (", and it has no sticky bit" if is_shared else "")
