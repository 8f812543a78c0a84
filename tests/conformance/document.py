"""docs/compatibility.md: what works in a capsule, what is refused, what differs and why."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

from tests.conformance.cases import Case
from tests.conformance.compare import DIFFERENT, REFUSED, SAME
from tests.conformance.results import Results
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
- Chirp, `condor_ssh_to_job` and `condor_tail` do not reach the job, and while it runs
  `condor_q` shows what QEMU uses. When it has ended, its ad has its own figures.
- An evicted job begins anew, as every vanilla job does.
"""


def text(cases: Sequence[Case], results: Results) -> str:
    """The whole page; the same for the same results."""
    parts = [_head(results), _table(cases, results), _refused(cases, results)]
    return "".join([*parts, _different(cases, results), _EVERYWHERE])


def _head(results: Results) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    head = _HEAD.format(times=len(COMPARED) + 1, versions=versions)
    rows = "".join(f"| {way} | {WAYS[way].about} |\n" for way in (NATIVE, *COMPARED))
    return f"{head}| way | what it is |\n|---|---|\n{rows}"


def _table(cases: Sequence[Case], results: Results) -> str:
    head = "\n## Cases\n\n| case | what it is | " + " | ".join(COMPARED) + " |\n"
    head += "|---" * (len(COMPARED) + 2) + "|\n"
    rows = [
        f"| {case.name} | {_cell(case.about)} | "
        + " | ".join(_word(results, case.name, way) for way in COMPARED)
        + " |\n"
        for case in cases
    ]
    sums = [
        f"| | {word}: of {len(cases)} cases | "
        + " | ".join(
            str(sum(_word(results, case.name, way) == word for case in cases))
            for way in COMPARED
        )
        + " |\n"
        for word in (SAME, REFUSED, DIFFERENT)
    ]
    return head + "".join([*rows, *sums])


def _word(results: Results, case: str, way: str) -> str:
    verdict = results.verdicts.get(case, {}).get(way)
    return verdict.word if verdict else "not run"


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


def _refused(cases: Sequence[Case], results: Results) -> str:
    """Each reason once, with the ways that say so."""
    found: Dict[str, List[str]] = {}
    for case in cases:
        for way in COMPARED:
            verdict = results.verdicts.get(case.name, {}).get(way)
            for reason in verdict.evidence if verdict and verdict.word == REFUSED else ():
                ways = found.setdefault(reason, [])
                ways += [way] if way not in ways else []
    head = (
        "\n## What is refused\n\nThe job is held with the reason, which names the attribute "
        "and says what to do.\n`vmcapsule run` prints it and exits with 65.\n\n"
    )
    rows = [f"- {_marked(reason)}{_of(ways)}\n" for reason, ways in sorted(found.items())]
    return head + ("".join(rows) or "Nothing.\n")


def _marked(reason: str) -> str:
    """With what is quoted of the job's ad as code."""
    quoted, colon, why = reason.partition(": ")
    return f"`{quoted}`: {why}" if colon and " = " in quoted else reason


def _different(cases: Sequence[Case], results: Results) -> str:
    """Each reason once, with what it is seen in."""
    found: Dict[Tuple[str, Tuple[str, ...]], List[str]] = {}
    for case in cases:
        for reason, ways in _reasons(case, results):
            found.setdefault((reason, ways), []).append(case.name)
    head = "\n## What differs, and why\n\n"
    rows = [
        f"- {reason}{_of(list(ways))} Seen in: {', '.join(seen)}.\n"
        for (reason, ways), seen in found.items()
    ]
    return head + ("".join(rows) or "Nothing.\n")


def _reasons(case: Case, results: Results) -> Iterator[Tuple[str, Tuple[str, ...]]]:
    """What the case lists, and the ways in which it was seen."""
    for expected in (one for one in case.expected if one.kind == DIFFERENT):
        ways = tuple(
            way for way in expected.ways if _word(results, case.name, way) == DIFFERENT
        )
        if ways:
            yield expected.reason, ways


def _of(ways: Sequence[str]) -> str:
    """Which ways, where it is not all of them."""
    return "" if len(ways) == len(COMPARED) else f" ({', '.join(ways)})"
