"""A folder as it is: names as bytes, kinds, modes, contents, links, holes."""

# Names are bytes here.
# ruff: noqa: PTH100, PTH115, PTH116, PTH118, PTH123

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Callable, Dict

from tests.conformance.outcome import Entry

#: Takes out of a content, name or target what is the way's and not the case's.
Neutral = Callable[[bytes], bytes]

#: Larger files name no folder, and are not shown.
_SMALL_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def snapshot(root: Path, neutral: Neutral) -> Dict[bytes, Entry]:
    """Everything below ``root``, following no link, by path; the folder itself is ``.``."""
    top = os.fsencode(root)
    found = {b".": _entry(top, neutral)}
    pending = [b""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(top, folder)) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            path = os.path.join(folder, name)
            entry = _entry(os.path.join(top, path), neutral)
            found[neutral(path)] = entry
            if entry.kind == "folder":
                pending.append(path)
    return found


def _entry(path: bytes, neutral: Neutral) -> Entry:
    status = os.lstat(path)
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "device")
    mode = stat.S_IMODE(status.st_mode)
    if kind == "link":
        return Entry(kind, 0, target=neutral(os.readlink(path)))
    if kind != "file":
        return Entry(kind, mode)
    is_sparse = status.st_blocks * 512 < status.st_size
    if status.st_size > _SMALL_BYTES:
        return Entry(kind, mode, status.st_size, _digest(path), is_sparse)
    with open(path, "rb") as file:
        data = neutral(file.read())
    digest = hashlib.sha256(data).hexdigest()
    return Entry(kind, mode, status.st_size, digest, is_sparse, data=data)


def _digest(path: bytes) -> str:
    """The sum over a large file, whose holes are passed over quickly."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)
