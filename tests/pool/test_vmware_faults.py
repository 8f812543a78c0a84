"""What befalls users' VMware jobs: processes that are killed, guests that panic, disks that are
gone, a vm-gahp that is broken, a startd that is restarted.

A job runs again by itself, or is held with words that a person understands; no machine is left,
and the execute point serves the next job.  The jobs of the first tests run side by side.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Callable, Iterator

import pytest

from tests.pool.faults import FOLDER, faulty_hooks
from tests.pool.jobs import (
    TIMEOUT_S,
    copy_of,
    release,
    submit,
    try_here_again,
    try_now,
    waiting_copy,
)
from tests.pool.own_gahp import (
    advertised,
    assert_all_gone,
    vm_route,
    wait_for_gahp,
    wait_for_machine,
    wait_until_known,
)
from tests.pool.plugin import HOME
from tests.pool.pool import HELD, JobId, Pool
from tests.pool.processes import is_gone, machines, of_job, parent_of
from vmcapsule.slot.program import PROGRAM_HOME

pytestmark = [pytest.mark.pool, pytest.mark.usefixtures("all_submitted")]
DONE = "echo done; exit 3"
#: Only the first run is too long: it is there as long as a test needs it.
SCRIPT = f"""grep -qx 'NumJobStarts = 0' "$_CONDOR_JOB_AD" && sleep 999; {DONE}"""
#: Two tries are enough to see that there is more than one, and an end.
TWO_TRIES = f"CONDOR_CLASSAD_TEMPLATE={FOLDER}/two.classad"
PANIC = "open('/proc/sysrq-trigger', 'w').write('c')\n"
#: The template's disk, in the folder to which HTCondor has brought it.
BASE_DISK = "system.vmdk"


@pytest.fixture(scope="module", autouse=True)
def route(pool: Pool) -> Iterator[None]:
    """The pool with the route of VMware jobs, whose hooks a job may configure."""
    with vm_route(pool, "vmware"):
        template = pool.read(f"{HOME}/templates/vmware.classad")
        fewer = template.replace("VmCapsuleMaxTries = 3", "VmCapsuleMaxTries = 2")
        assert fewer != template
        pool.put(f"{FOLDER}/two.classad", fewer)
        pool.put(f"{FOLDER}/panic.py", PANIC)
        with faulty_hooks(pool):
            yield


def knobs(*words: str) -> str:
    """What is said of a job beside `SUBMIT`, so that its hooks are configured."""
    return f'+FaultKnobs = "{" ".join(words)}"\nqueue'


@pytest.fixture(scope="module")
def gahp_job(pool: Pool) -> JobId:
    return submit(pool, "vm-gahp", SCRIPT)


@pytest.fixture(scope="module")
def starter_job(pool: Pool) -> JobId:
    return submit(pool, "vm-starter", SCRIPT)


@pytest.fixture(scope="module")
def panic_job(pool: Pool) -> JobId:
    more = knobs(TWO_TRIES, f"INIT_SCRIPT_PATH={FOLDER}/panic.py")
    return submit(pool, "vm-panic", "exit 0", more)


@pytest.fixture(scope="module")
def disk_job(pool: Pool) -> JobId:
    """A job of which the first run has lost the base disk."""
    job = submit(pool, "vm-disk", DONE, knobs(TWO_TRIES))
    with before_its_machine_starts(pool, job) as folder:
        (folder / BASE_DISK).unlink()
    return job


@pytest.fixture(scope="module")
def machine_job(pool: Pool) -> JobId:
    """A job of which the first run has lost its machine."""
    job = submit(pool, "vm-machine", SCRIPT)
    os.kill(wait_for_machine(pool, job), signal.SIGKILL)
    return job


@contextlib.contextmanager
def before_its_machine_starts(pool: Pool, job: JobId) -> Iterator[Path]:
    """The folder of a run of ``job`` when its files have come, and nothing goes on there."""
    # The starter talks with a gahp for seconds before it asks for the machine.
    gahp = wait_for_gahp(pool, job)
    os.kill(gahp, signal.SIGSTOP)
    try:
        assert of_job(machines(pool), job) is None, "the machine has started before"
        yield Path(f"/proc/{gahp}/cwd")
    finally:
        os.kill(gahp, signal.SIGCONT)


def assert_done(pool: Pool, folder: str, job: JobId) -> None:
    """The job has ended as it should, and its output is there."""
    assert pool.wait(job, TIMEOUT_S).integer("ExitCode") == 3
    assert pool.read(f"/home/alice/{folder}/out") == "done\n"


# Side by side: first what befalls them; those that are tried again by themselves, two minutes
# after a run, before those whose first run has no end


def test_a_job_whose_machine_was_killed_is_run_again_after_a_while(
    pool: Pool, machine_job: JobId
) -> None:
    try_here_again(pool, machine_job, 1)


def test_a_guest_that_panics_is_run_again_after_a_while(pool: Pool, panic_job: JobId) -> None:
    try_here_again(pool, panic_job, 1)


def test_a_job_whose_base_disk_is_gone_is_run_again_after_a_while(
    pool: Pool, disk_job: JobId
) -> None:
    try_here_again(pool, disk_job, 1)
    reason = copy_of(pool, disk_job).string("ChirpVmCapsuleReason") or ""
    assert BASE_DISK in reason and "No such file or directory" in reason
    with before_its_machine_starts(pool, disk_job) as folder:
        os.chown(folder / BASE_DISK, 0, 0)
        (folder / BASE_DISK).chmod(0)


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


# What becomes of them


def test_a_guest_that_panics_again_holds_the_job_and_its_reason_says_so(
    pool: Pool, panic_job: JobId
) -> None:
    ad = pool.wait(panic_job, TIMEOUT_S, until=(HELD,))
    expected = (
        f"vmcapsule: the guest did not report in 2 runs; the last was on "
        f"{pool.space.host_name}: the guest's kernel panicked: Kernel panic - not syncing"
    )
    assert expected in (ad.string("HoldReason") or "")
    assert (ad.integer("HoldReasonCode"), ad.integer("HoldReasonSubCode")) == (3, 76)
    pool.run("alice", ["condor_rm", str(panic_job)])


def test_a_base_disk_that_nobody_may_read_holds_the_job_and_its_reason_says_so(
    pool: Pool, disk_job: JobId
) -> None:
    ad = pool.wait(disk_job, TIMEOUT_S, until=(HELD,))
    reason = ad.string("HoldReason") or ""
    assert reason.startswith("vmcapsule: the guest did not report in 2 runs")
    assert BASE_DISK in reason and "Permission denied" in reason
    release(pool, disk_job)


def test_jobs_that_lost_what_ran_them_end_right(
    pool: Pool, gahp_job: JobId, starter_job: JobId, machine_job: JobId
) -> None:
    for name, job in (("gahp", gahp_job), ("starter", starter_job), ("machine", machine_job)):
        assert_done(pool, f"vm-{name}", job)


def test_a_job_that_has_its_disks_again_ends_right(pool: Pool, disk_job: JobId) -> None:
    assert_done(pool, "vm-disk", disk_job)


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


def test_a_startd_that_is_restarted_or_killed_has_its_jobs_run_again(pool: Pool) -> None:
    # As long as HTCondor waits for an execute point that says nothing any more.
    more = "job_lease_duration = 20\nqueue"
    job = submit(pool, "vm-startd", SCRIPT.replace("= 0", "= [01]"), more)
    for sig in (signal.SIGTERM, signal.SIGKILL):
        machine = wait_for_machine(pool, job)
        wait_until_known(pool, wait_for_gahp(pool, job))
        pool.restart("STARTD", sig)
        pool.until(lambda machine=machine: is_gone(machine), 120, "the machine to be gone")  # type: ignore[misc]
        waiting_copy(pool, job, "LastVacateTime > 0")
        try_now(pool, job)
    assert_done(pool, "vm-startd", job)
    assert_all_gone(pool)
