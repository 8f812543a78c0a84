"""Jobs that lack a file are held as HTCondor holds them, and start again when released."""

from __future__ import annotations

import pytest

from tests.pool.pool import HELD, JobId, Pool

pytestmark = [pytest.mark.pool, pytest.mark.representative]
TIMEOUT_S = 300
SUBMIT = """\
executable = job.sh
output = out
log = log
request_memory = 64
+WantJobRouter = True
{more}
queue
"""
#: CONDOR_HOLD_CODE::TransferOutputError and TransferInputError; the subcode is an errno.
OUTPUT_ERROR, INPUT_ERROR, ENOENT = 12, 13, 2


def submit(pool: Pool, folder: str, script: str, more: str) -> JobId:
    files = {"job.sh": f"#!/bin/sh\n{script}\n", "input": "x"}
    return pool.submit("alice", folder, SUBMIT.format(more=more), files)


def test_a_users_hold_and_release_are_in_the_log(pool: Pool) -> None:
    job = submit(pool, "by-hand", "sleep 300", "")
    logged = pool.path("/home/alice/by-hand/log")
    pool.until(lambda: "\n001 (" in logged.read_text(), TIMEOUT_S, "the job to run")
    pool.run("alice", ["condor_hold", str(job)])
    pool.until(lambda: "Job was held" in logged.read_text(), 60, "the hold in the user's log")
    pool.run("alice", ["condor_release", str(job)])
    pool.until(lambda: "Job was released" in logged.read_text(), 60, "the release there")
    pool.run("alice", ["condor_rm", str(job)])
    pool.until(lambda: "Job was aborted" in logged.read_text(), 60, "the removal there")
    kinds = [event[:3] for event in logged.read_text().split("\n...\n")]
    assert [kind for kind in kinds if kind in ("012", "013", "009")] == ["012", "013", "009"]


def test_a_lacking_file_holds_the_job_until_it_is_released(pool: Pool) -> None:
    script = "echo tried; echo x >made"
    no_output = submit(pool, "no-output", script, "transfer_output_files = made, sub/late")
    no_input = submit(pool, "no-input", "cat input", "transfer_input_files = input")
    pool.path("/home/alice/no-input/input").unlink()

    held = pool.wait(no_input, until=(HELD,))
    code = (held.integer("HoldReasonCode"), held.integer("HoldReasonSubCode"))
    assert code == (INPUT_ERROR, ENOENT)
    assert "/home/alice/no-input/input" in (held.string("HoldReason") or "")
    logged = pool.path("/home/alice/no-input/log")
    pool.until(lambda: "Job was held" in logged.read_text(), 60, "the hold in the user's log")

    held = pool.wait(no_output, timeout_s=TIMEOUT_S, until=(HELD,))
    code = (held.integer("HoldReasonCode"), held.integer("HoldReasonSubCode"))
    assert code == (OUTPUT_ERROR, ENOENT)
    assert "sub/late" in (held.string("HoldReason") or "")
    made = pool.path("/home/alice/no-output/made")
    pool.until(made.exists, 60, "what there is to be delivered, as HTCondor does")
    assert pool.read("/home/alice/no-output/out") == "tried\n"

    pool.put("/home/alice/no-input/input", "found\n", owner="alice")
    pool.run("alice", ["condor_release", str(no_input)])
    ended = pool.wait(no_input, timeout_s=TIMEOUT_S)
    assert logged.read_text().count("Job was held") == 1
    assert ended.integer("ExitCode") == 0
    assert pool.read("/home/alice/no-input/out") == "found\n"
    pool.run("alice", ["condor_rm", str(no_output)])
