"""What a run of the benchmarks found, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Tuple

from bench.measure import Runs, median_s, ratio

OURS = "vmcapsule"
#: With more than this running already, figures say little.  The row before makes 1.
BUSY_LOAD = 1.5


@dataclass(frozen=True)
class Target:
    """A figure that was measured and the bound it is to keep."""

    #: What it is the figure of: "x cp", "s", "MiB of new blocks".
    of: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Within the bound as it is printed: a ratio is no better than two decimals."""
        value = round(self.value, 2)
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Measure:
    """One piece of work, who did it how fast, and what was to be reached."""

    what: str
    runs: Mapping[str, Runs] = field(default_factory=dict)
    targets: Tuple[Target, ...] = ()


@dataclass(frozen=True)
class Growth:
    """How a cost grows: for each contender (size, cost), by size."""

    #: "files", "bytes", "jobs".
    by: str
    #: What the cost is.
    cost: str
    points: Mapping[str, Tuple[Tuple[float, float], ...]]


@dataclass(frozen=True)
class Outcome:
    """What one row found; ``why_not`` says why it could not be run, in whole or in part."""

    measures: Tuple[Measure, ...] = ()
    growths: Tuple[Growth, ...] = ()
    why_not: str = ""
    #: The machine's load average as the row began: what else was running there.
    load: float = 0.0

    @property
    def is_rough(self) -> bool:
        """Whether the machine was too busy for figures to say much."""
        return self.load > BUSY_LOAD


@dataclass(frozen=True)
class Results:
    """The machine, and an outcome for each row that was run."""

    machine: Mapping[str, str]
    outcomes: Mapping[str, Outcome]


def at_most(runs: Mapping[str, Runs], other: str, bound: float) -> Target:
    """Ours is to take at most ``bound`` times what ``other`` takes."""
    return Target(f"x {other}", ratio(runs[OURS], runs[other]), bound)


def faster(runs: Mapping[str, Runs], other: str, bound: float) -> Target:
    """Ours is to be at least ``bound`` times as fast as ``other``."""
    value = ratio(runs[other], runs[OURS])
    return Target(f"x faster than {other}", value, bound, at_least=True)


def at_most_s(runs: Mapping[str, Runs], bound: float) -> Target:
    """Ours is to take at most ``bound`` seconds."""
    return Target("s", median_s(runs[OURS]), bound)
