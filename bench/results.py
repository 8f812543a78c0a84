"""What a run of the benchmarks found, as values and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence, Tuple

from bench.measure import Run, Runs, median_s, ratio

FILE = Path(__file__).resolve().parent / "results.json"
FORMAT = 1
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


def merged(old: Results, new: Results, rows: Sequence[str]) -> Results:
    """The rows that were run now, and the others as they were, if on the same machine."""
    kept = old.outcomes if old.machine == new.machine else {}
    both = {**kept, **new.outcomes}
    return Results(new.machine, {name: both[name] for name in rows if name in both})


def dumped(results: Results) -> str:
    """As JSON; `parsed` reads it."""
    return json.dumps({"format": FORMAT, **asdict(results)}, indent=1) + "\n"


def parsed(text: str) -> Results:
    """Read what `dumped` wrote; `ValueError` for anything of another format."""
    record = json.loads(text)
    if record.get("format") != FORMAT:
        raise ValueError(f"results of format {record.get('format')!r}, not {FORMAT}")
    outcomes = {name: _outcome(value) for name, value in record["outcomes"].items()}
    return Results(record["machine"], outcomes)


def read(path: Path = FILE) -> Results:
    """The results kept from earlier runs; none where there is no such file."""
    return parsed(path.read_text()) if path.exists() else Results({}, {})


def _outcome(value: Mapping[str, Any]) -> Outcome:
    return Outcome(
        tuple(_measure(one) for one in value["measures"]),
        tuple(_growth(one) for one in value["growths"]),
        value["why_not"],
        value["load"],
    )


def _measure(value: Mapping[str, Any]) -> Measure:
    runs: Dict[str, Runs] = {
        name: tuple(Run(**run) for run in found) for name, found in value["runs"].items()
    }
    return Measure(value["what"], runs, tuple(Target(**one) for one in value["targets"]))


def _growth(value: Mapping[str, Any]) -> Growth:
    points = {name: tuple((x, y) for x, y in found) for name, found in value["points"].items()}
    return Growth(value["by"], value["cost"], points)
