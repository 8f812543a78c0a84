"""Execute points of a real pool: what they advertise."""

from __future__ import annotations

import re
from typing import Iterator

import pytest

from tests.pool.jobs import TIMEOUT_S, submit
from tests.pool.pool import IDLE, Pool

pytestmark = pytest.mark.pool
PROBED = ("HasVMCapsule", "VMCapsuleQEMUVersion", "VMCapsuleKVM", "VMCapsuleReason")


@pytest.fixture
def pool(pool: Pool) -> Iterator[Pool]:
    """The pool; jobs do not outlive the test."""
    pool.until(lambda: advertised(pool)[0] == "true", 60, "the startd's probe")
    yield pool
    pool.run("root", ["condor_rm", "-all"], check=False)
    pool.until(lambda: not pool.queue(), 60, "the queue to be empty")


def advertised(pool: Pool) -> list[str]:
    """What condor_status shows of the slot, for each of `PROBED`."""
    done = pool.run("alice", ["condor_status", "-constraint", "SlotID == 1", "-af:t", *PROBED])
    return done.stdout.decode().split("\n")[0].split("\t")


def test_an_execute_point_says_what_it_can(pool: Pool) -> None:
    _, version, kvm, reason = advertised(pool)
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version)
    usable = ["sh", "-c", "test -r /dev/kvm -a -w /dev/kvm"]
    if pool.path("/dev/kvm").exists() and pool.run("condor", usable, check=False).returncode:
        assert (kvm, "may not use /dev/kvm" in reason) == ("undefined", True)
    else:
        assert kvm in ("true", "false")


def test_a_job_finds_the_answer_in_its_slot(pool: Pool) -> None:
    text = "executable = job.sh\noutput = out\nlog = log\nrequest_memory = 64\nqueue\n"
    script = '#!/bin/sh\ngrep VMCapsule "$_CONDOR_MACHINE_AD"\n'
    pool.wait(pool.submit("alice", "slot", text, {"job.sh": script}), timeout_s=TIMEOUT_S)
    found = dict(
        line.split(" = ", 1) for line in pool.read("/home/alice/slot/out").splitlines()
    )
    assert found["HasVMCapsule"] == "true"
    assert found["VMCapsuleKVM"] in ("true", "false", "undefined")


def test_where_the_probe_says_no_the_job_waits_and_it_is_told_why(pool: Pool) -> None:
    program = pool.path("/usr/bin/qemu-system-x86_64")
    aside = program.with_name("not-qemu")
    program.rename(aside)
    try:
        pool.restart("STARTD")
        pool.until(lambda: advertised(pool)[0] == "false", 60, "the probe to say no")
        assert "'qemu-system-x86_64' is not installed" in advertised(pool)[3]
        job = submit(pool, "unmatched", "exit 0")
        copy = f'RoutedFromJobId == "{job}"'
        pool.until(lambda: bool(pool.queue(copy)), TIMEOUT_S, "the job to be routed")
        told = pool.run("alice", ["condor_q", "-better-analyze", copy_id(pool, copy)])
        assert re.search(r"\[\d+\] +0 +TARGET.HasVMCapsule is true", told.stdout.decode())
        assert pool.queue(copy)[0].integer("JobStatus") == IDLE
    finally:
        aside.rename(program)
        pool.restart("STARTD")


def copy_id(pool: Pool, copy: str) -> str:
    ad = pool.queue(copy)[0]
    return f"{ad.integer('ClusterId')}.{ad.integer('ProcId')}"
