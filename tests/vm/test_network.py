"""A guest with a network: it reaches other machines, and of its host's loopback nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.own_host import OUTSIDE, reason_against, run_there

from .conftest import TIMEOUT_S

WHY_NOT = reason_against()
pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(bool(WHY_NOT), reason=f"no network for a guest: {WHY_NOT}"),
]
EXPLORER = Path(__file__).with_name("explorer.py")


def test_a_guest_reaches_others_and_not_its_hosts_loopback(tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("#!/bin/sh\n")
    (tmp_path / "job.sh").chmod(0o755)
    (tmp_path / "job.sub").write_text("executable = job.sh\nqueue\n")
    command = [sys.executable, "-m", "vmcapsule", "run", "--runner", "direct", "--keep"]
    knobs = {
        "NETWORK": "true",
        "TIMEOUT": str(TIMEOUT_S),
        "SCRATCH_DIR_PREFIX": str(tmp_path / "scratch"),
        "INIT_SCRIPT_PATH": str(EXPLORER),
    }
    environment = {f"_CONDOR_VM_CAPSULE_{name}": value for name, value in knobs.items()}
    stay = run_there([*command, "job.sub"], tmp_path, **environment)
    (console,) = (tmp_path / "scratch").glob("*/console.log")
    assert "explorer: done" in console.read_text(errors="replace"), stay.stderr
    assert (OUTSIDE, "tcp", OUTSIDE) in stay.visitors
    # The host's own resolver, on its loopback, answers names all the same.
    assert (OUTSIDE, "tcp", "by name") in stay.visitors
    assert {address for address, _, _ in stay.visitors} == {OUTSIDE}
