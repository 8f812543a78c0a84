"""docs/performance.md: the same figures for reading, the same text for the same results."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Iterator, Mapping, Sequence

from bench.measure import median_s
from bench.place import CHECKOUT
from bench.results import OURS, Growth, Measure, Outcome, Results
from bench.table import bound, figure, met, seconds

PAGE = CHECKOUT / "docs" / "performance.md"
PLOT = PAGE.with_suffix(".png")
NOTES = Path(__file__).resolve().parent / "notes"

_HEAD = """\
# What it costs

Every figure here is measured beside the alternative, in turns and in one run: whole
processes, their start included, as a user has them: vmcapsule is installed for it (a
developer's editable installation begins slower). A ratio is the median of the ratios of
the rounds.
`./dev bench` measures, and writes this page and its plot; what stands below the tables
is kept in `bench/notes`. Another machine has other figures, and mostly the same ratios.

"""
_TIMES = """
## Times

Medians, each of so many runs. CPU time is user and system.

"""
_PLOT = """
## How it grows

![Cost by number of files, size, and number of jobs](performance.png)

Staging and extracting together; files of 20 kB on the left, one file on the right. A
file in a FAT is shorter than 4 GiB, so mtools cannot carry the largest. The files have
short names: with a thousand long names that begin alike, mcopy takes minutes. Below,
one-second jobs through a pool's JobRouter and natively: how long each takes when so many
are submitted at once, and what the hooks use for each.
"""


def text(results: Results, rows: Sequence[str], notes: Mapping[str, str]) -> str:
    """The whole page.  ``notes`` are Markdown, by row."""
    outcomes = [(name, results.outcomes[name]) for name in rows if name in results.outcomes]
    parts = [_HEAD, *_machine(results.machine), *_targets(outcomes), *_medians(outcomes)]
    if any(outcome.growths for _, outcome in outcomes):
        parts += [_PLOT, *_growths(outcomes)]
    return "".join([*parts, *_notes(outcomes, notes)])


def read_notes(folder: Path = NOTES) -> Mapping[str, str]:
    """The notes that are kept by hand, by row."""
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.md"))}


def _machine(machine: Mapping[str, str]) -> Iterator[str]:
    yield "| this machine | |\n|---|---|\n"
    for name, value in machine.items():
        yield f"| {name} | {_cell(value)} |\n"


def _targets(outcomes: Sequence[tuple[str, Outcome]]) -> Iterator[str]:
    yield "\n## Targets\n\n| work | figure | measured | target | met |\n|---|---|---|---|---|\n"
    for name, outcome in outcomes:
        if outcome.why_not:
            yield f"| {name} | | not run: {_cell(outcome.why_not)} | | |\n"
        for measure in outcome.measures:
            for target in measure.targets:
                value = figure(target.value)
                yield (
                    f"| {measure.what} | {_cell(target.of)} | {value} | {bound(target)} "
                    f"| {met(target).lower()} |\n"
                )
    busy = [name for name, outcome in outcomes if outcome.is_rough]
    if busy:
        yield "\nThe machine was busy with something else, and figures are rough: "
        yield f"{', '.join(busy)}.\n"


def _medians(outcomes: Sequence[tuple[str, Outcome]]) -> Iterator[str]:
    yield _TIMES
    yield "| work | by | time | CPU | runs |\n|---|---|---|---|---|\n"
    for _, outcome in outcomes:
        for measure in outcome.measures:
            yield from _runs(measure)


def _runs(measure: Measure) -> Iterator[str]:
    for name in sorted(measure.runs, key=lambda name: name != OURS):
        runs = measure.runs[name]
        cpu_s = statistics.median(run.cpu_s for run in runs)
        yield (
            f"| {measure.what} | {_code(name)} | {seconds(median_s(runs))} | {seconds(cpu_s)} "
            f"| {len(runs)} |\n"
        )


def _growths(outcomes: Sequence[tuple[str, Outcome]]) -> Iterator[str]:
    for _, outcome in outcomes:
        for growth in outcome.growths:
            yield from _growth(growth)


def _growth(growth: Growth) -> Iterator[str]:
    # The costs of single jobs are for the plot.
    series = {name: dict(points) for name, points in growth.points.items() if name != "nth"}
    sizes = sorted({size for points in series.values() for size in points})
    names = sorted(series, key=lambda name: name != OURS)
    yield f"\n| {growth.by} ({growth.cost}) | {' | '.join(names)} |\n"
    yield "|---" * (len(names) + 1) + "|\n"
    for size in sizes:
        cells = [f"{series[n][size]:.3g}" if size in series[n] else "" for n in names]
        yield f"| {amount(size, growth.by)} | {' | '.join(cells)} |\n"


def amount(size: float, by: str) -> str:
    """A number of files or jobs, or bytes in the largest unit that fits."""
    if by != "bytes":
        return f"{size:,.0f}"
    return f"{size / 2**30:g} GiB" if size >= 2**30 else f"{size / 2**20:g} MiB"


def _notes(outcomes: Sequence[tuple[str, Outcome]], notes: Mapping[str, str]) -> Iterator[str]:
    """Of each row with a target that is missed: where the time goes, and what was tried."""
    missed = [name for name, outcome in outcomes if is_missed(outcome)]
    if missed:
        yield "\n## What is missed, and why\n"
    for name in missed:
        yield f"\n**{name}.** {notes.get(name, 'Not looked into yet.').strip()}\n"


def is_missed(outcome: Outcome) -> bool:
    """Whether a target of this row is not met."""
    return any(not target.is_met for one in outcome.measures for target in one.targets)


def _cell(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")


def _code(name: str) -> str:
    return f"`{name}`" if " " in name and name.startswith("import") else name
