"""Guests that hang, panic or say nothing; scratch that is full; processes that are killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from vmcapsule import process
from vmcapsule.template.template import Template

from .conftest import TIMEOUT_S, Outcome, vmcapsule

pytestmark = pytest.mark.vm
Run = Callable[..., Outcome]


def init_script(tmp_path: Path, body: str) -> Path:
    script = tmp_path / "init.py"
    script.write_text(body)
    return script


def test_a_guest_that_hangs_is_ended(run_job: Run, tmp_path: Path) -> None:
    script = init_script(tmp_path, "import time\nprint('vmcapsule: stuck')\ntime.sleep(9999)\n")
    done = run_job(
        "exit 0", "", "--runner", "direct", "--timeout", "25", INIT_SCRIPT_PATH=script
    )
    assert done.status == 75
    assert "within 25 s" in done.stderr and "--timeout" in done.stderr
    assert not (done.folder / "out").exists()


def test_a_guest_that_panics_is_told_from_one_that_is_silent(
    run_job: Run, tmp_path: Path
) -> None:
    panics = init_script(tmp_path, "open('/proc/sysrq-trigger', 'w').write('c')\n")
    done = run_job("exit 0", "", "--runner", "direct", INIT_SCRIPT_PATH=panics)
    assert done.status == 76 and "Kernel panic" in done.stderr
    silent = init_script(tmp_path, "print('nothing to say')\n")
    done = run_job("exit 0", "", "--runner", "direct", INIT_SCRIPT_PATH=silent)
    assert done.status == 76 and "no exit record" in done.stderr
    assert not (done.folder / "out").exists()


def test_a_damaged_tarball_is_reported_by_the_guest(tmp_path: Path) -> None:
    tarball = tmp_path / "condor-23.9.6.tar.gz"
    tarball.write_bytes(b"this is no archive")
    (tmp_path / "job.ad").write_text(
        f'Cmd = "/bin/true"\nIwd = "{tmp_path}"\nJobUniverse = 5\n'
    )
    done = vmcapsule("run", "job.ad", folder=tmp_path, CONDOR_TARBALL=tarball)
    assert done.status == 76, done.stderr
    assert "unpack_condor" in done.stderr


@pytest.fixture
def waiting_job(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], Path]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> tuple[subprocess.Popen[bytes], Path]:
        program = tmp_path / "job.sh"
        program.write_text("#!/bin/sh\nsleep 9999\n")
        program.chmod(0o755)
        (tmp_path / "job.sub").write_text("executable = job.sh\noutput = out\nqueue\n")
        scratch = tmp_path / "scratch"
        command = subprocess.Popen(
            [sys.executable, "-m", "vmcapsule", "run", "--runner", "direct", "job.sub"],
            cwd=tmp_path,
            env={**os.environ, "_CONDOR_VM_CAPSULE_SCRATCH_DIR_PREFIX": str(scratch)},
            stderr=subprocess.PIPE,
            # A shell that put us into the background has us ignore it, and what we start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(command)
        return command, scratch

    yield start
    for command in started:
        command.kill()
        command.wait()


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def wait_for_machine(command: subprocess.Popen[bytes]) -> int:
    """The process id of the QEMU below ``command``."""
    for _ in range(600):
        assert command.poll() is None, "the command ended early"
        for child in children_of(command.pid):
            # Others come and go before it: condor_submit, a QEMU that says what it can.
            with contextlib.suppress(FileNotFoundError):
                is_qemu = "qemu-system" in Path(f"/proc/{child}/exe").readlink().name
                if is_qemu and b"data.vmdk" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child
        time.sleep(0.1)
    raise AssertionError("QEMU did not start")


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(waiting_job, number: signal.Signals) -> None:  # type: ignore[no-untyped-def]
    command, scratch = waiting_job()
    machine = wait_for_machine(command)
    command.send_signal(number)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 128 + number
    assert b"interrupted" in errors
    assert gone(machine)
    assert list(scratch.iterdir()) == []


def test_the_machine_dies_with_a_killed_parent(waiting_job) -> None:  # type: ignore[no-untyped-def]
    command, _ = waiting_job()
    machine = wait_for_machine(command)
    command.kill()
    assert gone(machine)


def test_a_killed_machine_is_an_error(waiting_job) -> None:  # type: ignore[no-untyped-def]
    command, scratch = waiting_job()
    os.kill(wait_for_machine(command), signal.SIGKILL)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 69 and b"QEMU ended with status -9" in errors
    assert list(scratch.iterdir()) == []


def run_in_small_scratch(tmp_path: Path, size: str) -> subprocess.CompletedProcess[str]:
    """Run ``job.sub`` with so much scratch, in a mount namespace that ends with the command."""
    if subprocess.run([process.find("unshare"), "-m", "true"], check=False).returncode != 0:
        pytest.skip("a private mount namespace cannot be had here (no root, or a plain chroot)")
    small = tmp_path / "small"
    small.mkdir()
    script = (
        'mount -t tmpfs -o size="$4" tmpfs "$1" && cd "$2" && '
        '_CONDOR_VM_CAPSULE_SCRATCH_DIR_PREFIX="$1" '
        '"$3" -m vmcapsule run --runner direct job.sub; status=$?; ls -A "$1"; exit $status'
    )
    return subprocess.run(
        [process.find("unshare"), "-m", "sh", "-c", script, "sh"]
        + [str(small), str(tmp_path), sys.executable, size],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def test_a_full_scratch_disk_is_explained_and_left_empty(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(8 << 20))
    (tmp_path / "job.sub").write_text(
        "executable = /bin/true\ntransfer_input_files = big\noutput = out\nqueue\n"
    )
    done = run_in_small_scratch(tmp_path, "4m")
    assert done.returncode == 73, done.stderr
    assert "No space left" in done.stderr and "VM_CAPSULE_SCRATCH_DIR_PREFIX" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_scratch_disk_that_a_job_fills_ends_its_run(tmp_path: Path) -> None:
    """QEMU stops a machine then, and would wait for ever."""
    job = tmp_path / "job.sh"
    job.write_text(
        "#!/bin/sh\nhead -c 300000000 /dev/zero | tr '\\0' x >big; sync; echo done\n"
    )
    job.chmod(0o755)
    (tmp_path / "job.sub").write_text("executable = job.sh\noutput = out\nqueue\n")
    done = run_in_small_scratch(tmp_path, "120m")
    assert done.returncode == 73, done.stderr
    assert "its disks cannot be used: No space left on device" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be_delivered_are_kept(run_job: Run, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "taken").mkdir()
    done = run_job("echo precious >taken", "", "--runner", "direct", "--keep")
    assert done.status == 74 and "taken" in done.stderr
    assert (folder / "out").exists(), "what nothing is in the way of is delivered"
    (capsule,) = (tmp_path / "scratch").iterdir()
    (folder / "taken").rmdir()
    again = process.run(
        [sys.executable, "-m", "vmcapsule", "extract", capsule], timeout_s=60, cwd=folder
    )
    assert b"exit code 0" in again.stdout
    assert (folder / "taken").read_text() == "precious\n"


def test_template_check_says_that_ours_works(template: Template) -> None:
    done = process.run(
        [sys.executable, "-m", "vmcapsule", "template", "check"], timeout_s=TIMEOUT_S
    )
    assert b"this template will work" in done.stdout
    assert b"error" not in done.stdout


def test_a_refused_job_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "job.sub").write_text(
        "executable = /bin/true\nrequest_gpus = $(Process)\nqueue 2\n"
    )
    done = vmcapsule("run", "--runner", "direct", "--json", "job.sub", folder=tmp_path)
    assert done.status == 65 and "RequestGPUs = 1" in done.stderr
    ran, refused = (json.loads(line) for line in done.stdout.splitlines())
    assert (ran["job_id"], ran["exit_code"], ran["error"]) == ("1.0", 0, None)
    assert (refused["job_id"], refused["error"]["status"]) == ("1.1", 65)
