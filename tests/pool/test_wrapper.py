"""Jobs that ask their execute point for a machine: its job wrapper packs them in the slot."""

from __future__ import annotations

import os
import signal
from typing import Iterator

import pytest

from tests.pool.jobs import TIMEOUT_S
from tests.pool.packed import RICH, RICH_INPUT, RICH_SUBMIT, assert_rich_ended
from tests.pool.plugin import wrapped
from tests.pool.pool import RUNNING, JobId, Pool
from tests.pool.processes import machines

pytestmark = pytest.mark.pool
_CONFIG = "97-wrapper"
SUBMIT = """\
executable = job.sh
output = out
error = err
log = log
request_memory = 128
requirements = HasVMCapsuleWrapper
+WantVMCapsule = true
{more}
queue
"""


@pytest.fixture(scope="module", autouse=True)
def wrapper(pool: Pool) -> Iterator[None]:
    """The pool with what the printed configuration says of a job wrapper."""
    pool.configure(_CONFIG, wrapped())
    pool.reconfigure()
    yield
    pool.unconfigure(_CONFIG)
    pool.reconfigure()


def submit(pool: Pool, folder: str, script: str, more: str = "", **files: str) -> JobId:
    job = {"job.sh": script if script.startswith("#!") else f"#!/bin/sh\n{script}\n", **files}
    return pool.submit("alice", folder, SUBMIT.format(more=more), job)


@pytest.fixture(scope="module")
def rich_job(pool: Pool) -> JobId:
    # What only Python can hand on is handed on, too.
    environment = "FOO='a b' PATH=/bin:/usr/bin PYTHONHOME=/nowhere a-b=odd"
    more = f'{RICH_SUBMIT}environment = "{environment}"'
    return submit(pool, "wr-rich", RICH, more, **RICH_INPUT)


PLAIN_ENVIRONMENT = """environment = "a-b=odd PWD=/home/alice FOO='a b'" """


@pytest.fixture(scope="module")
def plain_job(pool: Pool) -> JobId:
    text = SUBMIT.format(more=PLAIN_ENVIRONMENT).replace("+Want", "+Other")
    script = "#!/bin/sh\nhostname; tr '\\0' '\\n' </proc/$$/environ >environ; exit 3\n"
    return pool.submit("alice", "wr-plain", text, {"job.sh": script})


@pytest.fixture(scope="module")
def killed_job(pool: Pool) -> JobId:
    return submit(pool, "wr-killed", "echo begun; kill -9 $$")


@pytest.mark.usefixtures("all_submitted")
def test_what_htcondor_does_around_a_job_it_does_around_the_machine(
    pool: Pool, rich_job: JobId
) -> None:
    ad = assert_rich_ended(pool, rich_job, "wr-rich")
    assert ad.integer("NumJobCompletions") == 2
    assert pool.read("/home/alice/wr-rich/err") == ""


def test_other_jobs_do_not_notice(pool: Pool, plain_job: JobId) -> None:
    assert pool.wait(plain_job, TIMEOUT_S).integer("ExitCode") == 3
    assert pool.read("/home/alice/wr-plain/out") == f"{pool.space.host_name}\n"
    environment = pool.read("/home/alice/wr-plain/environ").splitlines()
    # A shell keeps neither of them as it is.
    assert {"a-b=odd", "PWD=/home/alice", "FOO=a b"} <= set(environment)


def test_death_by_signal_is_the_jobs(pool: Pool, killed_job: JobId) -> None:
    ad = pool.wait(killed_job, TIMEOUT_S)
    assert (ad.boolean("ExitBySignal"), ad.integer("ExitSignal")) == (True, 9)
    assert pool.read("/home/alice/wr-killed/out") == "begun\n"


def test_a_machine_that_is_lost_is_no_end_of_the_job(pool: Pool) -> None:
    # Not submitted with the others: it would have ended before its machine is looked for.
    lost_job = submit(pool, "wr-lost", "sleep 20; echo ended")

    def is_running() -> bool:
        return any(ad.integer("JobStatus") == RUNNING for ad in pool.queue(lost_job))

    pool.until(is_running, TIMEOUT_S, "the job to run")
    pool.until(lambda: bool(machines(pool)), TIMEOUT_S, "its machine to run")
    for pid in machines(pool):
        os.kill(pid, signal.SIGKILL)
    ad = pool.wait(lost_job, TIMEOUT_S)
    assert (ad.integer("ExitCode"), ad.integer("NumJobCompletions")) == (0, 1)
    assert (ad.integer("NumShadowStarts") or 0) > 1
    assert pool.read("/home/alice/wr-lost/out") == "ended\n"
    log = pool.read("/home/alice/wr-lost/log")
    assert "The job wrapper failed to execute the job: vmcapsule: " in log


def test_nothing_is_left(pool: Pool) -> None:
    assert machines(pool) == []
