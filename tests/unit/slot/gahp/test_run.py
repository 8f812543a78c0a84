"""The process of a machine, whole: it boots what came, with a program of QEMU's name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import IO, Union

import pytest

from tests.unit.returned import make_arrived
from vmcapsule.capsule.record import (
    HANDED_BACK,
    ISOLATION,
    RECORD,
    RETURNED,
    UNREPORTED_SIGNAL,
    WANTED,
    Capsule,
    save_capsule,
)
from vmcapsule.slot.gahp.run import hand_back_nothing
from vmcapsule.slot.program import PROGRAM, write_program


@pytest.fixture
def made(tmp_path: Path) -> Capsule:
    return make_arrived(tmp_path)


def run(
    made: Capsule, qemu: str = "", *, inject: str = "", stdout: Union[IO[str], int] = PIPE
) -> subprocess.CompletedProcess[str]:
    """Boot ``made``, as recorded, where QEMU is a shell script.

    ``inject`` names what fails in the program as nothing is expected to.
    """
    (made.folder / RECORD).unlink()
    save_capsule(made, made.folder)
    folder = made.folder / "bin"
    folder.mkdir()
    (folder / "qemu-system-x86_64").write_text(f"#!/bin/sh\n{qemu}\n")
    (folder / "qemu-system-x86_64").chmod(0o755)
    program = write_program(made.folder / PROGRAM)
    if inject:
        (made.folder / ".job.ad").write_text("NumJobStarts = 2\n")
        insert = f"import vmcapsule.slot.gahp.run\n{inject} = lambda *_: 1 / 0\n"
        source = f"import sys\nsys.path.insert(0, {str(program)!r})\n{insert}"
        program = made.folder / "injected.py"
        program.write_text(f"{source}from vmcapsule.slot import entry\nentry.begin()\n")
    # Nobody waits for it to be ready.
    with Path(os.devnull).open("w") as ready:
        fd = ready.fileno()
        return subprocess.run(
            [sys.executable, "-I", program, "machine", str(fd), "0", "0", "0", "qemu"],
            cwd=made.folder, env={"PATH": f"{folder}:/usr/bin:/bin"}, pass_fds=(fd,),
            stdout=stdout, stderr=PIPE, text=True, timeout=120,
        )  # fmt: skip


def test_what_ran_the_guest_goes_back_with_its_disk(made: Capsule) -> None:
    done = run(made)
    assert done.returncode == 0, done.stderr
    assert (made.folder / RETURNED / ISOLATION).read_text() == "tcg"


def test_a_guest_has_the_time_that_its_access_point_gives(made: Capsule) -> None:
    done = run(made._replace(timeout_s=0.5), "exec sleep 600")
    assert done.returncode == -UNREPORTED_SIGNAL
    said = "vmcapsule: the guest did not power off within 0.5 s\n"
    assert done.stderr.startswith(said)
    assert (made.folder / RETURNED / "reason.txt").read_text() in said


def test_a_guest_that_requires_kvm_is_not_emulated(made: Capsule) -> None:
    done = run(made._replace(require_kvm=True), "touch booted")
    assert done.returncode == -UNREPORTED_SIGNAL
    assert "KVM is required" in done.stderr
    assert not (made.folder / "booted").exists()


NESTED = "results,results/summary.txt"


def test_listed_outputs_of_which_one_lies_in_another_are_no_fault(made: Capsule) -> None:
    done = run(made._replace(wanted_outputs=NESTED), "exit 1")
    assert done.returncode == -UNREPORTED_SIGNAL, done.stderr
    assert (made.folder / WANTED / "results/summary.txt").is_file()


def test_a_fault_of_our_own_is_no_exit_code_of_the_jobs(made: Capsule) -> None:
    """Whatever it is: here an error that nobody foresees."""
    done = run(made, inject="vmcapsule.slot.gahp.run.staging.tell_starts")
    assert done.returncode == -UNREPORTED_SIGNAL, done.stderr
    reason = (made.folder / RETURNED / "reason.txt").read_text()
    assert reason.startswith("ZeroDivisionError: ") and "Traceback" in reason
    assert (made.folder / RETURNED / HANDED_BACK).read_bytes() == b""


def test_a_fault_before_there_is_anything_is_none_either(made: Capsule) -> None:
    done = run(made, inject="vmcapsule.slot.gahp.run.Path.cwd")
    assert done.returncode == -UNREPORTED_SIGNAL, done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert (made.folder / RETURNED / HANDED_BACK).read_bytes() == b""


def test_a_run_is_the_jobs_though_nobody_can_be_told_of_it(made: Capsule) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(made, stdout=full)
    assert done.returncode == 0, done.stderr


def test_a_disk_of_an_earlier_run_is_not_taken_for_the_last_ones(made: Capsule) -> None:
    """File transfer removes nothing of what an earlier run brought to the access point."""
    own = made.data_disk
    assert run(made).returncode == 0
    returned = made.folder / RETURNED
    assert made.returned_disk == returned / own.name
    saved = {each.name: each.read_bytes() for each in returned.iterdir()}
    hand_back_nothing(made.folder, "no")
    last = {each.name: each.read_bytes() for each in returned.iterdir()}
    for name, content in {**saved, **last}.items():
        (returned / name).write_bytes(content)
    assert made.returned_disk == own
