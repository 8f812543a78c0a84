"""What the tests' ends mean: rows of a table, and whether any of them is wrong."""

from __future__ import annotations

import configparser
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Sequence

from vmcapsule.errors import UsageError, one_line

COLUMNS = 80
EXPECTED = Path(__file__).parent / "expected.ini"
_SECTION = "fails when routed"
_CELLS = 9, 9, 14
_NAME = COLUMNS - sum(_CELLS)
#: How perl ends what a dying script says, and how the tests call a check that failed.
_DIED = re.compile(r" at \S+ line \d+\b.*\.$")
_FAILED = re.compile(r"FAILED|[Tt]imeout|not expected|NOT expected")
#: Perl's warnings end as its deaths do; the last words say less than what is above them.
_NOISE = re.compile(r"^Use of uninitialized|Final status for|RunTest\(\) failed|check\(s\)")


@dataclass(frozen=True)
class End:
    """How a test ended, of a failure why; of its ``jobs`` so many were in capsules."""

    passed: bool
    why: str = ""
    jobs: int = 0
    carried: int = 0


@dataclass(frozen=True)
class Row:
    """A test's ends: None where it was not run; and why nothing can be said of it."""

    name: str
    native: Optional[End] = None
    routed: Optional[End] = None
    unfit: str = ""

    @property
    def judges(self) -> bool:
        """Does the test say anything of the route?  One that fails natively does not."""
        return self.native is not None and self.native.passed and self.routed is not None


def reason(output: str) -> str:
    """Of all that a failed test printed the one line that says most of why."""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    lines = [line for line in lines if line and not _NOISE.search(line)]
    for telling in (_DIED, _FAILED):
        found = [line for line in lines if telling.search(line)]
        if found:
            return one_line(found[-1])
    return one_line(lines[-1]) if lines else "it printed nothing"


def read_expected(path: Path = EXPECTED) -> Dict[str, str]:
    """The tests that pass natively and fail when routed, each with the reason.

    Raises `UsageError` for another section, and for a test without a reason.
    """
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text(encoding="utf-8"))
    if parser.sections() != [_SECTION]:
        raise UsageError(f"{path} has other sections than [{_SECTION}]", "correct it")
    reasons = {name: " ".join(text.split()) for name, text in parser[_SECTION].items()}
    for name, text in reasons.items():
        if not text:
            raise UsageError(f"{path} gives no reason for '{name}'", "add it")
    return reasons


def wrong(rows: Sequence[Row], expected: Mapping[str, str]) -> List[str]:
    """The tests that judge the route, fail, and are not listed."""
    return [row.name for row in rows if _fails(row) and row.name not in expected]


def _fails(row: Row) -> bool:
    return row.judges and row.routed is not None and not row.routed.passed


def lines(rows: Sequence[Row], expected: Mapping[str, str]) -> List[str]:
    """The table; a '!' marks what is wrong, and a reason stands below its test."""
    heads = ("native", "routed", "in capsules")
    head = "test".ljust(_NAME) + "".join(h.ljust(w) for h, w in zip(heads, _CELLS))
    body = [line for row in rows for line in _row(row, expected)]
    rule = "-" * COLUMNS
    return [head.rstrip(), rule, *body, rule, *_sums(rows, expected)]


def _row(row: Row, expected: Mapping[str, str]) -> Iterator[str]:
    mark = " !" if row.name in wrong([row], expected) else ""
    cells = _word(row.native), _word(row.routed) + mark, _carried(row.routed)
    texts = "".join(cell.ljust(width) for cell, width in zip(cells, _CELLS))
    name = row.name if len(row.name) < _NAME else f"{row.name[: _NAME - 4]}..."
    yield (name.ljust(_NAME) + texts).rstrip()
    failed = next((end for end in (row.routed, row.native) if end and not end.passed), None)
    if row.unfit or failed:
        yield _cut(f"  {row.unfit or (failed.why if failed else '')}")
    if _fails(row) and row.name in expected:
        yield _cut(f"  listed: {expected[row.name]}")


def _word(end: Optional[End]) -> str:
    if end is None:
        return "-"
    return "passes" if end.passed else "fails"


def _carried(end: Optional[End]) -> str:
    return "-" if end is None else f"{end.carried} of {end.jobs}"


def _cut(text: str) -> str:
    return text if len(text) <= COLUMNS else f"{text[: COLUMNS - 3]}..."


def _sums(rows: Sequence[Row], expected: Mapping[str, str]) -> Iterator[str]:
    native = [row for row in rows if row.native is not None]
    judges = [row for row in rows if row.judges]
    fails = [row for row in judges if _fails(row)]
    bad = wrong(rows, expected)
    yield f"{len(rows)} tests; {len(native)} can be run; {len(judges)} pass natively"
    yield f"of these {len(judges) - len(fails)} pass when routed, {len(fails)} do not"
    if bad:
        yield f"{len(bad)} of which expected.ini does not list"
    for row in judges:
        if row.name in expected and not _fails(row):
            yield _cut(f"listed as failing, and passes: {row.name}")
