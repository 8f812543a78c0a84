"""The index and packs that carry a sandbox over vfat: any name, mode, link, hole or size.

The format is described in `vmcapsule.contract`.  Packing plans first: the plan says how
long each pack will be and which bytes of which file go where, so that packs can be
allocated whole and filled by the kernel.
"""

from __future__ import annotations

import io
import json
import os
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

from vmcapsule.contract import INDEX_BYTES_MAX, PACK_BYTES_MAX, PACKS_MAX
from vmcapsule.disk.extents import Extent, data_ranges
from vmcapsule.errors import DiskError, InputError, TooLarge

#: Data of files at least this long starts on a block boundary, so that file systems
#: that can share blocks do so.  Shorter files are packed tightly.
ALIGN_FROM_BYTES = 1 << 20
BLOCK_BYTES = 4096

FILE, FOLDER, LINK = "file", "dir", "link"


class Stretch(NamedTuple):
    """``length`` bytes of a file's data, at ``offset`` in it, kept in a pack."""

    offset: int
    length: int
    pack: int
    pack_offset: int


class Entry(NamedTuple):
    """One file, folder or link of a sandbox, as a line of the index says it."""

    path: str
    kind: str
    mode: int
    mtime_ns: int = 0
    size_bytes: int = 0
    stretches: tuple[Stretch, ...] = ()
    target: str = ""


class Member(NamedTuple):
    """One thing to pack: where it is on the host, and its path in the sandbox."""

    source: Path
    path: str
    kind: str
    mode: int
    mtime_ns: int = 0
    size_bytes: int = 0
    allocated_bytes: int = 0


@dataclass(frozen=True)
class PackPlan:
    """What the index will say, whence the data comes, and how long each pack will be."""

    entries: tuple[Entry, ...]
    sources: Mapping[str, Path]
    pack_sizes_bytes: tuple[int, ...]

    @cached_property
    def index(self) -> bytes:
        """The index's content."""
        return dump_index(self.entries)


