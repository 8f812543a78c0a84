"""No line of an index is longer than one is written, nor costs more memory than it should."""

from __future__ import annotations

import tracemalloc
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.contract import (
    EXTENTS_PER_LINE,
    FILE_BYTES_MAX,
    INDEX_LINE_BYTES_MAX,
    MTIME_NS_MAX,
    PACK_BYTES_MAX,
    PACKS_MAX,
)
from vmcapsule.errors import DiskError, TooLarge
from vmcapsule.transfer.entries import FILE, FOLDER, LINK, Entry, Stretch
from vmcapsule.transfer.index import NAME_BYTES_MAX, PATH_BYTES_MAX, dump_index, parse_index
from vmcapsule.transfer.pack import Member, plan_packs

MIB = 1 << 20
HEAD = b'{"path":"f","type":"file","mode":0,"mtime_ns":0,"size":%d,"extents":' % FILE_BYTES_MAX
#: The longest path there is, of bytes that take the most room in JSON.
LONGEST = "/".join(["\udcff" * NAME_BYTES_MAX] * (PATH_BYTES_MAX // (NAME_BYTES_MAX + 1)))


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def pieces(count: int) -> tuple[Stretch, ...]:
    """``count`` pieces of data, each followed by as long a hole."""
    return tuple(Stretch(2 * at, 1, 0, at) for at in range(count))


@pytest.mark.parametrize(
    ("begin", "repeated", "end"),
    [
        (HEAD + b"[", b"[0,1,0,0],", b"]}"),
        (HEAD + b"[", b"[],", b"0]}"),
        (HEAD, b"[", b""),
        (HEAD + b"[],", b'"a":{},', b'"b":0}'),
        (b'{"extents":[', b"{},", b"0]}"),
        (b'{"path":"', b"a", b'"}'),
        (b"", b" ", b""),
    ],
)
def test_a_line_of_mebibytes_is_not_read(begin: bytes, repeated: bytes, end: bytes) -> None:
    first = b'{"path":"d","type":"dir","mode":0}\n'
    data = first + begin + repeated * (8 * MIB // len(repeated)) + end + b"\n"

    def read() -> None:
        with pytest.raises(DiskError, match="line 2 of the index is not valid: .* too long"):
            parse_index(data, [10])

    assert peak_bytes(read) < MIB


@pytest.mark.parametrize("count", [EXTENTS_PER_LINE, EXTENTS_PER_LINE + 1, 5000])
def test_a_file_of_many_pieces_goes_on_in_further_lines(count: int) -> None:
    entries = (
        Entry("a", FILE, 0o640, 5, 1 << 20, pieces(count)),
        Entry("b", FILE, 0o600, 6, 3, (Stretch(0, 3, 0, count),)),
    )
    data = bytes(dump_index(entries))
    assert len(data.splitlines()) == -(-count // EXTENTS_PER_LINE) + 1
    assert tuple(parse_index(data, [count + 3])) == entries


def test_the_longest_line_that_can_be_written_can_be_read() -> None:
    most = Stretch(FILE_BYTES_MAX, PACK_BYTES_MAX, PACKS_MAX - 1, PACK_BYTES_MAX)
    many = (most,) * (2 * EXTENTS_PER_LINE)
    entries = (
        Entry(LONGEST, FILE, 0o7777, -MTIME_NS_MAX, FILE_BYTES_MAX, many),
        Entry(LONGEST, LINK, 0o7777, -MTIME_NS_MAX, target=LONGEST),
    )
    lengths = [len(line) for line in bytes(dump_index(entries)).splitlines(keepends=True)]
    assert max(lengths) <= INDEX_LINE_BYTES_MAX
    folders = [LONGEST[: at * (NAME_BYTES_MAX + 1) - 1] for at in range(1, 16)]
    read = parse_index(
        bytes(dump_index([*(Entry(p, FOLDER, 0) for p in folders), entries[1]])), []
    )
    assert read[len(folders)] == entries[1]


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 3))
def test_pieces_survive_however_they_are_spread_over_lines(
    lengths: list[int], files: int
) -> None:
    stretches, at = [], 0
    for length in lengths * 40:
        stretches.append(Stretch(3 * at, length, 0, at))
        at += length
    entries = [Entry(f"f{n}", FILE, 0o644, 0, 3 * at, tuple(stretches)) for n in range(files)]
    data = bytes(dump_index(entries))
    assert all(len(line) < INDEX_LINE_BYTES_MAX for line in data.splitlines())
    assert list(parse_index(data, [files * at])) == entries


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ((b'{"extents":[[0,1,0,0]]}',), "goes on with no file"),
        (
            (b'{"path":"d","type":"dir","mode":0}', b'{"extents":[]}'),
            "goes on with no file",
        ),
        ((HEAD + b"[[2,1,0,0]]}", b'{"extents":[[1,1,0,1]]}'), "overlap"),
        ((HEAD + b"[[2,1,0,0]]}", b'{"extents":[[2,1,0,1]]}'), "overlap"),
        ((HEAD + b"[]}", b'{"extents":[[%d,9,0,0]]}' % (FILE_BYTES_MAX - 8)), "file's end"),
        ((HEAD + b"[]}", b'{"extents":[[0,11,0,0]]}'), "leaves its pack"),
        ((HEAD + b"[[0,9,0,0]]}", b'{"extents":[[9,9,0,0]]}'), "more data than the packs"),
        ((HEAD + b"[]}", b'{"extents":7}'), "not a list"),
        ((HEAD + b"[]}", b"{}"), "type"),
        ((HEAD + b"[]}", b'{"extents":[],"mode":0}'), "type"),
    ],
)
def test_a_file_goes_on_by_the_same_rules(lines: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(DiskError, match=f"line {len(lines)} of the index .*{reason}"):
        parse_index(b"\n".join(lines), [10])


def test_a_file_in_a_million_pieces_takes_the_room_of_their_numbers() -> None:
    """To be read and gone through; as objects they would take ten times as much."""
    count = 100_000
    data = bytes(dump_index([Entry("f", FILE, 0, 0, 2 * count, pieces(count))]))

    def read() -> None:
        (entry,) = parse_index(data, [count])
        assert sum(stretch.length for stretch in entry.stretches) == count

    assert peak_bytes(read) < 2 * 32 * count


def test_planning_such_a_file_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 100_000
    monkeypatch.setattr(
        "vmcapsule.transfer.pack._data_of",
        lambda source, size: ((2 * at, 1) for at in range(count)),
    )
    member = Member("/s/f", "f", FILE, 0o644, 0, 2 * count, has_holes=True)
    assert peak_bytes(lambda: plan_packs([member])) < 2 * 32 * count
    assert len(plan_packs([member]).entries[0].stretches) == count


@pytest.mark.parametrize("size", [FILE_BYTES_MAX + 1, 1 << 62, 1 << 63, 1 << 64, 10**400])
def test_no_file_is_larger_than_a_file_system_holds(size: int) -> None:
    line = HEAD.replace(b"%d" % FILE_BYTES_MAX, b"%d" % size) + b"[]}"
    with pytest.raises(DiskError, match="line 1 of the index is not valid: size is"):
        parse_index(line, [])


def test_nor_is_such_a_one_sent() -> None:
    member = Member("/s/huge", "huge", FILE, 0o644, 0, FILE_BYTES_MAX + 1)
    with pytest.raises(
        TooLarge, match=r"'/s/huge' has 17592186040321 bytes, .* 17592186040320"
    ):
        plan_packs([member])
