"""The index of a sandbox: a line of JSON for each entry, as `vmcapsule.contract` has it."""

from __future__ import annotations

import json
import mmap
import os
from typing import Any, Iterable, NoReturn, Optional, Sequence

from vmcapsule.contract import INDEX_BYTES_MAX, MTIME_NS_MAX
from vmcapsule.errors import DiskError, TooLarge
from vmcapsule.transfer.entries import FILE, FOLDER, LINK, Entries, Entry, Stretch

PATH_BYTES_MAX = 4096
NAME_BYTES_MAX = 255
_quote = json.JSONEncoder().encode
_decode = json.JSONDecoder().decode


def dump_index(entries: Iterable[Entry]) -> memoryview:
    """Write an index; `parse_index` reads it.  `TooLarge` for one that would not be read."""
    # Of a mapping only what is used takes memory, and nothing is copied as it grows.
    data = mmap.mmap(-1, INDEX_BYTES_MAX)
    count = size_bytes = 0
    for entry in entries:
        line = _line(entry).encode("ascii")
        count += 1
        size_bytes += len(line)
        if size_bytes <= INDEX_BYTES_MAX:
            data.write(line)
    if size_bytes > INDEX_BYTES_MAX:
        raise TooLarge(
            f"the job has {count} input files, too many for one capsule "
            f"(their list takes {size_bytes} of at most {INDEX_BYTES_MAX} bytes)",
            "pack them into an archive",
        )
    return memoryview(data)[:size_bytes]


def _line(entry: Entry) -> str:
    """An entry as JSON: three times as fast as through a dictionary."""
    path, kind, mode, mtime_ns, size_bytes, stretches, target = entry
    rest = ""
    if kind == FILE:
        extents = ",".join([f"[{a},{b},{c},{d}]" for a, b, c, d in stretches])
        rest = f',"size":{size_bytes},"extents":[{extents}]'
    elif kind == LINK:
        rest = f',"target":{_quote(target)}'
    return (
        f'{{"path":{_quote(path)},"type":"{kind}","mode":{mode},"mtime_ns":{mtime_ns}{rest}}}\n'
    )


def parse_index(data: bytes, pack_sizes_bytes: Sequence[int]) -> Entries:
    """Read an index that a guest wrote and check every statement in it.

    ``pack_sizes_bytes`` are the sizes of the packs that are on the disk.  Paths are
    relative and plain, each comes once and lies in folders that the index has, and the
    data it claims lies in the packs and is not claimed over and over.  Raises
    `DiskError` naming the line that breaks a rule.
    """
    entries = Entries()
    folders = {"": True}
    room = sum(pack_sizes_bytes)
    number = at = 0
    while at < len(data):
        number += 1
        end = data.find(b"\n", at) + 1 or len(data)
        try:
            entry = _entry(_decode(data[at:end].decode()), pack_sizes_bytes)
            _check_place(entry, folders)
            for stretch in entry.stretches:
                room -= stretch.length
            if room < 0:
                _fail("claims more data than the packs hold")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DiskError(
                f"line {number} of the index is not valid: {error}",
                "the guest wrote it; nothing of it was used",
            ) from error
        entries.append(entry)
        at = end
    return entries


def _fail(what: str) -> NoReturn:
    raise ValueError(what)


def _entry(record: Any, pack_sizes_bytes: Sequence[int]) -> Entry:
    if not isinstance(record, dict):
        _fail("is not an object")
    kind = record["type"]
    if kind not in (FILE, FOLDER, LINK):
        _fail(f"type is {kind!r:.40}")
    path = check_path(record["path"])
    mode = _number(record["mode"], "mode", 0o7777)
    mtime_ns = record.get("mtime_ns", 0)
    if type(mtime_ns) is not int or abs(mtime_ns) > MTIME_NS_MAX:
        _fail("mtime_ns is out of range")
    if kind == FILE:
        size_bytes = _number(record["size"], "size")
        stretches = _stretches(record["extents"], size_bytes, pack_sizes_bytes)
        return Entry(path, FILE, mode, mtime_ns, size_bytes, stretches)
    return Entry(path, kind, mode, mtime_ns, target=_target(record) if kind == LINK else "")


def _number(value: object, name: str, limit: int = 1 << 62) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        _fail(f"{name} is {value!r:.40}")
    return value


def _target(record: Any) -> str:
    target = record["target"]
    if not isinstance(target, str) or "\0" in target:
        _fail("target is not a string")
    if len(target) > PATH_BYTES_MAX:
        _fail("target is too long")
    return target


def check_path(path: Optional[object]) -> str:
    """Return ``path`` when it is a plain relative path that Linux can hold."""
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


def _stretches(
    extents: Any, size_bytes: int, pack_sizes_bytes: Sequence[int]
) -> tuple[Stretch, ...]:
    if not isinstance(extents, list):
        _fail("extents is not a list")
    stretches = []
    end = 0
    for extent in extents:
        offset, length, pack, pack_offset = extent
        for value in extent:
            _number(value, "an extent")
        if offset < end or length <= 0:
            _fail("extents overlap")
        if pack >= len(pack_sizes_bytes):
            _fail(f"there is no pack {pack}")
        if pack_offset + length > pack_sizes_bytes[pack]:
            _fail("an extent leaves its pack")
        end = offset + length
        stretches.append(Stretch(offset, length, pack, pack_offset))
    if end > size_bytes:
        _fail("an extent lies behind the file's end")
    return tuple(stretches)


def _check_place(entry: Entry, seen: dict[str, bool]) -> None:
    """Each path comes once, and in a folder; ``seen`` says which of them are folders."""
    if entry.path in seen:
        _fail(f"path {entry.path!r:.80} comes twice")
    if not seen.get(entry.path.rpartition("/")[0]):
        _fail(f"path {entry.path!r:.80} is not in a folder of the index")
    seen[entry.path] = entry.kind == FOLDER
