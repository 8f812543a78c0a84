"""``python -m tests.conformance [CASE...] [--way WAY]``: what ``./dev conformance`` runs."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import List, Optional, Tuple

from tests.conformance import document, results, table
from tests.conformance.cases import Case, load_cases, with_room
from tests.conformance.place import HOME
from tests.conformance.suite import build_root, run_suite
from tests.conformance.ways import COMPARED
from tests.pool.pool import Pool
from vmcapsule.errors import ToolError, VmCapsuleError


def main(arguments: Optional[List[str]] = None) -> int:
    """Run cases and print the table; 1 when anything is not as expected."""
    args = _parser().parse_args(arguments)
    try:
        every = load_cases((), COMPARED)
        cases = load_cases(args.cases, COMPARED) if args.cases else every
        if args.quick:
            cases = [case for case in cases if not case.is_slow]
        if args.list:
            print("\n".join(f"{case.name}: {case.about}" for case in cases))
            return 0
        return _run(cases, every, args)
    except VmCapsuleError as error:
        print(f"./dev conformance: {error}", file=sys.stderr)
        return error.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./dev conformance",
        description="Run jobs natively and in capsules, and compare what becomes of them.",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="default: all")
    parser.add_argument("--way", action="append", choices=COMPARED, help="default: all")
    parser.add_argument("--quick", action="store_true", help="without the slow cases")
    parser.add_argument("--list", action="store_true", help="say what cases there are")
    parser.add_argument("--suite", default="trixie", help="Debian's (default: trixie)")
    parser.add_argument("--dry", action="store_true", help="leave the documentation as it is")
    return parser


def _run(cases: List[Case], every: List[Case], args: argparse.Namespace) -> int:
    pool = Pool(args.suite, "conformance")
    ways = _ways(args.way, pool)
    pool.start()
    try:
        cases = with_room(cases, _free_bytes(pool.path(HOME)), _say)
        found = run_suite(pool, cases, ways, _say)
    finally:
        pool.stop()
    print("\n".join(table.lines(found.verdicts, ways)))
    if not args.dry:
        names = [case.name for case in every]
        old = document.read(document.PAGE.read_text(encoding="utf-8"))
        kept = results.merged(old, found, names, COMPARED)
        document.PAGE.write_text(document.text(every, kept), encoding="utf-8")
    return 1 if table.is_wrong(found.verdicts) else 0


def _ways(asked_for: Optional[List[str]], pool: Pool) -> Tuple[str, ...]:
    """The ways asked for; else all that can be had here, and people are told of the others."""
    ways = []
    for way in asked_for or COMPARED:
        try:
            build_root(way, pool)
        except ToolError as error:
            if asked_for:
                raise
            _say(f"{way}: left out: {error}")
        else:
            ways.append(way)
    return tuple(ways)


def _free_bytes(folder: Path) -> int:
    """What is free where a folder is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def _say(step: str) -> None:
    print(step, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
