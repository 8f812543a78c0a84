"""Names as bytes, and files read, written, copied and removed."""

import errno
import os

from init.contract import INDEX_BYTES_MAX

MYPY = False
if MYPY:
    from typing import Any, Iterator

COPY_BYTES_MAX = 1 << 30


def to_bytes(text: str) -> bytes:
    """The bytes of a name or string; raise ValueError for what no file system holds."""
    data = text.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise ValueError(f"{text[:80]!r} holds a NUL")
    return data


def to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def plain_path(text: "Any") -> bytes:
    """Check that ``text`` is a relative path without '.', '..' or empty parts."""
    if not isinstance(text, str) or any(p in ("", ".", "..") for p in text.split("/")):
        raise ValueError(f"the path {text!r} is not plain and relative")
    return to_bytes(text)


def write_file(path: str, data: bytes, mode: int = 0o644) -> None:
    """Write a new file, whatever the umask is."""
    with open(path, "wb") as stream:
        stream.write(data)
        os.fchmod(stream.fileno(), mode)


def read_text(path: str, last_bytes: int = INDEX_BYTES_MAX) -> str:
    """The last of a file; nothing where there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - last_bytes))
            return to_text(stream.read())
    except FileNotFoundError:
        return ""


def append_line(path: str, line: str) -> None:
    with open(path, "rb+") as stream:
        data = stream.read()
        cut = b"\n" if data and not data.endswith(b"\n") else b""
        stream.write(cut + line.encode("ascii") + b"\n")


def copy_data(source: int, offset: int, target: int, length: int) -> None:
    """Copy to the place where ``target`` stands, in the kernel where it does that."""
    while length:
        try:
            done = os.sendfile(target, source, offset, min(length, COPY_BYTES_MAX))
        except OSError as error:
            if error.errno != errno.EOVERFLOW:
                raise
            # Into vfat it takes nothing that lies beyond 4 GiB in the source.
            done = os.write(target, os.pread(source, min(length, 1 << 20), offset))
        if not done:
            raise ValueError(f"the data ends {length} bytes early")
        offset, length = offset + done, length - done


def remove_tree(path: str) -> None:
    import shutil  # seldom needed

    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def usage_kib(root: bytes) -> int:
    """What a folder with all that is in it takes up on its disk."""
    return max(usage_so_far(root))


def usage_so_far(root: bytes) -> "Iterator[int]":
    """The same, in steps: what was found by then, last of all the whole."""
    # Not by os.walk: in older Pythons a thousand nested folders are too many for it.
    total, folders = 0, [root]
    while folders:
        folder = folders.pop()
        total += blocks(folder)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += blocks(entry.path)
                    yield total // 2
        except OSError:
            pass  # closed to us, or a path too long to be asked for
    yield total // 2


def blocks(path: bytes) -> int:
    try:
        return os.lstat(path).st_blocks
    except OSError:
        return 0  # a path too long to be asked for
