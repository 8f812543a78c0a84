"""What befalls libvirt, a gahp, a starter and the template while users' KVM jobs are there.

A job runs again by itself, or is held with words that a person understands; no machine is left,
and the execute point serves the next job.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Dict, Iterator

import pytest

from tests.pool.daemons import LOGS
from tests.pool.jobs import copy_of, release, submit, try_now, waiting_copy
from tests.pool.kvm.conftest import has_vms
from tests.pool.kvm.jobs import (
    GAHP,
    TIMEOUT_S,
    assert_all_gone,
    machine_of,
    wait_for_machine,
)
from tests.pool.kvm.libvirt import QEMU_HOME, Libvirt
from tests.pool.plugin import DATA
from tests.pool.pool import HELD, IDLE, JobId, Pool
from tests.pool.processes import STARTER, matching

pytestmark = [pytest.mark.pool, pytest.mark.kvm]
#: Long enough for a starter to know its machine, which takes it half a minute.
SCRIPT = "sleep 60; echo done; exit 3"


@pytest.fixture(autouse=True)
def mended(pool: Pool, libvirt: Libvirt) -> Iterator[None]:
    """After each test nothing is left and all is as it should be, whatever came of it."""
    yield
    libvirt.start()
    pool.run("root", ["condor_rm", "-all"], check=False)
    assert_all_gone(pool, libvirt)


def assert_done(pool: Pool, folder: str, job: JobId) -> None:
    """The job has ended as it should, and its output is there."""
    assert pool.wait(job, TIMEOUT_S).integer("ExitCode") == 3
    assert pool.read(f"/home/alice/{folder}/out") == "done\n"


def workplace(machine: int) -> str:
    """The name of the starter's folder in which a machine's disks are: dir_ and its number."""
    words = Path(f"/proc/{machine}/cmdline").read_bytes().decode(errors="replace")
    match = re.search(r"/execute/(dir_\d+)/", words)
    assert match is not None, words
    return match[1]


def gahp_of(pool: Pool, folder: str) -> int:
    for pid in matching(pool, GAHP):
        if f"/{folder}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
            return pid
    raise AssertionError(f"no gahp runs in {folder}")


def starter_of(pool: Pool, folder: str) -> int:
    for pid in matching(pool, STARTER):
        status = Path(f"/proc/{pid}/status").read_text()
        if re.search(rf"^NSpid:.*\t{folder.partition('_')[2]}$", status, re.MULTILINE):
            return pid
    raise AssertionError(f"no starter runs in {folder}")


def knows(pool: Pool, folder: str) -> bool:
    """Is the half minute over in which the starter of a folder only waits?"""
    said = f"(pid:{folder.partition('_')[2]}) StartJob for VM succeeded"
    logs = pool.path(LOGS).glob("StarterLog.*")
    return any(said in path.read_text(errors="replace") for path in logs)


def test_a_job_whose_gahp_or_starter_was_killed_is_run_again(pool: Pool) -> None:
    jobs = {name: submit(pool, name, SCRIPT) for name in ("gahp-early", "gahp-late", "starter")}
    first: Dict[str, int] = {}
    for name, job in jobs.items():
        first[name] = wait_for_machine(pool, job)
        folder = workplace(first[name])
        if name == "gahp-late":
            pool.until(lambda folder=folder: knows(pool, folder), 120, "the starter to know")  # type: ignore[misc]
        victim = starter_of(pool, folder) if name == "starter" else gahp_of(pool, folder)
        os.kill(victim, signal.SIGKILL)
    for name, job in jobs.items():
        assert_done(pool, name, job)
        assert machine_of(pool, job) is None
    assert not [name for name, pid in first.items() if Path(f"/proc/{pid}").exists()]


def test_a_machine_outlives_a_restart_of_libvirt(pool: Pool, libvirt: Libvirt) -> None:
    job = submit(pool, "restart", SCRIPT)
    machine = wait_for_machine(pool, job)
    libvirt.stop(sig=signal.SIGKILL)
    assert Path(f"/proc/{machine}").exists()
    libvirt.start()
    assert_done(pool, "restart", job)
    assert copy_of(pool, job).integer("NumJobStarts") == 1


def test_jobs_that_run_or_come_while_libvirt_is_down(pool: Pool, libvirt: Libvirt) -> None:
    there = submit(pool, "there", "sleep 90; echo done; exit 3")
    machine = wait_for_machine(pool, there)
    folder = workplace(machine)
    pool.until(lambda: knows(pool, folder), 120, "the starter to know its machine")
    libvirt.stop("libvirtd")
    coming = submit(pool, "coming", SCRIPT)
    for job in (there, coming):
        waiting_copy(pool, job, "LastVacateTime > 0")
    assert "Failed to create libvirt connection" in pool.read(f"{LOGS}/VMGahpLog")
    libvirt.start()
    for job in (there, coming):
        try_now(pool, job)
    assert_done(pool, "there", there)
    assert_done(pool, "coming", coming)
    assert not Path(f"/proc/{machine}").exists(), "the machine of the first run"


def test_a_machine_that_libvirt_cannot_start_has_the_job_wait(pool: Pool) -> None:
    pool.run("root", ["chmod", "o-x", QEMU_HOME])
    try:
        job = submit(pool, "closed", SCRIPT)
        tried = f'RoutedFromJobId == "{job}" && NumShadowStarts > 0 && JobStatus == {IDLE}'
        pool.until(lambda: bool(pool.queue(tried)), TIMEOUT_S, "the job to be tried in vain")
        pool.until(lambda: not has_vms(pool), 60, "the execute point to be out of service")
        pool.until(lambda: bool(pool.queue(tried)), 30, "the job to wait")
        assert f"chmod o+x {QEMU_HOME}" in pool.read(f"{LOGS}/VMGahpLog")
    finally:
        pool.run("root", ["chmod", "o+x", QEMU_HOME])
    # As docs/routes.md has it; ten minutes would do as well.
    pool.restart("STARTD")
    pool.until(lambda: has_vms(pool), 90, "the startd to have VMs again")
    assert_done(pool, "closed", job)


def test_a_system_disk_that_went_missing_is_named(pool: Pool) -> None:
    disk = pool.path(f"{DATA}/templates/condor_vm_capsule/system.vmdk")
    pool.daemons.kill("NEGOTIATOR", signal.SIGSTOP)
    try:
        job = submit(pool, "missing", SCRIPT)
        pool.until(lambda: bool(pool.routed(job)), 90, "the job to be routed")
        disk.rename(disk.with_suffix(".aside"))
    finally:
        pool.daemons.kill("NEGOTIATOR", signal.SIGCONT)
    try:
        ad = pool.wait(job, TIMEOUT_S, until=(HELD,))
    finally:
        disk.with_suffix(".aside").rename(disk)
    assert "system.vmdk: (errno 2) No such file" in (ad.string("HoldReason") or "")
    release(pool, job)
    assert_done(pool, "missing", job)
