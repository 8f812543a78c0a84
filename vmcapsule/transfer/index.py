"""The index of a sandbox, written and read: a line of JSON for each file, folder or link.

`vmcapsule.contract` describes the lines.
"""

from __future__ import annotations

import json
import mmap
import os
from typing import Any, Iterable, Iterator, NoReturn, Optional, Sequence

from vmcapsule.contract import (
    EXTENTS_PER_LINE,
    FILE_BYTES_MAX,
    INDEX_BYTES_MAX,
    INDEX_LINE_BYTES_MAX,
    MTIME_NS_MAX,
)
from vmcapsule.errors import DiskError, TooLarge, one_line
from vmcapsule.transfer.entries import FILE, FOLDER, LINK, Entries, Entry, Stretch

PATH_BYTES_MAX = 4096
NAME_BYTES_MAX = 255
_quote = json.JSONEncoder().encode
_decode = json.JSONDecoder().decode


def dump_index(entries: Iterable[Entry]) -> memoryview:
    """Write an index.  Raises `TooLarge` for one that `parse_index` would not read."""
    # Only the pages that are written take memory, and nothing is copied as more are.
    data = mmap.mmap(-1, INDEX_BYTES_MAX)
    count = size_bytes = 0
    for entry in entries:
        count += 1
        for line in _lines(entry):
            size_bytes += len(line)
            if size_bytes <= INDEX_BYTES_MAX:
                data.write(line.encode("ascii"))
    if size_bytes > INDEX_BYTES_MAX:
        raise TooLarge(
            f"the job has {count} input files, too many for one capsule "
            f"(their list takes {size_bytes} of at most {INDEX_BYTES_MAX} bytes)",
            "pack them into an archive",
        )
    return memoryview(data)[:size_bytes]


def _lines(entry: Entry) -> Iterator[str]:
    """An entry's lines.  Made by hand, they take a third of the time of a dictionary's."""
    path, kind, mode, mtime_ns, size_bytes, stretches, target = entry
    rest = ""
    if kind == FILE:
        extents = _extents(stretches[:EXTENTS_PER_LINE])
        rest = f',"size":{size_bytes},"extents":[{extents}]'
    elif kind == LINK:
        rest = f',"target":{_quote(target)}'
    yield (
        f'{{"path":{_quote(path)},"type":"{kind}","mode":{mode},"mtime_ns":{mtime_ns}{rest}}}\n'
    )
    for at in range(EXTENTS_PER_LINE, len(stretches), EXTENTS_PER_LINE):
        yield f'{{"extents":[{_extents(stretches[at : at + EXTENTS_PER_LINE])}]}}\n'


def _extents(stretches: Iterable[Stretch]) -> str:
    return ",".join([f"[{a},{b},{c},{d}]" for a, b, c, d in stretches])


def parse_index(data: bytes, pack_sizes_bytes: Sequence[int]) -> Entries:
    """Read an index that a guest wrote, and believe nothing in it.

    ``pack_sizes_bytes`` are the sizes of the packs on the disk.  Each path is relative and
    plain, comes once, and its folder comes before it.  A file's data lies in the packs, and
    all files together claim no more than these hold.  No line takes more memory than its
    bytes and little beside.  Raises `DiskError` with the number of a line that breaks a rule.
    """
    read = _Reading(pack_sizes_bytes)
    number = at = 0
    while at < len(data):
        number += 1
        end = data.find(b"\n", at) + 1 or len(data)
        try:
            if end - at > INDEX_LINE_BYTES_MAX:
                _fail(f"it is too long, with {end - at} bytes")
            read.line(_decode(data[at:end].decode()))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DiskError(
                f"line {number} of the index is not valid: {one_line(str(error))}",
                "the guest wrote it; nothing of it was used",
            ) from error
        at = end
    return read.entries


