"""Cases run natively and each way that is wanted, and compared."""

from __future__ import annotations

import contextlib
import time
from typing import Callable, Dict, Iterator, Sequence

from tests.conformance.cases import Case
from tests.conformance.compare import DIFFERENT, Verdict, judge
from tests.conformance.outcome import WAITING, Outcome, Outcomes
from tests.conformance.results import Results, Verdicts
from tests.conformance.ways import NATIVE, WAYS
from tests.pool.pool import Pool

#: A starter whose outputs were not taken waits for its shadow, ten minutes if it may, and
#: nobody else gets its slot.
_CONFIG = """\
MachineMaxVacateTime = 4
KILLING_TIMEOUT = 4
"""


def configure(pool: Pool) -> None:
    """Make a running pool fit for the suite."""
    pool.configure("95-conformance", _CONFIG)
    pool.reconfigure()


def build_root(way: str, pool: Pool) -> None:
    """Build the root that a way needs beside that of ``pool``, if it needs one."""
    if WAYS[way].root:
        _on_its_root(way, pool).build()


def run_suite(
    pool: Pool,
    cases: Sequence[Case],
    ways: Sequence[str],
    progress: Callable[[str], None] = lambda step: None,
) -> Results:
    """Run the cases in a running pool: natively, then each of ``ways``."""
    configure(pool)
    outcomes: Dict[str, Outcomes] = {}
    for way in (NATIVE, *ways):
        began_s = time.monotonic()
        with _pool_of(way, pool) as its:
            outcomes[way] = WAYS[way].runner(its, way).run(cases)
        progress(f"{way}: {len(cases)} cases in {time.monotonic() - began_s:.0f} s")
    verdicts: Verdicts = {
        case.name: {
            way: verdict(case, way, outcomes[NATIVE][case.name], outcomes[way][case.name])
            for way in ways
        }
        for case in cases
    }
    version = pool.run("alice", ["condor_version"]).stdout.decode().split()
    return Results({"HTCondor": version[1]}, verdicts)


@contextlib.contextmanager
def _pool_of(way: str, pool: Pool) -> Iterator[Pool]:
    """``pool``, or another beside it for a way that needs another root, as long as it runs.

    What that does to its pool (libvirt wants /dev/kvm otherwise) is no other way's matter.
    """
    if not WAYS[way].root:
        yield pool
        return
    own = _on_its_root(way, pool)
    own.start()
    try:
        configure(own)
        yield own
    finally:
        own.stop()


def _on_its_root(way: str, pool: Pool) -> Pool:
    """A pool like this on the root of a way; it has yet to be started."""
    return Pool(pool.suite + WAYS[way].root, pool.space.name, pool.cache, pool.templates)


def verdict(case: Case, way: str, native: Outcome, other: Outcome) -> Verdict:
    """The verdict on one outcome; nothing can be said where the reference did not end."""
    waiting = sum(job.state == WAITING for job in native.jobs)
    is_known = waiting > 0 if case.native_waits else waiting == case.idle
    if not is_known or not native.jobs:
        states = ", ".join(f"{job.state} {job.reason}".strip() for job in native.jobs) or "none"
        return Verdict(DIFFERENT, (), (f"the native jobs are: {states}",))
    return judge(case, way, native, other)
