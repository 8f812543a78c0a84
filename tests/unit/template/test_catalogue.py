"""The index of a store: what is written is read, and anything else is refused in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.disk.extents import Extent
from vmcapsule.errors import TemplateError
from vmcapsule.template.catalogue import Stored, StoredFile, dump, parse

LIKE = "0123456789abcdef" * 2
DIGEST = "ab" * 32


@st.composite
def files(draw: st.DrawFn) -> StoredFile:
    raw = draw(st.binary(min_size=1, max_size=60))
    name = raw.replace(b"/", b"_").replace(b"\0", b"_").decode(errors="surrogateescape")
    points = sorted(draw(st.sets(st.integers(0, 1 << 40), max_size=8)))
    pairs = zip(points[::2], points[1::2])
    extents = tuple(Extent(start, end - start) for start, end in pairs)
    size_bytes = (points[-1] if points else 0) + draw(st.integers(0, 1 << 20))
    return StoredFile("f" + name, size_bytes, extents, DIGEST)


@st.composite
def templates(draw: st.DrawFn) -> Stored:
    like = draw(st.text("0123456789abcdef", min_size=32, max_size=32))
    found = draw(st.lists(files(), max_size=4, unique_by=lambda file: file.name))
    return Stored(like, tuple(found))


@given(st.lists(templates(), max_size=4, unique_by=lambda stored: stored.likeness))
def test_what_is_written_is_read(index: list[Stored]) -> None:
    assert parse(dump(index)) == tuple(index)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary() | JSON.map(lambda read: json.dumps(read).encode()))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(TemplateError, match=r"templates\.json"):
        parse(data)


def index_with(**changes: Any) -> bytes:
    file = {"name": "f", "size_bytes": 9, "extents": [[0, 4], [6, 3]], "sha256": DIGEST}
    like = changes.pop("likeness", LIKE)
    made = {"likeness": like, "files": [{**file, **changes}]}
    return json.dumps({"format": 1, "templates": [made]}).encode()


def test_a_plain_one_is_read() -> None:
    (stored,) = parse(index_with())
    assert (stored.likeness, stored.data_bytes) == (LIKE, 7)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../../etc/passwd"},
        {"name": ".."},
        {"name": ""},
        {"name": "a\0b"},
        {"name": "n" * 256},
        {"name": "\ud800"},
        {"name": 7},
        {"size_bytes": -1},
        {"size_bytes": 1 << 60},
        {"size_bytes": True},
        {"size_bytes": 8},
        {"extents": [[0, 10]]},
        {"extents": [[5, 2], [1, 2]]},
        {"extents": [[0, 4], [3, 2]]},
        {"extents": [[0, 0]]},
        {"extents": [[0]]},
        {"extents": [[-1, 3]]},
        {"extents": [[0, 1]] * 5000},
        {"sha256": DIGEST[:-1]},
        {"sha256": DIGEST + "\n"},
        {"likeness": "../" + LIKE[3:]},
        {"likeness": LIKE.upper()},
    ],
)
def test_what_could_not_be_true_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TemplateError):
        parse(index_with(**changes))


def test_nothing_is_in_it_twice() -> None:
    read = json.loads(index_with())
    read["templates"] *= 2
    with pytest.raises(TemplateError, match="twice"):
        parse(json.dumps(read).encode())
    read = json.loads(index_with())
    read["templates"][0]["files"] *= 2
    with pytest.raises(TemplateError, match="twice"):
        parse(json.dumps(read).encode())


def test_deeply_nested_json_is_refused() -> None:
    with pytest.raises(TemplateError):
        parse(b"[" * 100_000)
