"""A capsule on an execute point: a gahp's machine boots it and ends as the job did."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.unit.starter import Starter
from vmcapsule.capsule.record import UNREPORTED_SIGNAL
from vmcapsule.classad.ads import Ad, parse_ad, quote
from vmcapsule.slot.program import PROGRAM, write_program

from .conftest import TIMEOUT_S, kvm_line, vmcapsule

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
        CONDOR_CLASSAD_TEMPLATE="vmware",
    )
    assert done.status == 0, done.stderr
    return source, parse_ad(done.stdout)


def started_in_a_slot(routed: Ad, sandbox: Path) -> subprocess.Popen[str]:
    """What starter and gahp do: the files come, and the machine is begun in their folder."""
    sandbox.mkdir()
    for name in (routed.string("TransferInput") or "").split(","):
        shutil.copy(name, sandbox)
    with (sandbox / ".machine.ad").open("a") as machine_ad:
        machine_ad.write(kvm_line())
    program = write_program(sandbox.parent / PROGRAM)
    # Nobody waits for it to be ready.
    with Path(os.devnull).open("w") as ready:
        fd = ready.fileno()
        return subprocess.Popen(
            [program, "machine", str(fd), "0", "0", "0", "qemu"], pass_fds=(fd,),
            cwd=sandbox, env={"PATH": "/usr/bin:/bin"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


def in_a_slot(routed: Ad, sandbox: Path) -> subprocess.CompletedProcess[str]:
    """`started_in_a_slot`, to its end."""
    process = started_in_a_slot(routed, sandbox)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    return subprocess.CompletedProcess([], process.returncode, stdout, stderr)


def test_the_slots_job_ends_as_the_guests_and_its_outputs_arrive(tmp_path: Path) -> None:
    source, routed = translated(tmp_path, "echo hello; echo new >made; exit 3")
    sandbox = tmp_path / "sandbox"
    assert in_a_slot(routed, sandbox).returncode == 3
    folder = Path(routed.string("VmCapsuleDir") or "")
    returned = sandbox / (routed.string("TransferOutput") or "")
    assert sum(path.stat().st_size for path in returned.iterdir()) < 2 << 20
    shutil.copytree(returned, folder / "returned")
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
    what, no_chirp = done.stderr.splitlines()
    assert what.startswith("vmcapsule: ") and "no chirp here" in no_chirp
    # The output list's folder is there all the same, or file transfer would hold the job.
    left = sorted(path.name for path in (sandbox / "returned").iterdir())
    assert left == ["handed-back", "reason.txt"]


def test_the_starter_is_told_how_often_and_why(tmp_path: Path) -> None:
    _, routed = translated(tmp_path, "exit 0")
    capsule = Path(routed.string("VmCapsuleDir") or "")
    starter = Starter()
    starter.write_contact(capsule)
    (capsule / ".job.ad").write_text("NumJobCompletions = 4\nChirpVmCapsuleUnreported = 1\n")
    (capsule / ".machine.ad").write_text('Machine = "ep1"\n')
    left = [capsule / name for name in (".chirp.config", ".job.ad", ".machine.ad")]
    sent = ",".join([routed.string("TransferInput") or "", *map(str, left)])
    data = next(p for p in sent.split(",") if "data" in p)
    os.truncate(data, 70_000)
    done = in_a_slot(routed.with_({"TransferInput": quote(sent)}), tmp_path / "sandbox")
    starter.close()
    assert (done.returncode, done.stderr.count("\n")) == (-UNREPORTED_SIGNAL, 1)
    told = starter.attributes
    assert (told["ChirpVmCapsuleUnreported"], told["ChirpVmCapsuleRun"]) == (2, 5)
    assert told["ChirpVmCapsuleReason"] == "ep1: " + done.stderr[len("vmcapsule: ") :].strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_starter_that_ends_it_ends_the_machine_and_nothing_is_left_to_transfer(
    tmp_path: Path, number: signal.Signals
) -> None:
    _, routed = translated(tmp_path, "sleep 9999")
    sandbox = tmp_path / "sandbox"
    process = started_in_a_slot(routed, sandbox)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (machines := [pid for pid in children.read_text().split() if is_machine(pid)]):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    process.send_signal(number)
    process.send_signal(number)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == -number
    # One that was just being started is ended by the kernel, which takes a moment.
    while any(is_machine(pid) for pid in machines):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert not (sandbox / "returned").exists()


def is_machine(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name.startswith("qemu-system")
    except OSError:
        return False


@pytest.mark.parametrize(
    ("exit_facts", "removed", "held"),
    [
        ("ExitBySignal = false\nExitCode = 0\nNumJobCompletions = 1", True, False),
        ("ExitBySignal = false\nExitCode = 3\nNumJobCompletions = 1", False, False),
        ("ExitBySignal = false\nExitCode = 3\nNumJobCompletions = 3", True, False),
        ("ExitBySignal = true\nExitSignal = 16\nNumJobCompletions = 1", False, False),
        ("ExitBySignal = true\nExitSignal = 16\nNumJobCompletions = 3", False, True),
        # The gahp was killed, and not the job, which would have said so.
        ("ExitBySignal = true\nExitSignal = 9\nNumJobCompletions = 1", False, False),
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
