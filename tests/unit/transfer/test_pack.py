"""The index and packs: what is planned, written and read back is the same sandbox."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule import contract
from vmcapsule.disk.extents import Extent
from vmcapsule.errors import DiskError, InputError, TooLarge, VmCapsuleError
from vmcapsule.transfer import index, pack
from vmcapsule.transfer.entries import FILE, FOLDER, LINK, Entries, Entry, Stretch
from vmcapsule.transfer.index import dump_index, parse_index
from vmcapsule.transfer.pack import Member, Pieces, Sources, plan_packs

# Any name that Linux can hold: bytes without '/' and NUL, as os.fsdecode shows them.
names = (
    st.binary(min_size=1, max_size=40)
    .map(lambda raw: os.fsdecode(raw.replace(b"/", b"_").replace(b"\0", b"_")))
    .filter(lambda name: name not in (".", ".."))
)


def member(path: str, size: int, kind: str = FILE) -> Member:
    return Member(f"/src/{path}", path, kind, 0o644, 0, size)


@given(st.dictionaries(names, st.integers(0, 5_000_000), max_size=20))
def test_a_plan_covers_every_byte_once(sizes: dict[str, int]) -> None:
    plan = plan_packs([member(path, size) for path, size in sizes.items()])
    used: dict[int, list[tuple[int, int]]] = {}
    for entry in plan.entries:
        assert sum(s.length for s in entry.stretches) == sizes[entry.path]
        for s in entry.stretches:
            used.setdefault(s.pack, []).append((s.pack_offset, s.pack_offset + s.length))
    for number, runs in used.items():
        runs.sort()
        assert runs[-1][1] <= plan.pack_sizes_bytes[number]
        assert all(a[1] <= b[0] for a, b in zip(runs, runs[1:]))


@given(st.dictionaries(names, st.integers(0, 3_000_000), max_size=20))
def test_an_index_reads_back_as_it_was_planned(sizes: dict[str, int]) -> None:
    plan = plan_packs([member(path, size) for path, size in sizes.items()])
    read = parse_index(bytes(dump_index(plan.entries)), plan.pack_sizes_bytes)
    assert list(read) == list(plan.entries)


def test_a_file_in_the_place_of_a_folder_is_refused() -> None:
    """The guest could not unpack that."""
    with pytest.raises(InputError, match="name of a folder"):
        plan_packs([member("d", 0, FOLDER), member("d/x", 1), member("d", 1)])


def test_large_files_start_on_a_block_and_small_ones_are_packed_tightly() -> None:
    big = pack.ALIGN_FROM_BYTES
    plan = plan_packs([member("a", 3), member("b", 5), member("c", big)])
    starts = [entry.stretches[0].pack_offset for entry in plan.entries]
    assert starts == [0, 3, pack.BLOCK_BYTES]


def test_a_file_larger_than_a_pack_goes_on_in_the_next() -> None:
    size = contract.PACK_BYTES_MAX + 10
    plan = plan_packs([member("a", size)])
    assert plan.pack_sizes_bytes == (contract.PACK_BYTES_MAX, 10)
    assert plan.entries[0].stretches == (
        Stretch(0, contract.PACK_BYTES_MAX, 0, 0),
        Stretch(contract.PACK_BYTES_MAX, 10, 1, 0),
    )


def test_holes_take_no_room(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.seek(5 << 30)
        file.write(b"end")
    status = sparse.stat()
    plan = plan_packs(
        [
            Member(str(sparse), "s", FILE, 0o600, 0, status.st_size, has_holes=True),
        ]
    )
    assert sum(plan.pack_sizes_bytes) < 1 << 20
    assert plan.entries[0].size_bytes == (5 << 30) + 3


def test_a_later_file_of_the_same_name_replaces_an_earlier_one() -> None:
    plan = plan_packs([member("a", 1), member("a", 2)])
    assert [entry.size_bytes for entry in plan.entries] == [2]


def test_a_missing_sparse_file_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(InputError, match="gone.*No such file"):
        plan_packs([Member(str(gone), "g", FILE, 0o644, 0, 10, has_holes=True)])


GOOD = {
    "path": "a",
    "type": "file",
    "mode": 420,
    "mtime_ns": 0,
    "size": 4,
    "extents": [[0, 4, 0, 0]],
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"path": "../a"}, "path is"),
        ({"path": "/a"}, "path is"),
        ({"path": "a//b"}, "path is"),
        ({"path": "a\0b"}, "path is"),
        ({"path": ""}, "path is"),
        ({"path": "x" * 256}, "too long"),
        ({"path": "\ud800"}, "surrogates not allowed"),
        ({"path": "no/parent"}, "not in a folder"),
        ({"type": "device"}, "type is"),
        ({"mode": 0o10000}, "mode is"),
        ({"mode": -1}, "mode is"),
        ({"mode": True}, "mode is"),
        ({"size": 1 << 63}, "size is"),
        ({"size": 3}, "behind the file's end"),
        ({"extents": [[0, 4, 1, 0]]}, "no pack 1"),
        ({"extents": [[0, 4, 0, 7]]}, "leaves its pack"),
        ({"extents": [[0, 2, 0, 0], [1, 2, 0, 2]]}, "overlap"),
        ({"extents": [[0, 0, 0, 0]]}, "overlap"),
        ({"extents": [[0, 4, 0]]}, "not enough values"),
        ({"extents": {}}, "not a list"),
    ],
)
def test_a_hostile_line_is_refused(change: dict[str, object], reason: str) -> None:
    good = json.dumps(GOOD).encode()
    assert len(parse_index(good, [10])) == 1
    with pytest.raises(DiskError, match=reason):
        parse_index(json.dumps({**GOOD, **change}).encode(), [10])


def test_data_cannot_be_claimed_over_and_over() -> None:
    lines = b"\n".join(json.dumps({**GOOD, "path": f"f{n}"}).encode() for n in range(4))
    with pytest.raises(DiskError, match="more data than the packs hold"):
        parse_index(lines, [10])


def test_a_path_through_a_link_is_refused() -> None:
    link = {"path": "l", "type": "link", "mode": 0o777, "target": "/etc"}
    inside = {**GOOD, "path": "l/passwd"}
    data = json.dumps(link).encode() + b"\n" + json.dumps(inside).encode()
    with pytest.raises(DiskError, match="not in a folder"):
        parse_index(data, [10])


def test_a_path_that_comes_twice_is_refused() -> None:
    line = json.dumps(GOOD).encode()
    with pytest.raises(DiskError, match="comes twice"):
        parse_index(line + b"\n" + line, [10])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD) + ["target"]), json_values))
def test_no_line_of_json_does_anything_but_parse_or_be_refused(
    change: dict[str, object],
) -> None:
    with contextlib.suppress(VmCapsuleError):
        parse_index(json.dumps({**GOOD, **change}).encode(), [10])


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_parse_or_be_refused(data: bytes) -> None:
    with contextlib.suppress(VmCapsuleError):
        parse_index(data, [10])


def test_links_and_folders_keep_their_place() -> None:
    entries = (
        Entry("d", FOLDER, 0o750, 5),
        Entry("d/l", LINK, 0o777, 6, target="../x"),
    )
    assert tuple(parse_index(bytes(dump_index(entries)), [])) == entries


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 60), st.integers(0, 60))
def test_a_part_of_pieces_is_the_part_of_their_bytes(
    lengths: list[int], offset: int, length: int
) -> None:
    extents = [Extent(100 * number, size) for number, size in enumerate(lengths)]
    places = [100 * number + at for number, size in enumerate(lengths) for at in range(size)]
    found = Pieces(extents).part(offset, length)
    taken = [e.offset_bytes + at for e in found for at in range(e.length_bytes)]
    assert taken == places[offset : offset + length]


def test_a_part_far_back_is_found_without_a_walk() -> None:
    """A hostile volume has a pack in a million pieces and a million files in it."""
    pieces = Pieces(Extent(2 * number, 1) for number in range(100_000))
    for _ in range(100_000):
        assert [e.offset_bytes for e in pieces.part(99_999, 1)] == [199_998]


def test_an_index_is_lines_of_json() -> None:
    """The guest reads them with Python's own module."""
    name = 'a"\n\udcff\u00e9'
    entries = (
        Entry(name, FILE, 0o640, -5, 9, (Stretch(1, 2, 0, 4), Stretch(5, 3, 1, 0))),
        Entry("l", LINK, 0o777, 6, target=name),
    )
    assert [json.loads(line) for line in bytes(dump_index(entries)).splitlines()] == [
        {
            "path": name,
            "type": "file",
            "mode": 0o640,
            "mtime_ns": -5,
            "size": 9,
            "extents": [[1, 2, 0, 4], [5, 3, 1, 0]],
        },
        {"path": "l", "type": "link", "mode": 0o777, "mtime_ns": 6, "target": name},
    ]


