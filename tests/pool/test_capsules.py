"""Users' jobs through the capsule route of a real pool: their logs look as they always do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pool.plugin import SCRATCH
from tests.pool.pool import HELD, JobId, Pool

pytestmark = pytest.mark.pool
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

#: Emulated, and three machines at once.
TIMEOUT_S = 300

SUBMIT = """\
executable = job.sh
output = out
error = err
log = log
request_memory = 64
+WantJobRouter = True
{more}
"""


def submit(pool: Pool, folder: str, script: str, more: str = "queue") -> JobId:
    job = {"job.sh": f"#!/bin/sh\n{script}\n"}
    return pool.submit("alice", folder, SUBMIT.format(more=more), job)


def scratch(pool: Pool) -> list[str]:
    return sorted(path.name for path in pool.path(SCRATCH).iterdir())


def test_the_example_runs_in_a_capsule_as_it_is(pool: Pool) -> None:
    text = (EXAMPLES / "wordcount.sub").read_text()
    files = {name: (EXAMPLES / name).read_text() for name in ("wordcount.sh", "text file.txt")}
    job = pool.submit("alice", "words", f"{text}", files, ["-append", "+WantJobRouter = True"])
    ad = pool.wait(job, timeout_s=TIMEOUT_S)
    assert ad.integer("ExitCode") == 0
    printed = pool.read("/home/alice/words/wordcount.out")
    assert "I am alice on capsule" in printed and "/condor-23.9.6" in printed
    assert "_CONDOR_SLOT=slot1_1 BATCH_SYSTEM=HTCondor" in printed
    assert pool.read("/home/alice/words/counts.txt").split()[:2] == ["7", "the"]
    log = pool.read("/home/alice/words/wordcount.log")
    assert "Normal termination (return value 0)" in log
    pool.until(lambda: not scratch(pool), 60, "the capsule to be cleaned up")


def test_an_exit_code_and_retries_are_the_guests(pool: Pool) -> None:
    job = submit(pool, "seven", "echo tried; exit 7", "max_retries = 1\nqueue")
    ad = pool.wait(job, timeout_s=TIMEOUT_S)
    assert ad.integer("ExitCode") == 7
    assert "Normal termination (return value 7)" in pool.read("/home/alice/seven/log")
    assert pool.read("/home/alice/seven/out") == "tried\n"


def test_death_by_signal_is_in_the_users_log(pool: Pool) -> None:
    job = submit(pool, "killed", "kill -9 $$")
    ad = pool.wait(job, timeout_s=TIMEOUT_S)
    assert (ad.boolean("ExitBySignal"), ad.integer("ExitSignal")) == (True, 9)
    assert "Abnormal termination (signal 9)" in pool.read("/home/alice/killed/log")


def test_a_job_that_cannot_be_honoured_is_held_with_the_reason(pool: Pool) -> None:
    job = submit(pool, "refused", "exit 0", "stream_output = true\nqueue")
    ad = pool.wait(job, timeout_s=TIMEOUT_S, until=(HELD,))
    reason = ad.string("HoldReason") or ""
    assert "StreamOut = true" in reason and "stream_output" in reason
    pool.run("alice", ["condor_rm", str(job)])
    pool.until(lambda: not scratch(pool), 60, "no capsule to be left")


def test_a_removed_job_takes_its_machine_along(pool: Pool) -> None:
    job = submit(pool, "removed", "sleep 9999")

    def machines() -> list[int]:
        return [pid for pid in pool.space.processes() if "qemu-system" in _program(pid)]

    pool.until(lambda: bool(machines()), TIMEOUT_S, "the machine to start")
    pool.run("alice", ["condor_rm", str(job)])
    pool.until(lambda: not machines() and not scratch(pool), 90, "machine and capsule to go")


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""
