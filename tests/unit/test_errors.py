"""Whoever wrote a text and however long it is, it becomes one printable line."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.classad.ads import parse_ad, quote
from vmcapsule.errors import LINE_CHARS_MAX, escaped, one_line

#: Bytes as Python decodes them, and characters of every kind.
hostile = st.binary(max_size=300).map(lambda data: data.decode(errors="surrogateescape")) | (
    st.text(st.characters(exclude_categories=[]), max_size=300)
)


@given(hostile, st.integers(10, 400))
def test_any_text_becomes_a_printable_line_of_bounded_length(text: str, most: int) -> None:
    line = one_line(text, most)
    assert line.isprintable() and len(line) <= most
    assert "  " not in line and line == line.strip()
    line.encode("utf-8", "strict")
    assert parse_ad(f"Reason = {quote(line)}\n").string("Reason") == line


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=300))
def test_what_is_a_line_already_stays_as_it_is(text: str) -> None:
    assert one_line(text) == " ".join(text.split())
    assert escaped(text) == text


def test_of_a_long_text_beginning_and_end_stay() -> None:
    line = one_line("a" * 5000 + " x " + "z" * 5000)
    assert len(line) == LINE_CHARS_MAX
    assert line.startswith("a" * 300) and line.endswith("z" * 600) and " ... " in line


@pytest.mark.parametrize("text", ["a", " ", "\n", "a ", "\udcff", "\x1b[31m"])
def test_a_text_of_many_mebibytes_costs_next_to_nothing(text: str) -> None:
    long = text * (8 << 20)
    tracemalloc.start()
    assert len(one_line(long)) <= LINE_CHARS_MAX
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20