def test_more_than_an_index_carries_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "INDEX_BYTES_MAX", 8192)
    line = len(dump_index((Entry("a", FOLDER, 0o755),)))
    fits = 8192 // line
    assert len(dump_index([Entry("a", FOLDER, 0o755)] * fits)) == fits * line
    said = rf"{fits + 2} input files, .* takes {(fits + 2) * line} of at most 8192 bytes"
    with pytest.raises(TooLarge, match=said):
        dump_index([Entry("a", FOLDER, 0o755)] * (fits + 2))


stretches = st.builds(Stretch, *[st.integers(0, 1 << 62)] * 4)
any_entry = st.builds(
    Entry,
    names,
    st.sampled_from((FILE, FOLDER, LINK)),
    st.integers(0, 0o7777),
    st.integers(-(1 << 62), 1 << 62),
    st.integers(0, 1 << 62),
    st.lists(stretches, max_size=3).map(tuple),
    names | st.just(""),
)


@given(st.lists(any_entry, max_size=8))
def test_entries_are_what_was_put_in(entries: list[Entry]) -> None:
    kept = Entries(entries)
    assert (list(kept), len(kept)) == (entries, len(entries))
    assert list(kept.paths) == [entry.path for entry in entries]


@given(st.lists(st.tuples(names, names, st.booleans()), max_size=8), st.data())
def test_sources_are_told_apart(
    pairs: list[tuple[str, str, bool]], data: st.DataObject
) -> None:
    """Also those that do not end like the path, and one that took another's place."""
    sources = Sources()
    wanted = []
    for folder, path, same in pairs:
        wanted.append((f"/{folder}/{path}" if same else f"/{folder}", path))
        sources.append(*wanted[-1])
    if wanted:
        number = data.draw(st.integers(0, len(wanted) - 1))
        wanted[number] = ("/elsewhere/" + wanted[number][1], wanted[number][1])
        sources.replace(number, *wanted[number])
    found = [(sources.of(n, path), path) for n, (_, path) in enumerate(wanted)]
    assert found == wanted


def test_of_two_members_of_one_path_the_later_is_packed_in_the_earlier_ones_place() -> None:
    """A folder stays before what is in it."""
    plan = plan_packs(
        [
            Member("/a/d", "d", FOLDER, 0o700),
            Member("/a/d/x", "d/x", FILE, 0o600, 1, 5, has_holes=True),
            Member("/b/d", "d", FOLDER, 0o755),
            Member("/b/d/x", "d/x", FILE, 0o644, 2, 7),
        ]
    )
    assert list(plan.entries) == [
        Entry("d", FOLDER, 0o755),
        Entry("d/x", FILE, 0o644, 2, 7, (Stretch(0, 7, 0, 0),)),
    ]
    assert [plan.sources.of(n, e.path) for n, e in enumerate(plan.entries)] == [
        "/b/d",
        "/b/d/x",
    ]
