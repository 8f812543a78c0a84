"""docs/compatibility.md: what works in a capsule, what is refused, what differs and why.

The page is also what is kept of a run: `read` finds in it what `text` wrote.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Sequence, Tuple

from tests.conformance.cases import Case
from tests.conformance.compare import DIFFERENT, REFUSED, SAME, Verdict
from tests.conformance.results import Results, Verdicts
from tests.conformance.ways import COMPARED, NATIVE, WAYS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"

_HEAD = """\
# What a job can do in a capsule

Each case below is a submit file, run {times} times: by HTCondor itself, and in capsules.
Compared are the job's folder afterwards (names, contents, modes, links), its exit code
or signal, holds, the number of its runs, what its log tells, and whether the ad says what
it used. `./dev conformance` runs them and writes this page; nobody edits it by hand.
The cases are in `tests/conformance/cases`. {versions}.

"""

_EVERYWHERE = """
## What every job finds otherwise

A job that looks for it can tell that it is in a machine of its own:

- The machine is called `capsule` and has the template's kernel and programs, not the
  execute machine's: what a job takes from there must be among its inputs or in the
  template. It has as many CPUs and as much memory as the job asked for.
- There is no network unless the pool's administrator gives it one
  (`VM_CAPSULE_NETWORK`), and then only outwards.
- The login has the owner's name, an empty home and no further groups.
- Input files have the time stamps that they have on the access point; HTCondor's
  transfer gives them the time of their arrival.
- While it runs `condor_q` shows what its machine uses. When it has ended, its ad has its own
  figures, but behind a job wrapper.
- Where it was packed on the access point, or by `vmcapsule run`: chirp, `condor_ssh_to_job` and
  `condor_tail` do not reach it.
"""


_TABLE, _REFUSED = "\n## Cases\n\n", "\n## What is refused\n\n"
_DIFFERENT = "\n## What differs, and why\n\n"
_NOT_RUN, _COMMA = "not run", ", "
#: After the verdict on what the case does not list.
_UNEXPECTED = ", unexpected"

#: A reason, the ways in which it was seen, and the case.
_Seen = Tuple[str, Tuple[str, ...], str]


def text(cases: Sequence[Case], results: Results) -> str:
    """The whole page; the same for the same results.

    A way of which nothing is known is not on it.
    """
    ways = tuple(
        way for way in COMPARED if any(way in one for one in results.verdicts.values())
    )
    parts = [_head(results, ways), _table(cases, results, ways)]
    parts += [_refused(cases, results, ways), _different(cases, results, ways)]
    return "".join([*parts, _EVERYWHERE])


def ways_of(results: Results) -> Tuple[str, ...]:
    """The ways of which something is known, in their order."""
    return tuple(
        way for way in COMPARED if any(way in one for one in results.verdicts.values())
    )


def _head(results: Results, ways: Sequence[str]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    head = _HEAD.format(times=len(ways) + 1, versions=versions)
    rows = "".join(f"| {way} | {WAYS[way].about} |\n" for way in (NATIVE, *ways))
    return f"{head}| way | what it is |\n|---|---|\n{rows}"


def _table(cases: Sequence[Case], results: Results, ways: Sequence[str]) -> str:
    head = f"{_TABLE}| case | what it is | " + " | ".join(ways) + " |\n"
    head += "|---" * (len(ways) + 2) + "|\n"
    rows = [
        f"| {case.name} | {_cell(case.about)} | "
        + " | ".join(_said(results, case.name, way) for way in ways)
        + " |\n"
        for case in cases
    ]
    sums = [
        f"| | {word}: of {len(cases)} cases | "
        + " | ".join(
            str(sum(_word(results, case.name, way) == word for case in cases)) for way in ways
        )
        + " |\n"
        for word in (SAME, REFUSED, DIFFERENT)
    ]
    return head + "".join([*rows, *sums])


def _word(results: Results, case: str, way: str) -> str:
    verdict = results.verdicts.get(case, {}).get(way)
    return verdict.word if verdict else _NOT_RUN


def _said(results: Results, case: str, way: str) -> str:
    verdict = results.verdicts.get(case, {}).get(way)
    return _word(results, case, way) + (_UNEXPECTED if verdict and verdict.wrong else "")


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


def _refused(cases: Sequence[Case], results: Results, ways: Sequence[str]) -> str:
    head = (
        "The job is held with the reason, which names the attribute and says what to do.\n"
        "`vmcapsule run` prints it and exits with 65.\n\n"
    )
    return _REFUSED + head + _listed(sorted(_refusals(cases, results)), ways)


def _refusals(cases: Sequence[Case], results: Results) -> Iterator[_Seen]:
    for case in cases:
        found: Dict[str, Dict[str, None]] = {}
        for way in COMPARED:
            verdict = results.verdicts.get(case.name, {}).get(way)
            for reason in verdict.evidence if verdict and verdict.word == REFUSED else ():
                found.setdefault(_marked(reason).rstrip("."), {})[way] = None
        for reason, ways in found.items():
            yield reason, tuple(ways), case.name


def _marked(reason: str) -> str:
    """With what is quoted of the job's ad as code."""
    quoted, colon, why = reason.partition(": ")
    is_quote = colon and " = " in quoted and not reason.startswith("`")
    return f"`{quoted}`: {why}" if is_quote else reason


