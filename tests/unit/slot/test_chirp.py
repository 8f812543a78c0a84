"""Attributes told to a starter: by its protocol, whatever is in a text."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator

import classad2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.starter import Starter, words
from vmcapsule.errors import ToolError
from vmcapsule.slot.chirp import TEXT_CHARS_MAX, set_delayed, set_now, update_line

#: Of condor_starter.V6.1/io_proxy_handler.cpp and chirp_protocol.h.
LINE_BYTES_MAX, EXPRESSION_BYTES_MAX = 1024, 993
REQUEST = "set_job_attr_delayed"


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Callable[..., tuple[Starter, Path]]]:
    started: list[Starter] = []

    def start(answer: Callable[[str], bytes] = lambda line: b"0\n") -> tuple[Starter, Path]:
        started.append(Starter(answer))
        return started[-1], started[-1].write_contact(tmp_path)

    yield start
    for each in started:
        each.close()


def test_what_must_not_be_lost_is_told_at_once(
    starter: Callable[..., tuple[Starter, Path]],
) -> None:
    there, contact = starter()
    set_now({"ChirpN": 3, "ChirpS": 0.25, "ChirpWhy": "it died"}, contact)
    assert there.at_once == {"ChirpN": 3, "ChirpS": 0.25, "ChirpWhy": "it died"}
    assert there.attributes == {}


def test_numbers_and_texts_arrive(starter: Callable[..., tuple[Starter, Path]]) -> None:
    there, contact = starter()
    set_delayed({"ChirpN": 3, "ChirpWhy": 'it said "no" in C:\\x'}, contact)
    assert there.attributes == {"ChirpN": 3, "ChirpWhy": "it said 'no' in C:/x"}


@given(st.text())
def test_any_text_is_one_line_of_a_length_that_a_starter_takes(text: str) -> None:
    line = update_line(REQUEST, "ChirpVmCapsuleReason", text)
    assert len(line.encode("ascii")) < LINE_BYTES_MAX and "\n" not in line
    command, name, literal = words(line)
    assert (command, name) == ("set_job_attr_delayed", "ChirpVmCapsuleReason")
    assert len(literal) <= EXPRESSION_BYTES_MAX
    value = classad2.ExprTree(literal).eval()
    assert len(value) == min(len(text), TEXT_CHARS_MAX)


def test_the_longest_line_is_still_taken() -> None:
    assert len(update_line(REQUEST, "ChirpVmCapsuleReason", " " * 2000)) < LINE_BYTES_MAX


@pytest.mark.parametrize("answer", [b"1\n", b"-3\n", b"", b"0" * 500, b"no\n"])
def test_what_is_not_taken_is_an_error(
    starter: Callable[..., tuple[Starter, Path]], answer: bytes
) -> None:
    def answers(line: str) -> bytes:
        return b"0\n" if line.startswith("cookie") else answer

    _, contact = starter(answers)
    with pytest.raises(ToolError, match="starter"):
        set_delayed({"ChirpN": 3}, contact)


@pytest.mark.parametrize(
    "contact", ["", "127.0.0.1", "127.0.0.1 x y", "127.0.0.1 1 \0", "a b c", "127.0.0.1 1 c"]
)
def test_a_contact_that_leads_nowhere_is_an_error(tmp_path: Path, contact: str) -> None:
    (tmp_path / ".chirp.config").write_text(contact)
    with pytest.raises(ToolError):
        set_delayed({"ChirpN": 3}, tmp_path / ".chirp.config")


def test_no_chirp_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no chirp here"):
        set_delayed({"ChirpN": 3}, tmp_path / ".chirp.config")
