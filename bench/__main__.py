"""``python -m bench [ROW...]``: what ``./dev bench`` runs."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from dataclasses import replace
from typing import Dict, List, Optional

from bench import document, machine, plot, table
from bench.place import FULL, QUICK, Place, made_place
from bench.results import Outcome, Results
from bench.rows import ROWS, Row
from vmcapsule.errors import SpaceError, UsageError, VmCapsuleError
from vmcapsule.template.template import load

NAMES = tuple(row.name for row in ROWS)
#: What the largest row has on the disk at a time: a file of 4 GiB, on disks and copied.
_ROOM_GIB = 30


def main(arguments: Optional[List[str]] = None) -> int:
    """Run rows, print the table, and keep what was found."""
    args = _parser().parse_args(arguments)
    if args.list:
        print("\n".join(f"{row.name:<12} {row.about}" for row in ROWS))
        return 0
    if args.page:
        write(kept())
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        # So that everything is cleared away, whoever ends us.
        signal.signal(number, lambda ended_by, _: sys.exit(128 + ended_by))
    try:
        rows = _chosen(args.rows)
        with made_place(QUICK if args.quick else FULL, _say) as place:
            _check_room(place)
            found = _measured(rows, place, dry=args.quick)
    except VmCapsuleError as error:
        print(f"./dev bench: {error}", file=sys.stderr)
        return error.exit_status
    print("\n".join(table.lines(found, NAMES)))
    return 0


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./dev bench",
        description="Measure vmcapsule beside the alternatives; write docs/performance.md.",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="default: all")
    parser.add_argument(
        "--quick", action="store_true", help="little work, for a look; writes nothing"
    )
    parser.add_argument(
        "--page", action="store_true", help="only write the page anew, with today's notes"
    )
    parser.add_argument("--list", action="store_true", help="say what rows there are")
    return parser


def _chosen(names: List[str]) -> List[Row]:
    unknown = set(names) - set(NAMES)
    if unknown:
        raise UsageError(
            f"there is no row '{sorted(unknown)[0]}'", f"there are: {', '.join(NAMES)}"
        )
    return [row for row in ROWS if not names or row.name in names]


def _check_room(place: Place) -> None:
    free_gib = shutil.disk_usage(place.scratch).free >> 30
    if place.sizes == FULL and free_gib < _ROOM_GIB:
        raise SpaceError(
            f"{place.config.cache} has {free_gib} GiB free, {_ROOM_GIB} are needed",
            "make room, set XDG_CACHE_HOME elsewhere, or use --quick",
        )


def _measured(rows: List[Row], place: Place, *, dry: bool) -> Results:
    """Run rows one after the other; unless ``dry``, what is found is kept at once."""
    kernel = load(place.config.template).kernel
    about = machine.describe(place.scratch, kernel, place.config.cache)
    found: Dict[str, Outcome] = {}
    for row in rows:
        found[row.name] = _run(row, place)
        if not dry:
            keep(Results(about, {row.name: found[row.name]}))
    return Results(about, found)


def _run(row: Row, place: Place) -> Outcome:
    """One row that fails is told of, and the others are run."""
    place.say(f"-- {row.name}: {row.about}")
    load = round(os.getloadavg()[0], 1)
    try:
        return replace(row.run(place), load=load)
    except VmCapsuleError as error:
        return Outcome(why_not=str(error))


def keep(found: Results) -> None:
    """Put what was found on the page, and draw how it grows."""
    for name, outcome in found.outcomes.items():
        plot.draw(outcome.growths, document.plot_of(name))
    write(document.merged(kept(), document.page_of(found), NAMES))


def kept() -> document.Page:
    """What is on the page."""
    return document.read(document.PAGE.read_text(encoding="utf-8"))


def write(page: document.Page) -> None:
    """Write the page, with today's notes."""
    text = document.text(page, NAMES, document.read_notes())
    document.PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
