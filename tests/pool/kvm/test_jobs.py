"""Users' jobs as KVM jobs: HTCondor's own vm-gahp has a real libvirt run their machines.

The jobs of all tests that are wanted, but for a cluster of many, are submitted before the
first test waits for one: a starter takes a minute or more for each anyhow.
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.pool import jobs
from tests.pool.daemons import LOGS
from tests.pool.jobs import copy_of, submit
from tests.pool.kvm.jobs import (
    TIMEOUT_S,
    assert_all_gone,
    machine_of,
    user_of,
    wait_for_machine,
)
from tests.pool.kvm.libvirt import Libvirt
from tests.pool.pool import HELD, REMOVED, JobId, Pool
from vmcapsule.errors import GuestError

pytestmark = [pytest.mark.pool, pytest.mark.kvm, pytest.mark.usefixtures("all_submitted")]
#: Not routed: HTCondor's own user, who asks for a disk that everybody may read.
FOREIGN = """\
universe = vm
executable = foreign
vm_type = kvm
vm_memory = 64
vm_networking = false
vm_disk = /etc/passwd:vda:r:raw
should_transfer_files = YES
when_to_transfer_output = ON_EXIT
requirements = HasVMCapsuleLibvirt
log = log
queue
"""


@pytest.fixture(scope="module")
def example_job(pool: Pool) -> JobId:
    return jobs.submit_example(pool, "words")


@pytest.fixture(scope="module")
def seven_job(pool: Pool) -> JobId:
    return submit(pool, "seven", "echo tried; exit 7", "max_retries = 2\nqueue")


@pytest.fixture(scope="module")
def five_job(pool: Pool) -> JobId:
    return submit(pool, "five", "exit 5", "on_exit_hold = ExitCode =?= 5\nqueue")


@pytest.fixture(scope="module")
def killed_job(pool: Pool) -> JobId:
    return submit(pool, "killed", "kill -9 $$")


@pytest.fixture(scope="module")
def lost_job(pool: Pool) -> JobId:
    return submit(pool, "lost", "sleep 9999")


@pytest.fixture(scope="module")
def removed_job(pool: Pool) -> JobId:
    return submit(pool, "removed", "sleep 9999")


@pytest.fixture(scope="module")
def held_job(pool: Pool) -> JobId:
    return submit(pool, "held", "sleep 9999")


@pytest.fixture(scope="module")
def foreign_job(pool: Pool) -> JobId:
    return pool.submit("alice", "foreign", FOREIGN)


# What befalls machines; first, while they are there


def test_a_machine_is_its_jobs_owners_who_may_take_it_away(
    pool: Pool, libvirt: Libvirt, lost_job: JobId, removed_job: JobId, held_job: JobId
) -> None:
    for job, command in ((removed_job, "condor_rm"), (held_job, "condor_hold")):
        machine = wait_for_machine(pool, job)
        assert user_of(machine) == pool.space.account("alice")[0]
        # As it starts: HTCondor's starter only waits then.
        pool.run("alice", [command, str(job)])
    os.kill(wait_for_machine(pool, lost_job), signal.SIGKILL)
    assert pool.wait(removed_job).integer("JobStatus") == REMOVED
    assert pool.wait(held_job, until=(HELD,)).integer("JobStatus") == HELD
    for job in (removed_job, held_job):
        pool.until(
            lambda job=job: (
                machine_of(pool, job) is None
                and not pool.queue(  # type: ignore[misc]
                    f'RoutedFromJobId == "{job}"'
                )
            ),
            120,
            f"the machine and the copy of {job} to go",
        )
    pool.put("/home/alice/held/job.sh", "#!/bin/sh\necho ran; exit 3\n", mode=0o755)
    pool.run("alice", ["condor_release", str(held_job)])


def test_a_guest_that_was_killed_ends_the_job_which_says_so(
    pool: Pool, lost_job: JobId
) -> None:
    ad = pool.wait(lost_job, TIMEOUT_S)
    assert ad.integer("ExitCode") == GuestError.exit_status
    assert "the guest left no exit record" in (ad.string("ExitReason") or "")


# What becomes of the others


def test_the_example_runs_in_a_capsule_as_it_is(pool: Pool, example_job: JobId) -> None:
    jobs.assert_example_ended(pool, "words", example_job, TIMEOUT_S)
    copy = copy_of(pool, example_job)
    assert (copy.integer("JobUniverse"), copy.string("JobVMType")) == (13, "kvm")


def test_an_exit_code_is_the_jobs_own_and_nothing_is_retried(
    pool: Pool, seven_job: JobId
) -> None:
    ad = pool.wait(seven_job, TIMEOUT_S)
    assert (ad.integer("ExitCode"), ad.boolean("ExitBySignal")) == (7, False)
    assert pool.read("/home/alice/seven/out") == "tried\n"
    copy = copy_of(pool, seven_job)
    assert (copy.integer("ExitCode"), copy.integer("NumJobCompletions")) == (0, 1)


def test_a_hold_at_a_jobs_end_does_nothing(pool: Pool, five_job: JobId) -> None:
    ad = pool.wait(five_job, TIMEOUT_S)
    assert ad.integer("ExitCode") == 5


def test_death_by_signal_is_in_the_users_log(pool: Pool, killed_job: JobId) -> None:
    jobs.assert_killed(pool, "killed", killed_job, TIMEOUT_S)


def test_a_held_job_that_is_released_runs_anew(pool: Pool, held_job: JobId) -> None:
    assert pool.wait(held_job, TIMEOUT_S).integer("ExitCode") == 3
    assert pool.read("/home/alice/held/out") == "ran\n"


def test_a_disk_outside_of_the_jobs_folder_holds_the_job(
    pool: Pool, foreign_job: JobId
) -> None:
    ad = pool.wait(foreign_job, TIMEOUT_S, until=(HELD,))
    assert "VMGAHP_ERR_BAD_IMAGE" in (ad.string("HoldReason") or "")
    log = pool.read(f"{LOGS}/VMGahpLog")
    assert 'VMPARAM_vm_Disk = "/etc/passwd:vda:r:raw": no list of NAME:DEVICE' in log
    pool.run("alice", ["condor_rm", str(foreign_job)])


def test_all_jobs_of_a_cluster_run_once_each(pool: Pool) -> None:
    many = jobs.submit_many(pool, "many")
    jobs.assert_many_ended(pool, "many", many, 2 * TIMEOUT_S)
    pool.until(lambda: not any(jobs.capsules(pool, job) for job in many), 90, "no capsule")


def test_nothing_is_left_of_all_these(pool: Pool, libvirt: Libvirt) -> None:
    assert_all_gone(pool, libvirt)
