"""docs/performance.md: the figures for reading, which are all that is kept of a run.

Every line of a table begins with its row's name, so `read` finds in the page what `text`
wrote, and a run of some rows leaves the others' lines as they are.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

from bench.measure import median_s
from bench.place import CHECKOUT
from bench.results import OURS, Growth, Measure, Outcome, Results
from bench.table import bound, figure, met, seconds

PAGE = CHECKOUT / "docs" / "performance.md"
NOTES = Path(__file__).resolve().parent / "notes"

_HEAD = """\
# What it costs

Every figure here is measured beside the alternative, in turns and in one run: whole
processes, their start included, as a user has them: vmcapsule is installed for it (a
developer's editable installation begins slower). A ratio is the median of the ratios of
the rounds.
`./dev bench` measures, and writes this page and its plots; `./dev bench ROW` does so for
one row. What stands below the tables is kept in `bench/notes`. Another machine has other
figures, and mostly the same ratios.

"""
_MACHINE = "| this machine | |\n|---|---|\n"
_TARGETS = """
## Targets

| row | work | figure | measured | target | met |
|---|---|---|---|---|---|
"""
_BUSY = "\nRough: the machine was busy with something else.\n"
_TIMES = """
## Times

Medians, each of so many runs. CPU time is user and system.

| row | work | by | time | CPU | runs |
|---|---|---|---|---|---|
"""
_GROWTH = """
## How it grows

Staging and extracting together; files of 20 kB on the left, one file on the right. A
file in a FAT is shorter than 4 GiB, so mtools cannot carry the largest. The files have
short names: with a thousand long names that begin alike, mcopy takes minutes. Below,
one-second jobs through a pool's JobRouter and natively: how long each takes when so many
are submitted at once, and what the hooks use for each.
"""
_MISSED = "\n## What is missed, and why\n"
#: Above what grows in one row.
_ROW = "\n### "
_NO, _ROUGH = "no", ", rough"


class Part(NamedTuple):
    """What the page says of one row: lines of the two tables, and how the row's costs grow."""

    targets: Tuple[str, ...] = ()
    times: Tuple[str, ...] = ()
    growth: str = ""

    @property
    def is_missed(self) -> bool:
        """Whether a target is not met."""
        return any(_cells(line)[-1].startswith(_NO) for line in self.targets)


class Page(NamedTuple):
    """The machine, and a part for each row that was run."""

    machine: Mapping[str, str]
    parts: Mapping[str, Part]


def text(page: Page, rows: Sequence[str], notes: Mapping[str, str]) -> str:
    """The whole page.  ``notes`` are Markdown, by row."""
    parts = {name: page.parts[name] for name in rows if name in page.parts}
    targets = "".join(line for part in parts.values() for line in part.targets)
    lacking = [name for name in rows if not any(parts.get(name, ()))]
    growths = [f"{_ROW}{name}\n{part.growth}" for name, part in parts.items() if part.growth]
    return "".join(
        [
            *(
                _HEAD,
                _MACHINE,
                *(f"| {name} | {said} |\n" for name, said in page.machine.items()),
            ),
            *(_TARGETS, targets, _BUSY if _ROUGH in targets else ""),
            f"\nNot measured on this machine yet: {', '.join(lacking)}.\n" if lacking else "",
            *(_TIMES, *(line for part in parts.values() for line in part.times)),
            *([_GROWTH, *growths] if growths else ()),
            *_notes([name for name, part in parts.items() if part.is_missed], notes),
        ]
    )


def _notes(missed: Sequence[str], notes: Mapping[str, str]) -> Iterator[str]:
    """Of each row with a target that is missed: where the time goes, and what was tried."""
    if missed:
        yield _MISSED
    for name in missed:
        yield f"\n**{name}.** {notes.get(name, 'Not looked into yet.').strip()}\n"


def read_notes(folder: Path = NOTES) -> Mapping[str, str]:
    """The notes that are kept by hand, by row."""
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.md"))}


def plot_of(row: str) -> Path:
    """Where the picture of a row's growth is."""
    return PAGE.with_name(f"{PAGE.stem}-{row}.png")


# What was found, as the page says it


def page_of(results: Results) -> Page:
    """What the page says of results."""
    machine = {name: _cell(said) for name, said in results.machine.items()}
    parts = {name: _part(name, outcome) for name, outcome in results.outcomes.items()}
    return Page(machine, parts)


def _part(name: str, outcome: Outcome) -> Part:
    return Part(
        tuple(f"| {name} | {line} |\n" for line in _targets(outcome)),
        tuple(f"| {name} | {line} |\n" for one in outcome.measures for line in _times(one)),
        "".join([*_picture(name, outcome), *(_growth(one) for one in outcome.growths)]),
    )


def _targets(outcome: Outcome) -> Iterator[str]:
    if outcome.why_not:
        yield f"| | not run: {_cell(outcome.why_not)} | |"
    rough = _ROUGH if outcome.is_rough else ""
    for measure in outcome.measures:
        for target in measure.targets:
            yield (
                f"{measure.what} | {_cell(target.of)} | {figure(target.value)} "
                f"| {bound(target)} | {met(target).lower()}{rough}"
            )


def _times(measure: Measure) -> Iterator[str]:
    for name in sorted(measure.runs, key=lambda name: name != OURS):
        runs = measure.runs[name]
        cpu_s = [run.cpu_s for run in runs if run.cpu_s is not None]
        cpu = seconds(statistics.median(cpu_s)) if cpu_s else "-"
        yield (
            f"{measure.what} | {_code(name)} | {seconds(median_s(runs))} | {cpu} | {len(runs)}"
        )


def _picture(name: str, outcome: Outcome) -> Iterator[str]:
    if outcome.growths:
        costs = " and ".join(dict.fromkeys(f"by {growth.by}" for growth in outcome.growths))
        yield f"\n![Costs {costs}]({plot_of(name).name})\n"


def _growth(growth: Growth) -> str:
    # The costs of single jobs are for the plot.
    series = {name: dict(points) for name, points in growth.points.items() if name != "nth"}
    sizes = sorted({size for points in series.values() for size in points})
    names = sorted(series, key=lambda name: name != OURS)
    lines = [f"\n| {growth.by} ({growth.cost}) | {' | '.join(names)} |\n"]
    lines.append("|---" * (len(names) + 1) + "|\n")
    for size in sizes:
        cells = [f"{series[n][size]:.3g}" if size in series[n] else "" for n in names]
        lines.append(f"| {amount(size, growth.by)} | {' | '.join(cells)} |\n")
    return "".join(lines)


def amount(size: float, by: str) -> str:
    """A number of files or jobs, or bytes in the largest unit that fits."""
    if by != "bytes":
        return f"{size:,.0f}"
    return f"{size / 2**30:g} GiB" if size >= 2**30 else f"{size / 2**20:g} MiB"


def _cell(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")


def _code(name: str) -> str:
    return f"`{name}`" if " " in name and name.startswith("import") else name


# What was written


def read(page: str) -> Page:
    """What a page says, by row."""
    machine = _by_name(page.partition(_MACHINE)[2].partition("\n\n")[0])
    targets, times = (_by_name(_below(page, title)) for title in ("Targets", "Times"))
    growths = dict(part.split("\n", 1) for part in _below(page, "How it grows").split(_ROW)[1:])
    return Page(
        {name: _cells(line)[1] for name, (line,) in machine.items()},
        {
            name: Part(targets.get(name, ()), times.get(name, ()), growths.get(name, ""))
            for name in {**targets, **times, **growths}
        },
    )


def merged(old: Page, new: Page, rows: Sequence[str]) -> Page:
    """The rows that were run now, and the others as they were, if on the same machine."""
    both = {**(old.parts if old.machine == new.machine else {}), **new.parts}
    return Page(new.machine, {name: both[name] for name in rows if name in both})


def _below(page: str, title: str) -> str:
    """What is below a title, up to the next."""
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _by_name(table: str) -> Dict[str, Tuple[str, ...]]:
    """A table's lines by the first cell."""
    found: Dict[str, Tuple[str, ...]] = {}
    for line in table.splitlines():
        if line.startswith("| "):
            name = _cells(line)[0]
            found[name] = (*found.get(name, ()), f"{line}\n")
    found.pop("row", None)
    return found


def _cells(line: str) -> List[str]:
    return line.rstrip().removeprefix("| ").removesuffix(" |").split(" | ")