class _Layout:
    """Hands out places in packs, one after the other."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def place(self, offset: int, length: int, align: bool) -> Iterator[Stretch]:
        while length:
            if not self.sizes or self.sizes[-1] >= PACK_BYTES_MAX:
                self.sizes.append(0)
            start = self.sizes[-1]
            if align:
                start = -(-start // BLOCK_BYTES) * BLOCK_BYTES
            piece = min(length, PACK_BYTES_MAX - start)
            if piece > 0:
                yield Stretch(offset, piece, len(self.sizes) - 1, start)
                offset, length = offset + piece, length - piece
            self.sizes[-1] = start + max(piece, 0)


def plan_packs(members: Iterable[Member]) -> PackPlan:
    """Lay out the packs for ``members``; later members replace earlier ones of that path.

    Holes of sparse files take no room.  Raises `InputError` for a file that cannot be
    opened, `TooLarge` when the packs or the index would be larger than the format
    carries.
    """
    last = {member.path: member for member in members}
    layout = _Layout()
    entries = []
    for member in last.values():
        _check_parent(member, last)
        stretches: tuple[Stretch, ...] = ()
        if member.kind == FILE:
            align = member.size_bytes >= ALIGN_FROM_BYTES
            stretches = tuple(
                stretch
                for offset, length in _data_of(member)
                for stretch in layout.place(offset, length, align)
            )
        entries.append(
            Entry(
                member.path,
                member.kind,
                member.mode,
                member.mtime_ns,
                member.size_bytes,
                stretches,
            )
        )
    if len(layout.sizes) > PACKS_MAX:
        raise TooLarge(
            f"the job's files hold {sum(layout.sizes)} bytes, more than the "
            f"{PACKS_MAX * PACK_BYTES_MAX} that a capsule carries",
            "let the job fetch large data itself",
        )
    return PackPlan(
        tuple(entries),
        {member.path: member.source for member in last.values() if member.kind == FILE},
        tuple(layout.sizes),
    )


def _check_parent(member: Member, members: Mapping[str, Member]) -> None:
    parent = members.get(member.path.rpartition("/")[0])
    if parent is not None and parent.kind != FOLDER:
        raise InputError(
            f"the input file '{parent.source}' has the name of a folder that '{member.source}' "
            "lies in",
            "rename one of them",
        )


def _data_of(member: Member) -> Iterable[tuple[int, int]]:
    if member.allocated_bytes >= member.size_bytes:
        return [(0, member.size_bytes)]
    try:
        fd = os.open(member.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(member.source, error) from error
    try:
        return [
            (run.offset_bytes, run.length_bytes) for run in data_ranges(fd, member.size_bytes)
        ]
    finally:
        os.close(fd)


def unreadable(path: Path, error: OSError) -> InputError:
    """The error for an input file that is missing or cannot be read."""
    return InputError(
        f"cannot read the input file '{path}': {error.strerror}",
        "check the name in the submit file and the file's permissions",
    )


def dump_index(entries: Sequence[Entry]) -> bytes:
    """Write an index; `parse_index` reads it."""
    encode = json.JSONEncoder(separators=(",", ":")).encode
    data = bytearray()  # there may be 100,000 lines: none is kept
    for entry in entries:
        data += encode(_to_record(entry)).encode("ascii") + b"\n"
    if len(data) > INDEX_BYTES_MAX:
        raise TooLarge(
            f"the job has {len(entries)} input files, too many for one capsule "
            f"(their list takes {len(data)} of at most {INDEX_BYTES_MAX} bytes)",
            "pack them into an archive",
        )
    return bytes(data)


def _to_record(entry: Entry) -> dict[str, Any]:
    record: dict[str, Any] = {
        "path": entry.path,
        "type": entry.kind,
        "mode": entry.mode,
        "mtime_ns": entry.mtime_ns,
    }
    if entry.kind == FILE:
        record["size"] = entry.size_bytes
        record["extents"] = [
            [s.offset, s.length, s.pack, s.pack_offset] for s in entry.stretches
        ]
    if entry.kind == LINK:
        record["target"] = entry.target
    return record


def parse_index(data: bytes, pack_sizes_bytes: Sequence[int]) -> tuple[Entry, ...]:
    """Read an index that a guest wrote and check every statement in it.

    ``pack_sizes_bytes`` are the sizes of the packs that are on the disk.  Paths are
    relative and plain, each comes once and lies in folders that the index has, and the
    data it claims lies in the packs and is not claimed over and over.  Raises
    `DiskError` naming the line that breaks a rule.
    """
    entries: dict[str, Entry] = {}
    room = sum(pack_sizes_bytes)
    for number, line in enumerate(io.BytesIO(data), start=1):
        try:
            entry = _from_record(json.loads(line), pack_sizes_bytes)
            _check_place(entry, entries)
            room -= sum(stretch.length for stretch in entry.stretches)
            _require(room >= 0, "claims more data than the packs hold")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DiskError(
                f"line {number} of the index is not valid: {error}",
                "the guest wrote it; nothing of it was used",
            ) from error
        entries[entry.path] = entry
    return tuple(entries.values())


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _number(value: object, name: str, limit: int = 1 << 62) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError(f"{name} is {value!r:.40}")
    return value


def _from_record(record: Any, pack_sizes_bytes: Sequence[int]) -> Entry:
    _require(isinstance(record, dict), "is not an object")
    kind = record["type"]
    _require(kind in (FILE, FOLDER, LINK), f"type is {kind!r:.40}")
    path = check_path(record["path"])
    mode = _number(record["mode"], "mode", 0o7777)
    mtime_ns = record.get("mtime_ns", 0)
    _require(type(mtime_ns) is int and abs(mtime_ns) < 1 << 62, "mtime_ns is out of range")
    size_bytes = _number(record["size"], "size") if kind == FILE else 0
    stretches = (
        _stretches(record["extents"], size_bytes, pack_sizes_bytes) if kind == FILE else ()
    )
    target = record["target"] if kind == LINK else ""
    _require(isinstance(target, str) and "\0" not in target, "target is not a string")
    _require(len(target) <= 4096, "target is too long")
    return Entry(path, kind, mode, mtime_ns, size_bytes, stretches, target)


def check_path(path: Optional[object]) -> str:
    """Return ``path`` when it is a plain relative path that Linux can hold."""
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(f"path is {path!r:.40}")
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"path is {path!r:.80}")
    encoded = os.fsencode(path)
    if len(encoded) > 4096 or any(len(os.fsencode(part)) > 255 for part in parts):
        raise ValueError(f"path is too long: {path!r:.80}")
    return path


def _stretches(
    extents: Any, size_bytes: int, pack_sizes_bytes: Sequence[int]
) -> tuple[Stretch, ...]:
    _require(isinstance(extents, list), "extents is not a list")
    stretches = []
    end = 0
    for extent in extents:
        offset, length, pack, pack_offset = (_number(value, "an extent") for value in extent)
        _require(offset >= end and length > 0, "extents overlap")
        _require(pack < len(pack_sizes_bytes), f"there is no pack {pack}")
        _require(pack_offset + length <= pack_sizes_bytes[pack], "an extent leaves its pack")
        end = offset + length
        stretches.append(Stretch(offset, length, pack, pack_offset))
    _require(end <= size_bytes, "an extent lies behind the file's end")
    return tuple(stretches)


def _check_place(entry: Entry, entries: Mapping[str, Entry]) -> None:
    _require(entry.path not in entries, f"path {entry.path!r:.80} comes twice")
    parent = entry.path.rpartition("/")[0]
    if parent:
        holder = entries.get(parent)
        _require(
            holder is not None and holder.kind == FOLDER,
            f"path {entry.path!r:.80} is not in a folder of the index",
        )


class Pieces:
    """Extents taken as one run of bytes, of which parts are asked for.

    A part is found without a walk through all of them: a hostile volume can have a pack
    in a million pieces and an index that asks for a million parts of it.
    """

    def __init__(self, extents: Iterable[Extent]) -> None:
        self.extents = tuple(extents)
        self._ends = array("Q", accumulate(extent.length_bytes for extent in self.extents))

    def part(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield where ``length`` bytes from ``offset`` on lie; less when there are less."""
        index = bisect_right(self._ends, offset)
        while length > 0 and index < len(self.extents):
            extent, left = self.extents[index], self._ends[index] - offset
            piece = min(length, left)
            yield Extent(extent.offset_bytes + extent.length_bytes - left, piece)
            offset, length, index = offset + piece, length - piece, index + 1
