"""The ways without a queue: ``vmcapsule run`` in the pool's root, as the same user."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Sequence

from tests.conformance.cases import DAG_FILE, SUBMIT_FILE, Case
from tests.conformance.outcome import ENDED, FAILED, JobEnd, Outcome, Outcomes, Usage
from tests.conformance.place import USER, Place, crowd
from tests.pool.plugin import HOME
from tests.pool.pool import Pool
from vmcapsule import errors
from vmcapsule.errors import VmCapsuleError

#: For all jobs of a case, emulated, one after the other.
TIMEOUT_S = 1500
#: For one guest; and where it copies gigabytes.
GUEST_TIMEOUT_S, SLOW_GUEST_TIMEOUT_S = 400, 1400
_PROGRAM = ("env", f"PYTHONPATH={HOME}", "python3", "-m", "vmcapsule")


class Alone:
    """Runs each case with ``vmcapsule run --runner RUNNER``, a few at a time."""

    def __init__(self, pool: Pool, way: str, runner: str, at_once: int = 3) -> None:
        self.pool = pool
        self.way = way
        self.runner = runner
        self.at_once = at_once

    def run(self, cases: Sequence[Case]) -> Outcomes:
        """Run the cases; return what became of each."""
        with ThreadPoolExecutor(self.at_once) as pool:
            return dict(zip([case.name for case in cases], pool.map(self._one, cases)))

    def _one(self, case: Case) -> Outcome:
        place = Place(self.pool, self.way, case)
        place.make()
        argv = [*_PROGRAM, "run", "--json", "--runner", self.runner]
        timeout_s = SLOW_GUEST_TIMEOUT_S if case.is_slow else GUEST_TIMEOUT_S
        argv += ["--timeout", str(timeout_s)]
        argv += [DAG_FILE if case.is_dag else SUBMIT_FILE]
        done = self.pool.run(USER, argv, cwd=place.inside, timeout_s=TIMEOUT_S, check=False)
        jobs = [_end(json.loads(line)) for line in done.stdout.splitlines()]
        if not jobs:
            said = done.stderr.decode(errors="replace")
            jobs = [JobEnd(FAILED, status=done.returncode, reason=said)]
        outcome = Outcome(
            tuple(map(place.neutral_end, jobs)), place.tree(_clusters(done.stdout))
        )
        place.remove()
        return outcome


def _clusters(printed: bytes) -> List[int]:
    records = [json.loads(line) for line in printed.splitlines()]
    return sorted({int(record["job_id"].split(".")[0]) for record in records})


def _end(record: Dict[str, Any]) -> JobEnd:
    """What a line of ``run --json`` says of a job's end."""
    error = record["error"]
    if error is not None:
        kind = getattr(errors, error["kind"], VmCapsuleError)
        return JobEnd(
            FAILED, hold_code=kind.hold_code, status=error["status"], reason=error["message"]
        )
    return JobEnd(
        ENDED,
        exit_code=record["exit_code"],
        exit_signal=record["exit_signal"],
        core_dumped=record["core_dumped"],
        usage=Usage(
            cpu_s=record["user_cpu_s"] + record["system_cpu_s"],
            memory_mib=-(-record["max_rss_kib"] // 1024),
            crowd=crowd(),
        ),
    )
