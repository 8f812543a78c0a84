"""VMware jobs of HTCondor's VM universe, on today's HTCondor, through our own vm-gahp.

The route is the one that is printed for the ad template ``vmware``, as an administrator would
have it.  Jobs of several tests run side by side: a starter takes a minute for each anyhow.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Iterator, Optional

import pytest

from tests.pool.daemons import LOGS
from tests.pool.jobs import EXAMPLES, submit
from tests.pool.plugin import SCRATCH, left_in
from tests.pool.pool import HELD, IDLE, JobId, Pool
from vmcapsule.slot.program import PROGRAM_HOME

pytestmark = pytest.mark.pool
#: Emulated, several at once, and a starter that waits.
TIMEOUT_S = 600
ADVERTISED = ("HasVM", "VM_Type", "VM_Memory", "VMCapsuleHypervisor")


@pytest.fixture(scope="module", autouse=True)
def route(pool: Pool) -> Iterator[None]:
    """The pool with the route of VMware jobs, and after it again with its own."""
    pool.install_plugin({"CONDOR_CLASSAD_TEMPLATE": "vmware"})
    pool.restart("MASTER")
    pool.until(lambda: advertised(pool)[0] == "true", 90, "the startd to have VMs")
    yield
    pool.run("root", ["condor_rm", "-all"], check=False)
    pool.until(lambda: not pool.queue(), 90, "the queue to be empty")
    pool.install_plugin()
    pool.restart("MASTER")


def advertised(pool: Pool) -> list[str]:
    argv = ["condor_status", "-constraint", "SlotID == 1", "-af:t", *ADVERTISED]
    return pool.run("alice", argv).stdout.decode().split("\n")[0].split("\t")


def processes(pool: Pool, name: str) -> list[int]:
    """The host's numbers of the processes inside whose arguments begin with ``name``."""
    found = []
    for pid in pool.space.processes():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has ended
            continue
        if re.match(name, words.replace("\0", " ")):
            found.append(pid)
    return found


def machines(pool: Pool) -> list[int]:
    return processes(pool, r"\S*qemu-system-x86_64 ")


def gahps(pool: Pool) -> list[int]:
    return processes(pool, rf"\S*python3? -I {PROGRAM_HOME} -f .*-M 3")


def wait_until_quiet(pool: Pool) -> None:
    """Nothing runs any more, and no capsule is left."""
    pool.until(
        lambda: not (machines(pool) or gahps(pool) or left_in(pool.path(SCRATCH))),
        120,
        "machines, gahps and capsules to be gone",
    )


def wait_for_machine(pool: Pool) -> int:
    pool.until(lambda: bool(machines(pool)), TIMEOUT_S, "the machine to start")
    return machines(pool)[0]


def runs(pool: Pool, job: JobId) -> int:
    return pool.routed(job)[0].integer("NumJobCompletions") or 0


def test_an_execute_point_has_vms_though_htcondor_has_no_vmware(pool: Pool) -> None:
    _, vm_type, memory_mib, hypervisor = advertised(pool)
    assert vm_type == "vmware" and int(memory_mib) > 0
    assert re.fullmatch(r"qemu [0-9.]+", hypervisor)


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
    pool.until(lambda: advertised(pool)[0] == "true", 90, "the startd to have VMs again")


@pytest.mark.representative
def test_jobs_end_as_natively(pool: Pool) -> None:
    """The example, an exit code, retries, a death by a signal: side by side."""
    text = (EXAMPLES / "wordcount.sub").read_text()
    files = {name: (EXAMPLES / name).read_text() for name in ("wordcount.sh", "text file.txt")}
    options = ["-append", "+WantJobRouter = True"]
    words = pool.submit("alice", "vm-words", text, files, options)
    seven = submit(pool, "vm-seven", "echo tried; exit 7", "max_retries = 2\nqueue")
    killed = submit(pool, "vm-killed", "kill -9 $$")
    held = submit(pool, "vm-held", "exit 5", "on_exit_hold = ExitCode =?= 5\nqueue")

    assert pool.wait(words, TIMEOUT_S).integer("ExitCode") == 0
    assert "I am alice on capsule" in pool.read("/home/alice/vm-words/wordcount.out")
    assert pool.read("/home/alice/vm-words/counts.txt").split()[:2] == ["7", "the"]
    log = pool.read("/home/alice/vm-words/wordcount.log")
    assert "Normal termination (return value 0)" in log

    ad = pool.wait(seven, TIMEOUT_S)
    assert (ad.integer("ExitCode"), runs(pool, seven)) == (7, 3)
    assert pool.read("/home/alice/vm-seven/out") == "tried\n"

    ad = pool.wait(killed, TIMEOUT_S)
    assert (ad.boolean("ExitBySignal"), ad.integer("ExitSignal")) == (True, 9)
    assert runs(pool, killed) == 1, "a job that was killed is not taken for a killed gahp"

    ad = pool.wait(held, TIMEOUT_S, until=(HELD,))
    assert "ExitCode" in (ad.string("HoldReason") or "")
    pool.run("alice", ["condor_rm", str(held)])
    wait_until_quiet(pool)


