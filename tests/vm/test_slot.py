"""A capsule in a vanilla slot: one file boots it there and ends as the job did."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from vmcapsule.ads import Ad, parse_ad, quote
from vmcapsule.capsule import UNREPORTED_SIGNAL

from .conftest import TIMEOUT_S, vmcapsule

pytestmark = pytest.mark.vm


def translated(tmp_path: Path, script: str) -> tuple[str, Ad]:
    """A job that runs ``script``, as (source ad, routed ad)."""
    program = tmp_path / "job.sh"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    source = (
        f'ClusterId = 4\nProcId = 2\nJobUniverse = 5\nOwner = "alice"\nCmd = "job.sh"\n'
        f'Iwd = {quote(str(tmp_path))}\nOut = "out"\nJobMaxRetries = 2\n'
        "OnExitRemove = NumJobCompletions > JobMaxRetries || ExitCode =?= 0\n"
    )
    done = vmcapsule(
        "translate",
        folder=tmp_path,
        stdin=source,
        SCRATCH_DIR_PREFIX=tmp_path / "scratch",
        CONDOR_CLASSAD_TEMPLATE="qemu",
    )
    assert done.status == 0, done.stderr
    return source, parse_ad(done.stdout)


def in_a_slot(routed: Ad, sandbox: Path) -> subprocess.CompletedProcess[str]:
    """What a starter does: transfer the files, run the command with hardly an environment."""
    sandbox.mkdir()
    for name in [
        *(routed.string("TransferInput") or "").split(","),
        routed.string("Cmd") or "",
    ]:
        shutil.copy(name, sandbox)
    program = sandbox / Path(routed.string("Cmd") or "").name
    return subprocess.run(
        [program], cwd=sandbox, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        timeout=TIMEOUT_S,
    )  # fmt: skip


def test_the_slots_job_ends_as_the_guests_and_its_outputs_arrive(tmp_path: Path) -> None:
    source, routed = translated(tmp_path, "echo hello; echo new >made; exit 3")
    sandbox = tmp_path / "sandbox"
    assert in_a_slot(routed, sandbox).returncode == 3
    folder = Path(routed.string("VmCapsuleDir") or "")
    shutil.copytree(sandbox / (routed.string("TransferOutput") or ""), folder / "returned")
    ads = f"{source}\n------\n{routed.long_form()}"
    done = vmcapsule("finalize", folder=tmp_path, stdin=ads)
    assert done.status == 0, done.stderr
    assert parse_ad(done.stdout).integer("ExitCode") == 3
    assert (tmp_path / "out").read_text() == "hello\n"
    assert (tmp_path / "made").read_text() == "new\n"


def test_death_by_signal_is_the_slots_too(tmp_path: Path) -> None:
    _, routed = translated(tmp_path, "kill -TERM $$")
    assert in_a_slot(routed, tmp_path / "sandbox").returncode == -signal.SIGTERM


def test_a_guest_that_does_not_report_is_told_from_every_job(tmp_path: Path) -> None:
    _, routed = translated(tmp_path, "exit 0")
    sandbox = tmp_path / "sandbox"
    data = next(p for p in (routed.string("TransferInput") or "").split(",") if "data" in p)
    os.truncate(data, 70_000)
    done = in_a_slot(routed, sandbox)
    assert done.returncode == -UNREPORTED_SIGNAL
    assert done.stderr.startswith("vmcapsule: ") and done.stderr.count("\n") == 1
    # The output list's folder is there all the same, or file transfer would hold the job.
    assert [path.name for path in (sandbox / "returned").iterdir()] == ["reason.txt"]


@pytest.mark.parametrize(
    ("exit_facts", "removed", "held"),
    [
        ("ExitBySignal = false\nExitCode = 0\nNumJobCompletions = 1", True, False),
        ("ExitBySignal = false\nExitCode = 3\nNumJobCompletions = 1", False, False),
        ("ExitBySignal = false\nExitCode = 3\nNumJobCompletions = 3", True, False),
        ("ExitBySignal = true\nExitSignal = 16\nNumJobCompletions = 1", False, False),
        ("ExitBySignal = true\nExitSignal = 16\nNumJobCompletions = 3", False, True),
    ],
)
def test_retries_and_holds_judge_the_guests_job(
    tmp_path: Path, exit_facts: str, removed: bool, held: bool
) -> None:
    _, routed = translated(tmp_path, "exit 0")
    ended = parse_ad(
        routed.without(["NumJobCompletions", "ExitBySignal"]).long_form() + exit_facts
    )
    assert ended.boolean("OnExitRemove") is removed
    assert ended.boolean("OnExitHold") is held
