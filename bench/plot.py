"""The growth of costs as a picture.  Needs matplotlib (the extra 'bench')."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Sequence

from bench.document import amount
from bench.results import OURS, Growth

_COLOURS = {
    OURS: "#0b6e4f", "mcopy": "#c8553d", "cp": "#588bae", "pyfatfs": "#8d6a9f",
    "native": "#588bae", "mean": "#0b6e4f", "nth": "#8fbfa8",
}  # fmt: skip
_LABELS = {"mean": "mean of so many", "nth": "the n-th of the largest batch"}
_TITLES = {"files": "files of 20 kB", "bytes": "one file", "jobs": "jobs submitted at once"}


def draw(growths: Sequence[Growth], target: Path) -> None:
    """Write ``target``, a PNG with a panel for each growth; nothing where there is none."""
    if not growths:
        return
    # Imported here: only this needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(growths) // 2)
    picture = Figure(figsize=(10, 3.8 * rows), layout="constrained")
    FigureCanvasAgg(picture)
    for number, growth in enumerate(growths, start=1):
        _panel(picture.add_subplot(rows, 2, number), growth)
    # No date and no version: the same results give the same file.
    picture.savefig(target, dpi=110, metadata={"Software": None})


def _panel(axes: Any, growth: Growth) -> None:
    for name in sorted(growth.points, key=lambda name: (name == OURS, name == "mean")):
        xs, ys = zip(*growth.points[name])
        dots = name == "nth"
        axes.plot(
            xs,
            ys,
            marker="." if dots else "o",
            linestyle="" if dots else "-",
            linewidth=2.4 if name in (OURS, "mean") else 1.4,
            markersize=5,
            color=_COLOURS.get(name),
            label=_LABELS.get(name, name),
        )
    axes.set_xscale("log")
    ticks = _ticks(growth)
    axes.set_xticks(ticks, [amount(tick, growth.by) for tick in ticks])
    axes.minorticks_off()
    if growth.by == "jobs":
        axes.set_ylim(0, 1.15 * max(y for points in growth.points.values() for _, y in points))
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(_TITLES[growth.by], fontsize=11)
    axes.set_ylabel(growth.cost)
    axes.grid(True, color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def _ticks(growth: Growth) -> List[float]:
    """The sizes that were measured, single jobs aside."""
    series: Sequence[Any] = [v for name, v in growth.points.items() if name != "nth"]
    return sorted({size for points in series for size, _ in points})