@pytest.mark.parametrize("how", ["condor_rm", "condor_hold"])
def test_nothing_is_left_of_a_job_taken_away_as_it_starts(pool: Pool, how: str) -> None:
    job = submit(pool, f"vm-{how}", "sleep 500")
    wait_for_machine(pool)
    pool.run("alice", [how, str(job)])
    pool.until(lambda: not pool.queue(f'RoutedFromJobId == "{job}"'), 120, "its copy to go")
    wait_until_quiet(pool)
    if how == "condor_hold":
        pool.path(f"/home/alice/vm-{how}/job.sh").write_text("#!/bin/sh\necho released\n")
        pool.run("alice", ["condor_release", str(job)])
        assert pool.wait(job, TIMEOUT_S).integer("ExitCode") == 0
        assert pool.read(f"/home/alice/vm-{how}/out") == "released\n"
        wait_until_quiet(pool)


@pytest.mark.parametrize("victim", ["machine", "gahp", "starter"])
def test_a_job_whose_machine_was_killed_is_run_again(pool: Pool, victim: str) -> None:
    # A gahp that is killed before the starter knows its machine is as good as none, and by
    # then a short job has ended.
    seconds, known = (15, "") if victim == "machine" else (90, "knows the machine")
    job = submit(pool, f"vm-kill-{victim}", f"sleep {seconds}; echo done; exit 3")
    wait_for_machine(pool)
    pool.until(lambda: known in starters_say(pool, job), 120, "the starter to know the machine")
    pids = {
        "machine": machines,
        "gahp": gahps,
        "starter": lambda pool: processes(pool, r"condor_starter "),
    }[victim](pool)
    os.kill(pids[0], signal.SIGKILL)
    again = f'RoutedFromJobId == "{job}" && JobStatus == {IDLE}'
    if victim == "machine":
        pool.until(
            lambda: bool(pool.queue(again)), TIMEOUT_S, "the job to wait for another run"
        )
        pool.run("root", ["condor_qedit", "-constraint", again, "ChirpVmCapsuleUntil", "0"])
    ad = pool.wait(job, TIMEOUT_S)
    assert ad.integer("ExitCode") == 3
    assert pool.read(f"/home/alice/vm-kill-{victim}/out") == "done\n"
    wait_until_quiet(pool)


def starters_say(pool: Pool, job: JobId) -> str:
    """What the starters' logs have of the runs of ``job``."""
    copy = pool.routed(job)[0]
    begins = f"Starting a VM universe job with ID: {copy.integer('ClusterId')}."
    logs = [path.read_text(errors="replace") for path in pool.path(LOGS).glob("StarterLog.*")]
    return "".join(log.partition(begins)[2] for log in logs)


#: Says what it is, and nothing that makes sense.  (One that does not even say that is waited
#: for by HTCondor for ever.)
RUBBISH = "#!/bin/sh\necho '$VMGahpVersion: 0 $'\nwhile read -r line; do echo rubbish; done\n"


@pytest.mark.parametrize("gahp", [None, RUBBISH])
def test_a_machine_whose_gahp_is_broken_is_no_black_hole(
    pool: Pool, gahp: Optional[str]
) -> None:
    program = pool.path(str(PROGRAM_HOME))
    aside = program.with_suffix(".aside")
    program.rename(aside)
    try:
        if gahp is not None:
            pool.put(str(PROGRAM_HOME), gahp, mode=0o755)
        job = submit(pool, f"vm-broken-{len(gahp or '')}", "echo mended")
        tried = f'RoutedFromJobId == "{job}" && NumShadowStarts > 0 && JobStatus == {IDLE}'
        pool.until(lambda: bool(pool.queue(tried)), TIMEOUT_S, "the job to be tried in vain")
        # The negotiator of this pool comes by every two seconds.
        late = f"{tried} && time() - EnteredCurrentStatus >= 9"
        pool.until(lambda: bool(pool.queue(late)), TIMEOUT_S, "the job to wait a while")
    finally:
        aside.rename(program)
    pool.run("root", ["condor_qedit", "-constraint", tried, "LastVacateTime", "0"])
    assert pool.wait(job, TIMEOUT_S).integer("ExitCode") == 0
    assert pool.read(f"/home/alice/vm-broken-{len(gahp or '')}/out") == "mended\n"
    wait_until_quiet(pool)
    assert advertised(pool)[0] == "true", "it has VMs again, by itself"
