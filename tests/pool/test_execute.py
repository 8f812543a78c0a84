"""Execute points of a real pool: what they advertise, and guests that do not report."""

from __future__ import annotations

import os
import re
import signal
from typing import Iterator

import pytest

from tests.pool.jobs import TIMEOUT_S, submit, try_here_again
from tests.pool.plugin import HOME
from tests.pool.pool import HELD, IDLE, Pool
from tests.pool.processes import machines

pytestmark = pytest.mark.pool
PROBED = ("HasVMCapsule", "VMCapsuleQEMUVersion", "VMCapsuleKVM", "VMCapsuleReason")
#: Comes after what installs the plugin.
EXTRA = "90-execute"


@pytest.fixture
def pool(pool: Pool) -> Iterator[Pool]:
    """The pool, which a test may configure as `EXTRA`; jobs do not outlive the test."""
    pool.configure(EXTRA, "")
    pool.until(lambda: advertised(pool)[0] == "true", 60, "the startd's probe")
    yield pool
    pool.unconfigure(EXTRA)
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


def test_a_machine_that_dies_is_not_the_users_try(pool: Pool) -> None:
    """QEMU dies once, then the job fails twice: max_retries = 1 allows both of those."""
    job = submit(pool, "shot", "echo tried; exit 3", "max_retries = 1\nqueue")
    pool.until(lambda: bool(machines(pool)), TIMEOUT_S, "the machine to start")
    os.kill(machines(pool)[0], signal.SIGKILL)
    try_here_again(pool, job, 1)
    ad = pool.wait(job, timeout_s=TIMEOUT_S)
    assert ad.integer("ExitCode") == 3
    routed = pool.routed(job)[0]
    assert routed.integer("ChirpVmCapsuleUnreported") == 1
    assert routed.integer("NumJobCompletions") == 3
    assert "return value 3" in pool.read("/home/alice/shot/log")
    assert pool.read("/home/alice/shot/out") == "tried\n"


def test_a_guest_that_always_panics_holds_the_job_and_its_reason_says_so(pool: Pool) -> None:
    template = pool.read(f"{HOME}/templates/qemu.classad")
    pool.put("/opt/two-tries.classad", template.replace("MaxTries = 3", "MaxTries = 2"))
    pool.put("/opt/panic.py", "open('/proc/sysrq-trigger', 'w').write('c')\n")
    knobs = {
        "INIT_SCRIPT_PATH": "/opt/panic.py",
        "CONDOR_CLASSAD_TEMPLATE": "/opt/two-tries.classad",
    }
    pool.configure(EXTRA, "".join(f"VM_CAPSULE_{k} = {v}\n" for k, v in knobs.items()))
    job = submit(pool, "panic", "exit 0", "max_retries = 5\nqueue")
    try_here_again(pool, job, 1)
    ad = pool.wait(job, timeout_s=TIMEOUT_S, until=(HELD,))
    reason = ad.string("HoldReason") or ""
    expected = (
        f"vmcapsule: the guest did not report in 2 runs; the last was on "
        f"{pool.space.host_name}: the guest's kernel panicked: Kernel panic - not syncing"
    )
    assert expected in reason
    assert (ad.integer("HoldReasonCode"), ad.integer("HoldReasonSubCode")) == (3, 76)
