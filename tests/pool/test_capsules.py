"""Users' jobs through the printed route of a real pool: their logs look as they always do.

The jobs of all tests that are wanted are submitted before the first test waits for one:
they run side by side.  What befalls them on the way is in ``test_faults``.
"""

from __future__ import annotations

import re
import signal
from typing import Iterator, List

import pytest

from tests.pool import jobs
from tests.pool.faults import assert_quiet
from tests.pool.jobs import TIMEOUT_S, copies, events, submit
from tests.pool.packed import in_slot
from tests.pool.pool import COMPLETED, HELD, REMOVED, RUNNING, JobId, Pool
from tests.pool.processes import machines

pytestmark = [
    *(pytest.mark.pool, pytest.mark.representative),
    pytest.mark.usefixtures("all_submitted"),
]


@pytest.fixture(scope="module", autouse=True)
def route(pool: Pool) -> Iterator[None]:
    with in_slot(pool):
        yield


def assert_gone(pool: Pool, *jobs: JobId) -> None:
    """Nothing is left of these jobs, which alone are in the pool: no copy and no machine."""
    pool.until(
        lambda: not machines(pool) and not any(copies(pool, j) for j in jobs),
        60,
        f"all of {', '.join(map(str, jobs))} to be gone",
    )


# The jobs


@pytest.fixture(scope="module")
def example_job(pool: Pool) -> JobId:
    return jobs.submit_example(pool, "words")


@pytest.fixture(scope="module")
def seven_job(pool: Pool) -> JobId:
    return submit(pool, "seven", "echo tried; exit 7", "max_retries = 2\nqueue")


@pytest.fixture(scope="module")
def killed_job(pool: Pool) -> JobId:
    return submit(pool, "killed", "kill -9 $$")


@pytest.fixture(scope="module")
def spooled_job(pool: Pool) -> JobId:
    more = (
        "transfer_input_files = in\n"
        "transfer_output_files = made, folder\n"
        'transfer_output_remaps = "made = renamed"\n'
        "queue"
    )
    script = "cat in; mkdir folder; echo below >folder/file; echo made >made; exit 4"
    job = submit(pool, "spooled", script, more, {"in": "as it was\n"}, ("-spool",))
    # It is elsewhere by now: what happens here is nothing to the job.
    pool.put("/home/alice/spooled/in", "another\n", owner="alice")
    return job


@pytest.fixture(scope="module")
def many_job(pool: Pool) -> List[JobId]:
    return jobs.submit_many(pool, "many")


@pytest.fixture(scope="module")
def refused_job(pool: Pool) -> JobId:
    return submit(pool, "refused", "exit 0", "request_gpus = 1\nqueue")


# What becomes of them


def test_the_example_runs_in_a_capsule_as_it_is(pool: Pool, example_job: JobId) -> None:
    printed = jobs.assert_example_ended(pool, "words", example_job, TIMEOUT_S)
    assert re.search(r"_CONDOR_SLOT=slot1_\d+ BATCH_SYSTEM=HTCondor\n", printed)


def test_a_job_is_held_that_cannot_be_honoured(pool: Pool, refused_job: JobId) -> None:
    ad = pool.wait(refused_job, timeout_s=TIMEOUT_S, until=(HELD,))
    reason = ad.string("HoldReason") or ""
    assert "RequestGPUs = 1" in reason
    pool.run("alice", ["condor_rm", str(refused_job)])
    assert pool.wait(refused_job).integer("JobStatus") == REMOVED


def test_a_failing_job_is_retried_as_often_as_it_says(pool: Pool, seven_job: JobId) -> None:
    ad = pool.wait(seven_job, timeout_s=TIMEOUT_S)
    assert (ad.integer("ExitCode"), ad.boolean("ExitBySignal")) == (7, False)
    (copy,) = pool.routed(seven_job)
    assert (copy.integer("NumJobCompletions"), copy.integer("JobRunCount")) == (3, 3)
    assert ad.integer("JobRunCount") == 3
    assert "Normal termination (return value 7)" in pool.read("/home/alice/seven/log")
    assert events(pool, "seven", seven_job).count("005") == 1
    # Each run begins anew: only the last one's output is there.
    assert pool.read("/home/alice/seven/out") == "tried\n"


def test_death_by_signal_is_in_the_users_log(pool: Pool, killed_job: JobId) -> None:
    jobs.assert_killed(pool, "killed", killed_job, TIMEOUT_S)


