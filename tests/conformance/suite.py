"""Cases run natively and each way that is wanted, and compared."""

from __future__ import annotations

import time
from typing import Callable, Dict, Sequence

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
        outcomes[way] = WAYS[way].runner(pool, way).run(cases)
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


def verdict(case: Case, way: str, native: Outcome, other: Outcome) -> Verdict:
    """The verdict on one outcome; nothing can be said where the reference did not end."""
    waiting = sum(job.state == WAITING for job in native.jobs)
    is_known = waiting > 0 if case.native_waits else waiting == case.idle
    if not is_known or not native.jobs:
        states = ", ".join(f"{job.state} {job.reason}".strip() for job in native.jobs) or "none"
        return Verdict(DIFFERENT, (), (f"the native jobs are: {states}",))
    return judge(case, way, native, other)
