"""``python -m tests.htcondor FOLDER [TEST...]``: HTCondor's own tests, natively and routed."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Dict, Iterator, List, Optional, Sequence

from tests.htcondor import judge
from tests.htcondor.found import Script, find_modules, find_scripts
from tests.htcondor.judge import End, Row
from tests.htcondor.trial import NATIVE, ROUTED, Source, Trial
from tests.pool.pool import Pool
from vmcapsule.config import default_cache
from vmcapsule.errors import ToolError, VmCapsuleError
from vmcapsule.images.template_build import build_template
from vmcapsule.template.template import FOLDER

#: Seconds for one test.  Emulated machines are slow.
_LIMITS_S = {NATIVE: 300, ROUTED: 480}
#: Some tests remove all of their user's jobs, or evict all from a machine, or look for
#: errors in all logs: each has a pool for itself.
_POOLS = 4
#: The jobs are in perl, and want more of it than Debian's smallest system has.
_PACKAGES = ("perl",)
_TEST_CONFIG = "96-test"
#: A starter may else wait ten minutes for an evicted job that does not go.  And the
#: JobRouter leaves the host's name out of the execute event of a job that runs before it
#: has looked at it once, which happens in a pool as quick as this one; the tests' reader of
#: events passes over an event without it.
_POOL_CONFIG = """\
MachineMaxVacateTime = 10
JOB_ROUTER_POST_ROUTE_TRANSFORM_NAMES = LookedAt
JOB_ROUTER_TRANSFORM_LookedAt @=end
  SET Requirements ($(MY.Requirements)) && time() - QDate > 4
@end
"""


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
    templates = _templates()
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
            pool = Pool(suite, f"htcondor-{number}", templates=templates)
            stack.callback(pool.stop)
            _start(pool)
            idle.put(pool)
        with ThreadPoolExecutor(_POOLS) as workers:
            return list(workers.map(row, scripts))


def _templates() -> Path:
    """The folder of a template, built once, that can run what the tests' jobs are."""
    folder = default_cache() / "htcondor-tests" / "templates"
    if not (folder / FOLDER).is_dir():
        build_template(folder, packages=_PACKAGES, progress=_say)
    return folder


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _start(pool: Pool) -> None:
    pool.start()
    pool.configure("95-htcondor", _POOL_CONFIG)
    pool.reconfigure()


def _judged(pool: Pool, source: Source, script: Script) -> Row:
    """Run a test natively and, if it passes, with its jobs routed."""
    ends: Dict[str, End] = {}
    try:
        with _configured(pool, script):
            for way in (NATIVE, ROUTED):
                ends[way] = Trial(pool, source, way, _LIMITS_S[way]).run(script)
                if not ends[way].passed:
                    break
    except ToolError as error:
        # Where it passed natively the route is to blame, until somebody has looked.
        way = ROUTED if NATIVE in ends else NATIVE
        ends[way] = End(False, f"its pool failed: {error.message}")
        pool.stop()
        _start(pool)
    for way, end in ends.items():
        word = "passes" if end.passed else f"fails: {end.why}"
        _say(f"{way}: {script.name} {word}")
    return Row(script.name, ends.get(NATIVE), ends.get(ROUTED))


@contextmanager
def _configured(pool: Pool, script: Script) -> Iterator[None]:
    """Give the pool what the test asks for, as long as it runs."""
    if not script.config:
        yield
        return
    pool.configure(_TEST_CONFIG, script.config)
    # Some of it, such as how many CPUs there are, is read at start only.
    pool.restart("MASTER")
    yield
    pool.unconfigure(_TEST_CONFIG)
    pool.restart("MASTER")


if __name__ == "__main__":
    sys.exit(main())
