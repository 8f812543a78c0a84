"""The results as a table for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from typing import Iterator, Mapping, Sequence

from bench.measure import Run, median_s
from bench.results import OURS, Measure, Outcome, Results, Target

WIDTH = 80
_WHAT, _OF = 42, 20


def lines(results: Results, rows: Sequence[str]) -> Iterator[str]:
    """The machine, then a line for each target and, below it, everybody's medians."""
    machine = ", ".join(f"{name}: {value}" for name, value in results.machine.items())
    yield from textwrap.wrap(machine, WIDTH)
    yield ""
    yield f"{'':<{_WHAT}}{'measured':>8} {'':<{_OF}}{'':>4}met"[:WIDTH]
    for name in rows:
        if name in results.outcomes:
            yield from _outcome(name, results.outcomes[name])


def _outcome(name: str, outcome: Outcome) -> Iterator[str]:
    if outcome.why_not:
        yield from textwrap.wrap(f"{name}: not run: {outcome.why_not}", WIDTH)
    if outcome.is_rough:
        yield f"{name}: rough: the machine was busy (load {outcome.load:g})"
    for measure in outcome.measures:
        yield from _measure(measure)
    for growth in outcome.growths:
        yield from textwrap.wrap(f"{name}: {growth.cost}, by number of {growth.by}:", WIDTH)
        for who, points in growth.points.items():
            # The whole curve is in the plot.
            said = ", ".join(f"{x:,g}: {y:.3g}" for x, y in points[:8])
            yield from textwrap.wrap(
                f"  {who}: {said}{' ...' if points[8:] else ''}",
                WIDTH,
                subsequent_indent="    ",
            )


def _measure(measure: Measure) -> Iterator[str]:
    yield from textwrap.wrap(measure.what, WIDTH)
    for target in measure.targets:
        said = f"  {target.of}"
        yield f"{said:<{_WHAT}}{figure(target.value):>8} {bound(target):<{_OF}}{met(target)}"
    if measure.runs:
        yield from textwrap.wrap(
            f"  medians: {medians(measure.runs)}", WIDTH, subsequent_indent="    "
        )


def figure(value: float) -> str:
    """Two decimals, or none where there are enough digits before them."""
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def bound(target: Target) -> str:
    """What is asked of a figure."""
    return f"at {'least' if target.at_least else 'most'} {target.bound:g}"


def met(target: Target) -> str:
    """Whether the figure is within the bound, in a word."""
    return "yes" if target.is_met else "NO"


def medians(runs: Mapping[str, Sequence[Run]]) -> str:
    """Everybody's median time, ours first, and of how many runs."""
    names = sorted(runs, key=lambda name: name != OURS)
    return ", ".join(f"{n} {seconds(median_s(runs[n]))} ({len(runs[n])})" for n in names)


def seconds(value_s: float) -> str:
    """With three digits that matter."""
    if value_s < 1:
        return f"{value_s * 1000:.0f} ms"
    return f"{value_s:.2f} s" if value_s < 100 else f"{value_s:.0f} s"
