"""``python -m tests.htcondor FOLDER [TEST...]``: HTCondor's own tests, natively and routed."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Dict, List, Optional, Sequence

from tests.htcondor import judge
from tests.htcondor.found import Script, find_modules, find_scripts
from tests.htcondor.judge import End, Row
from tests.htcondor.trial import NATIVE, ROUTED, Source, Trial
from tests.pool.pool import Pool
from vmcapsule.errors import VmCapsuleError

#: Seconds for one test.  Emulated machines are slow.
_LIMITS_S = {NATIVE: 300, ROUTED: 900}
#: Some tests remove all of their user's jobs, or evict all from a machine, or look for
#: errors in all logs: each has a pool for itself.
_POOLS = 4
#: A starter may else wait ten minutes for an evicted job that does not go.
_POOL_CONFIG = "MachineMaxVacateTime = 10\n"


def main(arguments: Optional[List[str]] = None) -> int:
    """Run tests and print the table; 1 when one that should pass does not."""
    args = _parser().parse_args(arguments)
    if args.folder is None or not args.folder.is_dir():
        which = f"{args.folder} is not there" if args.folder else "no folder is given"
        print(f"skipped: HTCondor's tests are not part of this project, and {which};")
        print("give src/condor_tests of a checkout of HTCondor")
        return 0
    try:
        source = Source(args.folder, find_modules(args.folder))
        scripts = find_scripts(args.folder, args.tests)
        expected = judge.read_expected()
        rows = _run(args.suite, source, scripts)
    except VmCapsuleError as error:
        print(f"tests.htcondor: {error}", file=sys.stderr)
        return error.exit_status
    print("\n".join(judge.lines(rows, expected)))
    return 1 if judge.wrong(rows, expected) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.htcondor",
        description="Run HTCondor's own tests of vanilla jobs natively and in capsules.",
    )
    parser.add_argument("folder", nargs="?", type=Path, help="HTCondor's src/condor_tests")
    parser.add_argument(
        "tests", nargs="*", metavar="TEST", help="names or patterns (default: all of vanilla)"
    )
    parser.add_argument("--suite", default="trixie", help="Debian's (default: trixie)")
    return parser


def _run(suite: str, source: Source, scripts: Sequence[Script]) -> List[Row]:
    """Run the tests that can be run, each in one of some pools, as these become idle."""
    idle: SimpleQueue[Pool] = SimpleQueue()

    def row(script: Script) -> Row:
        if script.unfit:
            return Row(script.name, unfit=script.unfit)
        pool = idle.get()
        try:
            return _judged(pool, source, script)
        finally:
            idle.put(pool)

    with ExitStack() as stack:
        for number in range(_POOLS):
            pool = Pool(suite, f"htcondor-{number}")
            pool.start()
            stack.callback(pool.stop)
            pool.configure("95-htcondor", _POOL_CONFIG)
            pool.reconfigure()
            idle.put(pool)
        with ThreadPoolExecutor(_POOLS) as workers:
            return list(workers.map(row, scripts))


def _judged(pool: Pool, source: Source, script: Script) -> Row:
    """Run a test natively and, if it passes, with its jobs routed."""
    ends: Dict[str, End] = {}
    for way in (NATIVE, ROUTED):
        ends[way] = Trial(pool, source, way, _LIMITS_S[way]).run(script)
        word = "passes" if ends[way].passed else f"fails: {ends[way].why}"
        print(f"{way}: {script.name} {word}", file=sys.stderr, flush=True)
        if not ends[way].passed:
            break
    return Row(script.name, ends.get(NATIVE), ends.get(ROUTED))


if __name__ == "__main__":
    sys.exit(main())
