"""Users' jobs, as they are submitted on every route, and what there is of them in the pool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import List, Mapping, Optional

from tests.pool.plugin import SCRATCH
from tests.pool.pool import HELD, IDLE, JobId, Pool
from vmcapsule.classad.ads import Ad

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

#: Emulated, and several machines at once.
TIMEOUT_S = 600
#: As many jobs as there are in a cluster.
MANY = 20

SUBMIT = """\
executable = job.sh
output = out
error = err
log = log
request_memory = 64
+WantJobRouter = True
{more}
"""


# How they come


def submit(
    pool: Pool,
    folder: str,
    script: str,
    more: str = "queue",
    files: Optional[Mapping[str, str]] = None,
    options: tuple[str, ...] = (),
) -> JobId:
    """Submit a script of alice's, with what ``more`` says beside `SUBMIT`."""
    job = {"job.sh": f"#!/bin/sh\n{script}\n", **(files or {})}
    return pool.submit("alice", folder, SUBMIT.format(more=more), job, options)


def submit_example(pool: Pool, folder: str) -> JobId:
    """Submit the example of the documentation as it is, but that it wants a capsule."""
    text = (EXAMPLES / "wordcount.sub").read_text()
    files = {name: (EXAMPLES / name).read_text() for name in ("wordcount.sh", "text file.txt")}
    return pool.submit("alice", folder, text, files, ["-append", "+WantJobRouter = True"])


def submit_many(pool: Pool, folder: str) -> List[JobId]:
    """Submit a cluster of `MANY` jobs: each has an input, outputs and an exit code its own."""
    more = (
        "arguments = $(Process)\n"
        "transfer_input_files = in.$(Process)\n"
        "output = out.$(Process)\n"
        "error = err.$(Process)\n"
        f"queue {MANY}"
    )
    files = {f"in.{proc}": f"for process {proc}\n" for proc in range(MANY)}
    script = "cat in.$1; seq $1 >made.$1; exit $1"
    first = submit(pool, folder, script, more, files)
    return [JobId(first.cluster, proc) for proc in range(MANY)]


# What becomes of them


def copy_of(pool: Pool, job: JobId) -> Ad:
    """The one copy that the router made of ``job``."""
    (copy,) = pool.routed(job)
    return copy


def copies(pool: Pool, job: JobId) -> List[object]:
    """The JobStatus of each routed copy of ``job`` that is in the queue."""
    return [ad.value("JobStatus") for ad in pool.queue(f'RoutedFromJobId == "{job}"')]


def capsules(pool: Pool, job: JobId) -> List[str]:
    """Whatever there is in scratch for ``job``."""
    return [path.name for path in pool.path(SCRATCH).iterdir() if f"-{job}-" in path.name]


def events(pool: Pool, folder: str, job: JobId) -> List[str]:
    """The numbers of the events in the user's log that are of ``job``, in their order."""
    one = rf"^(\d{{3}}) \({job.cluster:03}\.{job.proc:03}\."
    return re.findall(one, pool.read(f"/home/alice/{folder}/log"), re.MULTILINE)


def assert_example_ended(pool: Pool, folder: str, job: JobId, timeout_s: float) -> str:
    """The example ran in a capsule, and left what it leaves; returns what it printed."""
    assert pool.wait(job, timeout_s).integer("ExitCode") == 0
    printed = pool.read(f"/home/alice/{folder}/wordcount.out")
    assert "I am alice on capsule" in printed
    assert pool.read(f"/home/alice/{folder}/counts.txt").split()[:2] == ["7", "the"]
    log = pool.read(f"/home/alice/{folder}/wordcount.log")
    assert "Normal termination (return value 0)" in log
    return printed


def assert_killed(pool: Pool, folder: str, job: JobId, timeout_s: float) -> None:
    """The job killed itself by signal 9, and its user is told so."""
    ad = pool.wait(job, timeout_s)
    assert (ad.boolean("ExitBySignal"), ad.integer("ExitSignal")) == (True, 9)
    assert "Abnormal termination (signal 9)" in pool.read(f"/home/alice/{folder}/log")


def assert_many_ended(pool: Pool, folder: str, jobs: List[JobId], timeout_s: float) -> None:
    """Each job of `submit_many` ran once, and left its own outputs and exit code, no more."""
    for proc, job in enumerate(jobs):
        assert pool.wait(job, timeout_s).integer("ExitCode") == proc
        assert pool.read(f"/home/alice/{folder}/out.{proc}") == f"for process {proc}\n"
        counted = "".join(f"{n}\n" for n in range(1, proc + 1))
        assert pool.read(f"/home/alice/{folder}/made.{proc}") == counted
        assert events(pool, folder, job) == ["000", "001", "005"], job
        assert copy_of(pool, job).integer("NumJobStarts") == 1
    past = pool.past(f"ClusterId == {jobs[0].cluster}")
    assert sorted(ad.integer("ProcId") or 0 for ad in past) == list(range(MANY))
    kinds = ("in", "out", "err", "made")
    expected = {f"{kind}.{proc}" for kind in kinds for proc in range(MANY)}
    found = {path.name for path in pool.path(f"/home/alice/{folder}").iterdir()}
    assert found == expected | {"job.sh", "job.sub", "log"}


# How they are helped on


def try_here_again(pool: Pool, job: JobId, runs: int) -> None:
    """See that the slot is not tried again after ``runs`` without a report; then it is.

    There is no other machine in this pool, and the two minutes are too long to wait.
    """
    copy = waiting_copy(pool, job, f"ChirpVmCapsuleUnreported == {runs}")
    assert copy.string("MachineAttrMachine0") == pool.space.host_name
    try_now(pool, job)


def waiting_copy(pool: Pool, job: JobId, after: str) -> Ad:
    """Wait until the copy of ``job`` is idle for longer than where it may start; return it.

    ``after``: an expression over the copy, by which it has had the runs that it waits after.
    """
    # The negotiator of this pool comes by every two seconds.
    late = f"JobStatus == {IDLE} && time() - EnteredCurrentStatus >= 9"
    waits = f'RoutedFromJobId == "{job}" && {late} && {after}'
    found: List[Ad] = []

    def is_waiting() -> bool:
        found[:] = pool.queue(waits)
        source = [ad.integer("JobStatus") for ad in pool.queue(job)]
        assert found or source not in ([], [HELD]), f"{job} has ended or is held before"
        return bool(found)

    pool.until(is_waiting, TIMEOUT_S, f"the copy of {job} to wait, with {after}")
    return found[0]


def try_now(pool: Pool, job: JobId) -> None:
    """Have the copy of ``job`` forget when its last run ended in vain, and so where."""
    changes = ["ChirpVmCapsuleUntil", "0", "LastVacateTime", "0"]
    constraint = ["-constraint", f'RoutedFromJobId == "{job}"']
    pool.run("root", ["condor_qedit", *constraint, *changes])


def release(pool: Pool, job: JobId) -> None:
    """Release a held job when its copy has left the queue: it would be held once more."""
    pool.until(lambda: not copies(pool, job), 120, f"the copy of {job} to go")
    pool.run("alice", ["condor_release", str(job)])
