"""VMware jobs of HTCondor's VM universe, on today's HTCondor, through our own vm-gahp.

The route is the one that is printed for the ad template ``vmware``, as an administrator would
have it.  The jobs of all tests that are wanted are submitted before the first test waits for
one: a starter takes a minute for each anyhow.  What befalls such jobs is in
``test_vmware_faults``.
"""

from __future__ import annotations

import re
from typing import Iterator, List

import pytest

from tests.pool import jobs
from tests.pool.daemons import LOGS
from tests.pool.jobs import TIMEOUT_S, submit
from tests.pool.own_gahp import (
    advertised,
    assert_all_gone,
    completions,
    vm_route,
    wait_for_machine,
    wait_for_vms,
    wait_until_left,
)
from tests.pool.pool import HELD, JobId, Pool

pytestmark = [pytest.mark.pool, pytest.mark.usefixtures("all_submitted")]


@pytest.fixture(scope="module", autouse=True)
def route(pool: Pool) -> Iterator[None]:
    """The pool with the route of VMware jobs."""
    with vm_route(pool, "vmware"):
        yield


@pytest.fixture(scope="module")
def removed_job(pool: Pool) -> JobId:
    return submit(pool, "vm-removed", "sleep 500")


@pytest.fixture(scope="module")
def paused_job(pool: Pool) -> JobId:
    return submit(pool, "vm-paused", "sleep 500")


@pytest.fixture(scope="module")
def example_job(pool: Pool) -> JobId:
    return jobs.submit_example(pool, "vm-words")


@pytest.fixture(scope="module")
def seven_job(pool: Pool) -> JobId:
    return submit(pool, "vm-seven", "echo tried; exit 7", "max_retries = 2\nqueue")


@pytest.fixture(scope="module")
def killed_job(pool: Pool) -> JobId:
    return submit(pool, "vm-killed", "kill -9 $$")


@pytest.fixture(scope="module")
def five_job(pool: Pool) -> JobId:
    return submit(pool, "vm-five", "exit 5", "on_exit_hold = ExitCode =?= 5\nqueue")


@pytest.fixture(scope="module")
def many_job(pool: Pool) -> List[JobId]:
    return jobs.submit_many(pool, "vm-many")


def test_an_execute_point_has_vms_though_htcondor_has_no_vmware(pool: Pool) -> None:
    _, vm_type, memory_mib, hypervisor = advertised(pool)
    assert vm_type == "vmware" and int(memory_mib) > 0
    assert re.fullmatch(r"qemu [0-9.]+", hypervisor)


def test_nothing_is_left_of_jobs_taken_away_as_they_start(
    pool: Pool, removed_job: JobId, paused_job: JobId
) -> None:
    machines = {}
    for job, command in ((removed_job, "condor_rm"), (paused_job, "condor_hold")):
        machines[job] = wait_for_machine(pool, job)
        pool.run("alice", [command, str(job)])
    for job, machine in machines.items():
        wait_until_left(pool, job, machine)
    pool.path("/home/alice/vm-paused/job.sh").write_text("#!/bin/sh\necho released\n")
    pool.run("alice", ["condor_release", str(paused_job)])


@pytest.mark.representative
def test_the_example_runs_in_a_capsule_as_it_is(pool: Pool, example_job: JobId) -> None:
    jobs.assert_example_ended(pool, "vm-words", example_job, TIMEOUT_S)


@pytest.mark.representative
def test_a_failing_job_is_retried_as_often_as_it_says(pool: Pool, seven_job: JobId) -> None:
    ad = pool.wait(seven_job, TIMEOUT_S)
    assert (ad.integer("ExitCode"), completions(pool, seven_job)) == (7, 3)
    assert pool.read("/home/alice/vm-seven/out") == "tried\n"


@pytest.mark.representative
def test_a_job_that_was_killed_is_not_taken_for_a_killed_gahp(
    pool: Pool, killed_job: JobId
) -> None:
    jobs.assert_killed(pool, "vm-killed", killed_job, TIMEOUT_S)
    assert completions(pool, killed_job) == 1


@pytest.mark.representative
def test_a_job_is_held_at_its_end_as_it_says(pool: Pool, five_job: JobId) -> None:
    ad = pool.wait(five_job, TIMEOUT_S, until=(HELD,))
    assert "ExitCode" in (ad.string("HoldReason") or "")
    pool.run("alice", ["condor_rm", str(five_job)])


def test_a_held_job_that_is_released_runs_anew(pool: Pool, paused_job: JobId) -> None:
    assert pool.wait(paused_job, TIMEOUT_S).integer("ExitCode") == 0
    assert pool.read("/home/alice/vm-paused/out") == "released\n"


def test_all_jobs_of_a_cluster_run_once_each(pool: Pool, many_job: List[JobId]) -> None:
    jobs.assert_many_ended(pool, "vm-many", many_job, 2 * TIMEOUT_S)


@pytest.mark.representative
def test_nothing_is_left_of_all_these(pool: Pool) -> None:
    assert_all_gone(pool)


def test_an_administrator_is_told_why_a_machine_has_no_vms(pool: Pool) -> None:
    pool.configure("90-typo", "VM_CAPSULE_HYPERVISOR = vbox\n")
    try:
        pool.restart("STARTD")
        pool.until(lambda: advertised(pool)[0] != "true", 90, "the startd to have no VMs")
        told = "VM_CAPSULE_HYPERVISOR = vbox: there is no such hypervisor"
        pool.until(lambda: told in pool.read(f"{LOGS}/StartLog"), 30, "the StartLog to say why")
    finally:
        pool.unconfigure("90-typo")
        pool.restart("STARTD")
    wait_for_vms(pool)
