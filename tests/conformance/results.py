"""The verdicts on all cases, kept in a file that the documentation is made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping, Tuple

from tests.conformance.compare import Verdict

RESULTS = Path(__file__).parent / "results.json"
#: A folder that is missing is as many differences as it has files.
_EVIDENCE_MAX = 8

#: By case and way.
Verdicts = Dict[str, Dict[str, Verdict]]


@dataclass(frozen=True)
class Results:
    """The verdicts, and the versions of HTCondor that were compared."""

    versions: Mapping[str, str]
    verdicts: Verdicts


def read(path: Path = RESULTS) -> Results:
    """Read a file of results; nothing where there is none."""
    if not path.exists():
        return Results({}, {})
    data: Dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    verdicts = {
        case: {way: _verdict(said) for way, said in ways.items()}
        for case, ways in data["cases"].items()
    }
    return Results(data["versions"], verdicts)


def _verdict(said: Dict[str, Any]) -> Verdict:
    return Verdict(
        said["verdict"], tuple(said.get("evidence", ())), tuple(said.get("wrong", ()))
    )


def merged(old: Results, new: Results, cases: Iterable[str], ways: Iterable[str]) -> Results:
    """``new`` over ``old``, without cases and ways that are no more."""
    known = set(ways)
    verdicts: Verdicts = {}
    for case in sorted(cases):
        both = {**old.verdicts.get(case, {}), **new.verdicts.get(case, {})}
        verdicts[case] = {way: said for way, said in both.items() if way in known}
    return Results({**old.versions, **new.versions}, verdicts)


def write(results: Results, path: Path = RESULTS) -> None:
    """Write the file: the same text for the same results."""
    cases = {
        case: {way: _record(said) for way, said in sorted(ways.items())}
        for case, ways in sorted(results.verdicts.items())
    }
    data = {"versions": dict(sorted(results.versions.items())), "cases": cases}
    path.write_text(json.dumps(data, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")


def _record(verdict: Verdict) -> Dict[str, object]:
    lists: Tuple[Tuple[str, Tuple[str, ...]], ...] = (
        ("evidence", verdict.evidence),
        ("wrong", verdict.wrong),
    )
    record: Dict[str, object] = {"verdict": verdict.word}
    for name, lines in lists:
        if lines:
            record[name] = list(lines[:_EVIDENCE_MAX])
    return record
