"""What a store of templates says of itself: which there are, of which files, with digests.

A store is a folder that an administrator keeps, reached by its path or served by any web
server.  Its index names the templates, the last published first.  Of each there is a folder
named by its likeness, in which ``0.gz``, ``1.gz`` and so on are its files in the index's
order: the data of each without its holes, gzipped (RFC 1952).
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, Sequence

from vmcapsule.disk.extents import Extent
from vmcapsule.errors import TemplateError
from vmcapsule.named import NamedTuple

INDEX = "templates.json"
#: The version of the index that this code writes, and the only one it reads.
FORMAT = 1
INDEX_BYTES_MAX = 8 << 20
TEMPLATES_MAX, FILES_MAX, EXTENTS_MAX = 256, 1024, 4096
_FILE_BYTES_MAX = 1 << 43
LIKENESS = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class StoredFile(NamedTuple):
    """One file: its base name, its whole size, its runs that are not holes, ascending, and
    the SHA-256 of the bytes of those."""

    name: str
    size_bytes: int
    extents: tuple[Extent, ...]
    sha256: str

    @property
    def data_bytes(self) -> int:
        """How much of it is data, and so what it takes up."""
        return sum(extent.length_bytes for extent in self.extents)


class Stored(NamedTuple):
    """One template by its likeness."""

    likeness: str
    files: tuple[StoredFile, ...]

    @property
    def data_bytes(self) -> int:
        """What it takes up where holes are kept."""
        return sum(file.data_bytes for file in self.files)


def dump(templates: Sequence[Stored]) -> bytes:
    """The index as it is in a store."""
    found = [
        {
            "likeness": stored.likeness,
            "files": [
                {
                    "name": file.name,
                    "size_bytes": file.size_bytes,
                    "extents": [list(extent) for extent in file.extents],
                    "sha256": file.sha256,
                }
                for file in stored.files
            ],
        }
        for stored in templates
    ]
    return json.dumps({"format": FORMAT, "templates": found}).encode() + b"\n"


def parse(data: bytes) -> tuple[Stored, ...]:
    """Read an index; raises `TemplateError` for anything that is none, or of another format."""
    try:
        read = json.loads(data)
    except (ValueError, RecursionError) as error:
        _fail(f"it is no JSON: {error}")
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        _fail(f"its format is not {FORMAT}")
    templates = tuple(_stored(one) for one in _list(read, "templates", TEMPLATES_MAX))
    if len({stored.likeness for stored in templates}) != len(templates):
        _fail("a template is in it twice")
    return templates


def _stored(read: Any) -> Stored:
    files = tuple(_file(one) for one in _list(read, "files", FILES_MAX))
    if len({file.name for file in files}) != len(files):
        _fail("a file is in it twice")
    return Stored(_text(read, "likeness", LIKENESS), files)


def _file(read: Any) -> StoredFile:
    size_bytes = _number(_member(read, "size_bytes"), 0, _FILE_BYTES_MAX)
    extents, end = [], 0
    for one in _list(read, "extents", EXTENTS_MAX):
        if not isinstance(one, list) or len(one) != 2:
            _fail(f"{one!r:.80} is no extent")
        start = _number(one[0], end, size_bytes)
        end = start + _number(one[1], 1, size_bytes - start)
        extents.append(Extent(start, end - start))
    return StoredFile(_name(read), size_bytes, tuple(extents), _text(read, "sha256", _SHA256))


def _name(read: Any) -> str:
    name = _member(read, "name")
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & {"/", "\0"}:
        _fail(f"{name!r:.80} is no name of a file")
    try:
        length = len(name.encode(errors="surrogateescape"))
    except UnicodeEncodeError:
        _fail(f"{name!r:.80} is no name of a file")
    if length > 255:
        _fail(f"{name!r:.80} is too long a name")
    return name


def _member(read: Any, name: str) -> Any:
    if not isinstance(read, dict) or name not in read:
        _fail(f"'{name}' is missing")
    return read[name]


def _list(read: Any, name: str, count_max: int) -> list[Any]:
    found = _member(read, name)
    if not isinstance(found, list) or len(found) > count_max:
        _fail(f"'{name}' is no list of at most {count_max}")
    return found


def _text(read: Any, name: str, pattern: re.Pattern[str]) -> str:
    found = _member(read, name)
    if not isinstance(found, str) or not pattern.fullmatch(found):
        _fail(f"'{name}' is {found!r:.80}")
    return found


def _number(found: Any, least: int, most: int) -> int:
    if type(found) is not int or not least <= found <= most:
        _fail(f"{found!r:.80} is no whole number from {least} to {most}")
    return found


def _fail(why: str) -> NoReturn:
    raise TemplateError(
        f"the store's {INDEX}: {why}", "write it with 'vmcapsule template publish'"
    )
