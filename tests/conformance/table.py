"""The verdicts as a table for a terminal of 80 columns, and what is wrong below it."""

from __future__ import annotations

from collections import Counter
from typing import Iterator, List, Sequence

from tests.conformance.compare import DIFFERENT, REFUSED, SAME, Verdict
from tests.conformance.results import Verdicts

COLUMNS = 80
_CELL = 9
_WRONG_MAX = 8
_WORDS = {SAME: "same", REFUSED: "refused", DIFFERENT: "differs"}


def lines(verdicts: Verdicts, ways: Sequence[str]) -> List[str]:
    """Cases by way; a '!' marks what was not expected, which is told below."""
    return [*_table(verdicts, ways), *_wrong(verdicts, ways)]


def _table(verdicts: Verdicts, ways: Sequence[str]) -> Iterator[str]:
    width = COLUMNS - _CELL * len(ways)
    yield ("case".ljust(width) + "".join(way.ljust(_CELL) for way in ways)).rstrip()
    yield "-" * COLUMNS
    for case, said in sorted(verdicts.items()):
        cells = "".join(_cell(said.get(way)) for way in ways)
        yield (case[: width - 1].ljust(width) + cells).rstrip()
    yield "-" * COLUMNS
    yield from _sums(verdicts, ways, width)


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return "-".ljust(_CELL)
    return (_WORDS[verdict.word] + ("!" if verdict.wrong else "")).ljust(_CELL)


def _sums(verdicts: Verdicts, ways: Sequence[str], width: int) -> Iterator[str]:
    counts = {
        way: Counter(said[way].word for said in verdicts.values() if way in said)
        for way in ways
    }
    for word in (SAME, REFUSED, DIFFERENT):
        cells = "".join(str(counts[way][word]).ljust(_CELL) for way in ways)
        yield (f"{len(verdicts)} cases: {word}".ljust(width) + cells).rstrip()


def _wrong(verdicts: Verdicts, ways: Sequence[str]) -> Iterator[str]:
    for case, said in sorted(verdicts.items()):
        for way in ways:
            found = said[way].wrong if way in said else ()
            for text in found[:_WRONG_MAX]:
                yield f"{case} ({way}): {text}"
            if len(found) > _WRONG_MAX:
                yield f"{case} ({way}): and {len(found) - _WRONG_MAX} more"


def is_wrong(verdicts: Verdicts) -> bool:
    """Is anything not as expected?"""
    return any(verdict.wrong for said in verdicts.values() for verdict in said.values())