def test_a_spooled_job_is_fetched_with_its_outputs(pool: Pool, spooled_job: JobId) -> None:
    here = pool.path("/home/alice/spooled")

    def is_done() -> bool:
        # Its state is that of the routed job, and so a little ahead of its outputs.
        (ad,) = pool.queue(spooled_job)
        return ad.string("Managed") == "ScheddDone"

    pool.until(is_done, TIMEOUT_S, "the job to be done")
    (ad,) = pool.queue(spooled_job)
    assert (ad.integer("JobStatus"), ad.integer("ExitCode")) == (COMPLETED, 4)
    assert {path.name for path in here.iterdir()} == {"job.sh", "job.sub", "in"}
    spool = pool.run("root", ["condor_config_val", "SPOOL"]).stdout.decode().strip()
    folders = pool.path(spool)
    assert [path for path in folders.rglob(f"cluster{spooled_job.cluster}.*")]
    pool.run("alice", ["condor_transfer_data", str(spooled_job)], cwd="/home/alice")
    made = {path.name: path.read_text() for path in here.iterdir() if path.is_file()}
    assert (made["out"], made["err"], made["renamed"]) == ("as it was\n", "", "made\n")
    assert (here / "folder/file").read_text() == "below\n"
    expected = {"job.sh", "job.sub", "in", "out", "err", "log", "renamed", "folder"}
    assert {path.name for path in here.iterdir()} == expected
    assert events(pool, "spooled", spooled_job) == ["000", "001", "005"]
    assert "(return value 4)" in made["log"]
    # Fetched, it leaves the queue by itself when the schedd next looks, if nobody is quicker.
    pool.run("alice", ["condor_rm", str(spooled_job)], check=False)
    assert pool.wait(spooled_job).integer("ExitCode") == 4
    assert not [path for path in folders.rglob(f"cluster{spooled_job.cluster}.*")]


def test_many_jobs_of_a_cluster_run_once_each(pool: Pool, many_job: List[JobId]) -> None:
    jobs.assert_many_ended(pool, "many", many_job, 2 * TIMEOUT_S)


def test_nothing_is_left_of_all_these(pool: Pool) -> None:
    assert_quiet(pool)


# Held and removed at moments when the router does not look


class Router:
    """The pool's router, which can be made to look away."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def look_away(self) -> None:
        """Stop it where it is."""
        self.pool.daemons.kill("JOB_ROUTER", signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it go on, and wait until it has come round."""
        before = self._rounds()
        self.pool.daemons.kill("JOB_ROUTER", signal.SIGCONT)
        # It may have been stopped half-way, so the first round is not enough.
        self.pool.until(lambda: self._rounds() >= before + 2, 60, "the router to come round")

    def _rounds(self) -> int:
        return self.pool.daemons.log("JOB_ROUTER").count("Checking for candidate jobs")


@pytest.fixture
def router(pool: Pool) -> Iterator[Router]:
    stopped = Router(pool)
    yield stopped
    stopped.go_on()


def hold_and_remove(pool: Pool, held: JobId, removed: JobId) -> None:
    pool.run("alice", ["condor_hold", "-reason", "alice wants", str(held)])
    pool.run("alice", ["condor_rm", str(removed)])


def assert_held_and_removed(pool: Pool, held: JobId, removed: JobId) -> None:
    """Their owner's word counts, nothing is left of them, and nobody manages the held one."""
    assert_gone(pool, held, removed)
    assert pool.wait(removed).integer("JobStatus") == REMOVED
    (ad,) = pool.queue(held)
    assert ad.integer("JobStatus") == HELD
    assert (ad.string("HoldReason") or "").startswith("alice wants")
    assert ad.string("Managed") != "External"


def test_jobs_held_and_removed_before_the_router_sees_them(pool: Pool, router: Router) -> None:
    router.look_away()
    held, removed = (submit(pool, f"unseen{n}", "exit 0") for n in (1, 2))
    hold_and_remove(pool, held, removed)
    router.go_on()
    assert_held_and_removed(pool, held, removed)
    assert not pool.routed(held) and not pool.routed(removed)
    pool.run("alice", ["condor_rm", str(held)])
    assert pool.wait(held).integer("JobStatus") == REMOVED
    assert events(pool, "unseen1", held) == ["000", "012", "009"]
    assert events(pool, "unseen2", removed) == ["000", "009"]


def test_jobs_held_and_removed_while_their_machines_run(pool: Pool) -> None:
    more = "transfer_input_files = seconds\nqueue"
    held, removed = (
        submit(pool, f"running{n}", "sleep $(cat seconds)", more, {"seconds": "9999\n"})
        for n in (1, 2)
    )
    pool.until(lambda: len(machines(pool)) == 2, TIMEOUT_S, "the machines to run")
    for job in (held, removed):
        pool.wait(job, until=(RUNNING,))
    hold_and_remove(pool, held, removed)
    assert_held_and_removed(pool, held, removed)
    pool.put("/home/alice/running1/seconds", "0\n", owner="alice")
    pool.run("alice", ["condor_release", str(held)])
    assert pool.wait(held, timeout_s=TIMEOUT_S).integer("ExitCode") == 0
    # The router logs that the run was evicted when it has cleaned up, and no hold: we do.
    logged = events(pool, "running1", held)
    assert [*logged[:2], *sorted(logged[2:4]), *logged[4:]] == [
        *("000", "001", "004", "012", "013", "001", "005")
    ]
    assert_quiet(pool)
