"""One-second jobs through a real JobRouter, and the same jobs natively in that pool.

Batches of jobs go through in turns: in capsules, then natively.  What the hooks use is
measured by a small program in front of each (`bench.hook_meter`).
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from bench.place import Place
from bench.results import OURS, Growth, Measure, Outcome, Target
from tests.pool.pool import Pool, PoolError
from vmcapsule.errors import ToolError

HOOKS = ("translate", "update", "finalize", "cleanup")
NATIVE = "native"
_METERS = "/opt/vmcapsule/bench"
_LOG = "/var/tmp/bench-hooks"
#: Jobs at the start and at the end of a batch that are compared.
_FLAT_FROM, _FLAT_JOBS = 10, 50
_FLAT_MAX = 1.2

_CONFIG = "\n".join(
    [
        # HTCondor's own default; the pool's is short, for tests.
        "JOB_ROUTER_POLLING_PERIOD = 10",
        f"CAPSULE_HOOK_TRANSLATE_JOB = {_METERS}/translate",
        f"CAPSULE_HOOK_UPDATE_JOB_INFO = {_METERS}/update",
        f"CAPSULE_HOOK_JOB_FINALIZE = {_METERS}/finalize",
        f"CAPSULE_HOOK_JOB_CLEANUP = {_METERS}/cleanup",
        f"CAPSULE_RUNNING_HOOK_JOB_FINALIZE = {_METERS}/finalize",
        f"CAPSULE_RUNNING_HOOK_JOB_CLEANUP = {_METERS}/cleanup\n",
    ]
)
_SUBMIT = """\
executable = job.sh
output = out.$(Process)
error = err.$(Process)
log = log
request_memory = 64
request_disk = 1MB
{more}
queue {count}
"""
_JOB = "#!/bin/sh\necho begun\nsleep 1\necho done\n"

#: CPU seconds by job and hook, jobs in the order in which they were translated.
Costs = Dict[str, Dict[str, float]]


def jobs(place: Place) -> Outcome:
    """Batches from one job to as many as there are to be."""
    if os.geteuid() != 0:
        return Outcome(why_not="a pool needs root")
    pool = Pool("trixie", "bench")
    pool.start()
    try:
        _install_meters(pool)
        return _measure(place, pool)
    finally:
        pool.stop()


def _install_meters(pool: Pool) -> None:
    meter = Path(__file__).resolve().parents[1] / "hook_meter.py"
    for hook in HOOKS:
        pool.put(f"{_METERS}/{hook}", meter.read_bytes(), mode=0o755)
    pool.configure("60-bench", _CONFIG)
    pool.restart("JOB_ROUTER")


def _measure(place: Place, pool: Pool) -> Outcome:
    costs: Costs = {}
    means: List[Tuple[float, float]] = []
    spans: Dict[str, List[Tuple[float, float]]] = {OURS: [], NATIVE: []}
    for count in place.sizes.jobs:
        place.say(f"{count} jobs in capsules")
        span_s, costs = _routed_batch(pool, count)
        spans[OURS].append((count, span_s))
        means.append((count, round(statistics.mean(totals(costs)), 4)))
        place.say(f"{count} jobs natively")
        spans[NATIVE].append((count, _batch(pool, count, "")))
    return outcome(costs, means, spans)


def outcome(
    costs: Costs,
    means: Sequence[Tuple[float, float]],
    spans: Dict[str, List[Tuple[float, float]]],
) -> Outcome:
    """What is to be said of the last batch, and of how it came there."""
    count = len(costs)
    each = totals(costs)
    targets = [Target("CPU s a job", round(statistics.mean(each), 4), 0.12)]
    if count >= _FLAT_FROM + 2 * _FLAT_JOBS:
        targets.append(Target("last / first 50", flatness(each), _FLAT_MAX))
    nth = tuple((number, round(cost, 4)) for number, cost in enumerate(each, start=1))
    return Outcome(
        (Measure(f"hooks of {count} routed jobs ({_told(costs)})", {}, tuple(targets)),),
        (
            Growth("jobs", "seconds a job, all jobs' time shared out", _by_job(spans)),
            Growth(
                "jobs", "CPU seconds a job in the hooks", {"mean": tuple(means), "nth": nth}
            ),
        ),
    )


def _told(costs: Costs) -> str:
    """What each hook used for a job, in the mean."""
    by_hook = {name: statistics.mean(job[name] for job in costs.values()) for name in HOOKS}
    return ", ".join(f"{name} {mean_s:.2f}" for name, mean_s in by_hook.items())


def _by_job(
    spans: Dict[str, List[Tuple[float, float]]],
) -> Dict[str, Tuple[Tuple[float, float], ...]]:
    return {
        name: tuple((count, round(span_s / count, 3)) for count, span_s in found)
        for name, found in spans.items()
    }


def flatness(each: Sequence[float]) -> float:
    """The median of the last fifty jobs by that of fifty from the tenth on."""
    first = each[_FLAT_FROM - 1 : _FLAT_FROM - 1 + _FLAT_JOBS]
    return round(statistics.median(each[-_FLAT_JOBS:]) / statistics.median(first), 4)


def totals(costs: Costs) -> List[float]:
    """CPU seconds of all hooks, for each job."""
    return [sum(hooks.values()) for hooks in costs.values()]


def read_costs(log: str) -> Costs:
    """Sum up what the meters wrote.  Raises `ToolError` when a hook failed."""
    costs: Costs = {}
    for line in log.splitlines():
        record = json.loads(line)
        if record["status"] != 0:
            raise ToolError(f"the hook {record['hook']} of job {record['job']} failed")
        hooks = costs.setdefault(record["job"], defaultdict(float, dict.fromkeys(HOOKS, 0.0)))
        hooks[record["hook"]] += record["cpu_s"]
    return costs


def _routed_batch(pool: Pool, count: int) -> Tuple[float, Costs]:
    """Seconds until the last of a batch in capsules is done, and what the hooks used."""
    pool.put(_LOG, "", mode=0o666)
    span_s = _batch(pool, count, "+WantJobRouter = True")
    costs = read_costs(pool.read(_LOG))
    if len(costs) != count:
        raise PoolError(f"{len(costs)} of {count} jobs were translated")
    return span_s, costs


def _batch(pool: Pool, count: int, more: str) -> float:
    """Submit a batch; seconds until the last has left the queue with exit code 0."""
    submit = _SUBMIT.format(count=count, more=more)
    started_s = time.monotonic()
    folder = f"batch-{count}-{'capsules' if more else 'native'}"
    first = pool.submit("alice", folder, submit, {"job.sh": _JOB})
    deadline_s = started_s + 300 + 60 * count
    while _queued(pool):
        if time.monotonic() > deadline_s:
            raise PoolError(f"{count} jobs are not done in time", pool.logs_text(10))
        time.sleep(1)
    span_s = time.monotonic() - started_s
    argv = ["condor_history", str(first.cluster), "-af", "ExitCode"]
    codes = pool.run("root", argv).stdout.split()
    if codes != [b"0"] * count:
        raise PoolError(f"of {count} jobs these exit codes came back: {codes!r:.200}")
    return span_s


def _queued(pool: Pool) -> bool:
    argv = ["condor_q", "-allusers", "-af", "ClusterId"]
    return bool(pool.run("root", argv).stdout.strip())