def _different(cases: Sequence[Case], results: Results, ways: Sequence[str]) -> str:
    return _DIFFERENT + _listed(_reasons(cases, results), ways)


def _reasons(cases: Sequence[Case], results: Results) -> Iterator[_Seen]:
    """What the cases list, where it was seen."""
    for case in cases:
        for expected in (one for one in case.expected if one.kind == DIFFERENT):
            ways = tuple(
                way for way in expected.ways if _word(results, case.name, way) == DIFFERENT
            )
            if ways:
                yield expected.reason.rstrip("."), ways, case.name


def _listed(seen: Iterable[_Seen], every: Sequence[str]) -> str:
    """Each reason once, with what it is seen in, and with the ways where not in all."""
    found: Dict[Tuple[str, Tuple[str, ...]], List[str]] = {}
    for reason, ways, case in seen:
        found.setdefault((reason, ways), []).append(case)
    rows = [
        f"- {reason}. Seen{_with(ways, every)} in: {_COMMA.join(cases)}.\n"
        for (reason, ways), cases in found.items()
    ]
    return "".join(rows) or "Nothing.\n"


def _with(ways: Sequence[str], every: Sequence[str]) -> str:
    return "" if len(ways) == len(every) else f" with {_COMMA.join(ways)}"


# What was written


def read(page: str) -> Results:
    """What a page was made from, but for the differences themselves: it has their reasons."""
    match = re.search(r"`tests/conformance/cases`\. (.*)\.$", page, re.MULTILINE)
    versions = [one.rpartition(" ") for one in match[1].split(_COMMA)] if match else []
    rows = _section(page, _TABLE)
    # Of a page that was written before there were as many.
    every = _read_ways(rows)
    verdicts = _read_table(rows, every)
    for reason, ways, case in _read_list(_section(page, _REFUSED), every):
        for way in ways:
            old = verdicts[case][way]
            verdicts[case][way] = replace(old, evidence=(*old.evidence, reason))
    return Results({name: number for name, _, number in versions if name}, verdicts)


def _section(page: str, heading: str) -> List[str]:
    return page.partition(heading)[2].partition("\n## ")[0].splitlines()


def _read_ways(lines: Sequence[str]) -> Tuple[str, ...]:
    return tuple(lines[0].strip("| ").split(" | ")[2:]) if lines else ()


def _read_table(lines: Sequence[str], ways: Sequence[str]) -> Verdicts:
    verdicts: Verdicts = {}
    for line in (line for line in lines[2:] if not line.startswith("| | ")):
        about, *said = line.strip("| ").rsplit(" | ", len(ways))
        name = about.partition(" | ")[0]
        verdicts[name] = {
            way: _read_verdict(words) for way, words in zip(ways, said) if words != _NOT_RUN
        }
    return verdicts


def _read_verdict(words: str) -> Verdict:
    word, unexpected, _ = words.partition(_UNEXPECTED)
    return Verdict(word, wrong=(f"{word}, which was unexpected",) if unexpected else ())


def _read_list(lines: Iterable[str], every: Tuple[str, ...]) -> Iterator[_Seen]:
    for line in lines:
        seen = re.fullmatch(r"- (.*)\. Seen(?: with (.*?))? in: (.*)\.", line)
        for case in seen[3].split(_COMMA) if seen else ():
            yield seen[1], tuple(seen[2].split(_COMMA)) if seen[2] else every, case
