"""The verdicts on all cases; `tests.conformance.document` keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterable, Mapping

from tests.conformance.compare import Verdict

#: By case and way.
Verdicts = Dict[str, Dict[str, Verdict]]


@dataclass(frozen=True)
class Results:
    """The verdicts, and the versions of HTCondor that were compared."""

    versions: Mapping[str, str]
    verdicts: Verdicts


def merged(old: Results, new: Results, cases: Iterable[str], ways: Iterable[str]) -> Results:
    """``new`` over ``old``, without cases and ways that are no more."""
    known = set(ways)
    verdicts: Verdicts = {}
    for case in sorted(cases):
        both = {**old.verdicts.get(case, {}), **new.verdicts.get(case, {})}
        verdicts[case] = {way: said for way, said in both.items() if way in known}
    return Results({**old.versions, **new.versions}, verdicts)
