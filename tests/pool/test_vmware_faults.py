"""What befalls users' VMware jobs: processes that are killed, a vm-gahp that is broken.

A job runs again by itself, no machine is left, and the execute point serves the next job.
The jobs of the first tests run side by side.
"""

from __future__ import annotations

import os
import signal
from typing import Callable, Iterator

import pytest

from tests.pool.jobs import TIMEOUT_S, submit, try_here_again, try_now, waiting_copy
from tests.pool.own_gahp import (
    advertised,
    assert_all_gone,
    vm_route,
    wait_for_gahp,
    wait_for_machine,
    wait_until_known,
)
from tests.pool.pool import JobId, Pool
from tests.pool.processes import is_gone, parent_of
from vmcapsule.slot.program import PROGRAM_HOME

pytestmark = [pytest.mark.pool, pytest.mark.usefixtures("all_submitted")]
DONE = "echo done; exit 3"
#: Only the first run is too long: it is there as long as a test needs it.
SCRIPT = f"""grep -qx 'NumJobStarts = 0' "$_CONDOR_JOB_AD" && sleep 999; {DONE}"""


@pytest.fixture(scope="module", autouse=True)
def route(pool: Pool) -> Iterator[None]:
    """The pool with the route of VMware jobs."""
    with vm_route(pool, "vmware"):
        yield


@pytest.fixture(scope="module")
def gahp_job(pool: Pool) -> JobId:
    return submit(pool, "vm-gahp", SCRIPT)


@pytest.fixture(scope="module")
def starter_job(pool: Pool) -> JobId:
    return submit(pool, "vm-starter", SCRIPT)


@pytest.fixture(scope="module")
def machine_job(pool: Pool) -> JobId:
    """A job of which the first run has lost its machine."""
    job = submit(pool, "vm-machine", SCRIPT)
    os.kill(wait_for_machine(pool, job), signal.SIGKILL)
    return job


def assert_done(pool: Pool, folder: str, job: JobId) -> None:
    """The job has ended as it should, and its output is there."""
    assert pool.wait(job, TIMEOUT_S).integer("ExitCode") == 3
    assert pool.read(f"/home/alice/{folder}/out") == "done\n"


# Side by side: first what befalls them


def kill_and_wait(pool: Pool, job: JobId, victim: Callable[[int], int]) -> None:
    """Kill what ``victim`` says for the gahp of the first run: no process survives that."""
    machine, gahp = wait_for_machine(pool, job), wait_for_gahp(pool, job)
    # A gahp that is killed before the starter knows its machine is as good as none.
    wait_until_known(pool, gahp)
    os.kill(victim(gahp), signal.SIGKILL)
    pool.until(lambda: is_gone(gahp) and is_gone(machine), 30, "gahp and machine to be gone")


def test_a_gahp_that_is_killed_takes_its_machine_along(pool: Pool, gahp_job: JobId) -> None:
    kill_and_wait(pool, gahp_job, lambda gahp: gahp)


def test_a_starter_that_is_killed_takes_gahp_and_machine_along(
    pool: Pool, starter_job: JobId
) -> None:
    kill_and_wait(pool, starter_job, parent_of)


def test_a_job_whose_machine_was_killed_is_run_again_after_a_while(
    pool: Pool, machine_job: JobId
) -> None:
    try_here_again(pool, machine_job, 1)


# What becomes of them


def test_jobs_that_lost_what_ran_them_end_right(
    pool: Pool, gahp_job: JobId, starter_job: JobId, machine_job: JobId
) -> None:
    for name, job in (("gahp", gahp_job), ("starter", starter_job), ("machine", machine_job)):
        assert_done(pool, f"vm-{name}", job)


def test_nothing_is_left_of_all_these(pool: Pool) -> None:
    assert_all_gone(pool)


# What befalls a whole execute point

#: Says what it is, and nothing that makes sense.  (One that does not even say that is waited
#: for by HTCondor for ever.)
RUBBISH = "#!/bin/sh\necho '$VMGahpVersion: 0 $'\nwhile read -r line; do echo rubbish; done\n"


def test_a_machine_whose_gahp_is_broken_is_no_black_hole(pool: Pool) -> None:
    program = pool.path(str(PROGRAM_HOME))
    aside = program.with_suffix(".aside")
    program.rename(aside)
    try:
        job = submit(pool, "vm-broken", DONE)
        tried = waiting_copy(pool, job, "NumShadowStarts > 0").integer("NumShadowStarts")
        pool.put(str(PROGRAM_HOME), RUBBISH, mode=0o755)
        try_now(pool, job)
        waiting_copy(pool, job, f"NumShadowStarts > {tried}")
    finally:
        aside.rename(program)
    try_now(pool, job)
    assert_done(pool, "vm-broken", job)
    assert_all_gone(pool)
    assert advertised(pool)[0] == "true", "it has VMs again, by itself"
