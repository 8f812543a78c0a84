"""The program in a slot, whole: it boots what came, with a program of QEMU's name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.returned import make_arrived
from vmcapsule.capsule.record import (
    ISOLATION,
    RECORD,
    RETURNED,
    UNREPORTED_SIGNAL,
    Capsule,
    save_capsule,
)
from vmcapsule.slot.program import write_program


@pytest.fixture
def made(tmp_path: Path) -> Capsule:
    return make_arrived(tmp_path)


def run(made: Capsule, qemu: str = "") -> subprocess.CompletedProcess[str]:
    """Boot ``made``, as recorded, where QEMU is a shell script."""
    (made.folder / RECORD).unlink()
    save_capsule(made, made.folder)
    folder = made.folder / "bin"
    folder.mkdir()
    (folder / "qemu-system-x86_64").write_text(f"#!/bin/sh\n{qemu}\n")
    (folder / "qemu-system-x86_64").chmod(0o755)
    return subprocess.run(
        [sys.executable, "-I", write_program(made.folder)],
        cwd=made.folder, env={"PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120,
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