class _Reading:
    """An index of which some lines have been read."""

    def __init__(self, pack_sizes_bytes: Sequence[int]) -> None:
        self.entries = Entries()
        self._pack_sizes_bytes = pack_sizes_bytes
        self._room = sum(pack_sizes_bytes)
        #: By path: is it a folder?
        self._seen = {"": True}
        #: How large the last entry's file is (None: it is no file), and where in it the data
        #: ends that the index has told of.
        self._size_bytes: Optional[int] = None
        self._end = 0

    def line(self, record: Any) -> None:
        """Read one more.  Raises `ValueError`, `TypeError` or `KeyError` for a bad one."""
        if not isinstance(record, dict):
            _fail("is not an object")
        if "path" not in record and list(record) == ["extents"]:
            if self._size_bytes is None:
                _fail("goes on with no file")
            self.entries.go_on(self._stretches(record["extents"]))
            return
        entry = _entry(record)
        self._check_place(entry)
        self.entries.append(entry)
        self._size_bytes, self._end = None, 0
        if entry.kind == FILE:
            self._size_bytes = entry.size_bytes
            self.entries.lay(len(self.entries) - 1, self._stretches(record["extents"]))

    def _check_place(self, entry: Entry) -> None:
        """Raise `ValueError` for a path that was there before, or lies in no folder."""
        if entry.path in self._seen:
            _fail(f"path {entry.path!r:.80} comes twice")
        if not self._seen.get(entry.path.rpartition("/")[0]):
            _fail(f"path {entry.path!r:.80} is not in a folder of the index")
        self._seen[entry.path] = entry.kind == FOLDER

    def _stretches(self, extents: Any) -> list[Stretch]:
        """Check extents of the last entry's file, which follow those that it has."""
        if not isinstance(extents, list):
            _fail("extents is not a list")
        stretches = []
        for extent in extents:
            offset, length, pack, pack_offset = extent
            for value in extent:
                _number(value, "an extent")
            if offset < self._end or length <= 0:
                _fail("extents overlap")
            if pack >= len(self._pack_sizes_bytes):
                _fail(f"there is no pack {pack}")
            if pack_offset + length > self._pack_sizes_bytes[pack]:
                _fail("an extent leaves its pack")
            self._end = offset + length
            self._room -= length
            stretches.append(Stretch(offset, length, pack, pack_offset))
        if self._end > (self._size_bytes or 0):
            _fail("an extent lies behind the file's end")
        if self._room < 0:
            _fail("claims more data than the packs hold")
        return stretches


def _fail(what: str) -> NoReturn:
    raise ValueError(what)


def _entry(record: dict[str, Any]) -> Entry:
    """An entry without its stretches."""
    kind = record["type"]
    if kind not in (FILE, FOLDER, LINK):
        _fail(f"type is {kind!r:.40}")
    path = check_path(record["path"])
    mode = _number(record["mode"], "mode", 0o7777)
    mtime_ns = record.get("mtime_ns", 0)
    if type(mtime_ns) is not int or abs(mtime_ns) > MTIME_NS_MAX:
        _fail("mtime_ns is out of range")
    if kind == FILE:
        return Entry(path, FILE, mode, mtime_ns, _number(record["size"], "size"))
    return Entry(path, kind, mode, mtime_ns, target=_target(record) if kind == LINK else "")


def _number(value: object, name: str, limit: int = FILE_BYTES_MAX) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        _fail(f"{name} is {value!r:.40}")
    return value


def _target(record: Any) -> str:
    target = record["target"]
    if not isinstance(target, str) or "\0" in target:
        _fail("target is not a string")
    if len(os.fsencode(target)) > PATH_BYTES_MAX:
        _fail("target is too long")
    return target


def check_path(path: Optional[object]) -> str:
    """Return ``path`` if it is relative, plain and short enough for Linux; or `ValueError`."""
    if not isinstance(path, str) or not path or "\0" in path:
        _fail(f"path is {path!r:.40}")
    parts = path.split("/")
    for part in parts:
        if part in ("", ".", ".."):
            _fail(f"path is {path!r:.80}")
    if not path.isascii() or len(path) > NAME_BYTES_MAX:
        too_long = any(len(os.fsencode(part)) > NAME_BYTES_MAX for part in parts)
        if too_long or len(os.fsencode(path)) > PATH_BYTES_MAX:
            _fail(f"path is too long: {path!r:.80}")
    return path
