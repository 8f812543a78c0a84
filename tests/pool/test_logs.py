"""The logs of the hooks in a real pool: HTCondor's LOG is closed to the jobs' owners."""

from __future__ import annotations

import os
import signal
from typing import Iterator

import pytest

from tests.pool.daemons import LOGS
from tests.pool.plugin import HOME, SCRATCH
from tests.pool.pool import JobId, Pool

pytestmark = pytest.mark.pool
TIMEOUT_S = 600
TRANSLATED, EXITED = f"{LOGS}/VmCapsuleTransLog", f"{LOGS}/VmCapsuleExitLog"
USERS = ("alice", "bob")
SUBMIT = """\
executable = job.sh
log = log
request_memory = 64
+WantJobRouter = True
queue
"""


def submit(pool: Pool, user: str, folder: str) -> JobId:
    return pool.submit(user, folder, SUBMIT, {"job.sh": "#!/bin/sh\nexit 3\n"})


def log(pool: Pool, inside: str) -> str:
    return pool.read(inside) if pool.path(inside).exists() else ""


def is_logged(pool: Pool, user: str, job: JobId) -> bool:
    """Do both logs hold all that befell the job, as its owner's?"""
    translated, exited = log(pool, TRANSLATED), log(pool, EXITED)
    return (
        f" {user} job {job}: translated\n" in translated
        and f" {user} job {job}: delivered: by HTCondor, or before\n" in exited
    )


def waiting(pool: Pool, kind: str, user: str) -> str:
    """Where events wait for root, who puts them into the log."""
    return f"{SCRATCH}/events-{kind}-{pool.space.account(user)[0]}"


@pytest.fixture(scope="module")
def ended(pool: Pool) -> dict[str, JobId]:
    jobs = {user: submit(pool, user, "logged") for user in USERS}
    for job in jobs.values():
        assert pool.wait(job, timeout_s=TIMEOUT_S).integer("ExitCode") == 3
    return jobs


def test_both_logs_hold_what_befell_everybodys_jobs(
    pool: Pool, ended: dict[str, JobId]
) -> None:
    pool.until(
        lambda: all(is_logged(pool, user, job) for user, job in ended.items()),
        60,
        "both logs to hold all events",
    )
    for path in (TRANSLATED, EXITED):
        made, folder = pool.path(path).stat(), pool.path(LOGS).stat()
        assert (made.st_uid, made.st_mode & 0o777) == (folder.st_uid, 0o644)


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("kind", ["translate", "exit"])
def test_nobody_else_reads_changes_or_removes_what_waits(pool: Pool, kind: str) -> None:
    theirs = waiting(pool, kind, "alice")
    assert pool.path(theirs).stat().st_mode & 0o777 == 0o600
    for attempt in (f"cat {theirs}", f": >{theirs}", f"rm -f {theirs}", f": >>{TRANSLATED}"):
        done = pool.run("bob", ["sh", "-c", attempt], check=False)
        assert done.returncode != 0 and done.stdout == b"", attempt
    assert pool.path(theirs).exists()


@pytest.fixture
def no_gc(pool: Pool) -> Iterator[int]:
    """'vmcapsule gc' stopped; its process number."""
    (pid,) = (n for n, argv in pool.space.processes().items() if f"{HOME}/hooks/gc" in argv)
    os.kill(pid, signal.SIGSTOP)
    yield pid
    os.kill(pid, signal.SIGCONT)


def test_where_nothing_can_wait_the_job_ends_all_the_same(
    pool: Pool, ended: dict[str, JobId], no_gc: int
) -> None:
    for kind in ("translate", "exit"):
        pool.path(waiting(pool, kind, "alice")).unlink(missing_ok=True)
        pool.run("bob", ["mkfifo", "-m", "666", waiting(pool, kind, "alice")])
    job = submit(pool, "alice", "squatted")
    assert pool.wait(job, timeout_s=TIMEOUT_S).integer("ExitCode") == 3
    # What a hook prints on standard error is there.
    assert f" alice job {job}: translated" in pool.daemons.log("JOB_ROUTER")
    assert f" alice job {job}: delivered: by HTCondor" in pool.daemons.log("JOB_ROUTER")
    os.kill(no_gc, signal.SIGCONT)
    theirs = [pool.path(waiting(pool, kind, "alice")) for kind in ("translate", "exit")]
    pool.until(lambda: all(path.is_file() for path in theirs), 60, "gc to clear the way")
    # What was in the way is bob's, and was put aside: it stays until he takes it away.
    aside = list(pool.path(SCRATCH).glob(".events-*"))
    assert [path.is_fifo() for path in aside] == [True, True]
    pool.run("bob", ["rm", *(f"{SCRATCH}/{path.name}" for path in aside)])
