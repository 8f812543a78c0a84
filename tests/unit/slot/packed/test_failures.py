"""What fails before a machine runs is told to HTCondor, and is no job's end."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from tests.unit.starter import Starter
from vmcapsule.slot.program import write_program

PYTHON = "/usr/bin/python3"
FAILURE = ".job_wrapper_failure"


def run(
    tmp_path: Path,
    *arguments: str,
    command: str = "packed",
    folder: str = "/nowhere",
    **env: str,
) -> tuple[subprocess.CompletedProcess[str], Path]:
    program = tmp_path / "program.pyz"
    write_program(program)
    here = tmp_path / "dir_1"
    here.mkdir(mode=0o700, exist_ok=True)
    ad = tmp_path / "machine.ad"
    ad.write_text(
        f'Machine = "m1"\nVMCapsuleTemplates = "bb"\nVMCapsuleTemplatePaths = "{folder}"\n'
    )
    env = {"PATH": "/usr/bin:/bin", "_CONDOR_MACHINE_AD": str(ad), **env}
    done = subprocess.run(
        [PYTHON, "-I", program, command, *arguments],
        cwd=here, env=env, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, here


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--", "/bin/true"], "no folder /nowhere"),
        # With what helps.
        (["--of-another-version", "--", "/bin/true"], "with the same vmcapsule"),
        (["--"], "job wrapper"),
    ],
)
def test_the_reason_is_where_htcondor_looks_for_it(
    tmp_path: Path, arguments: list[str], word: str
) -> None:
    done, here = run(tmp_path, *arguments)
    reason = (here / FAILURE).read_text()
    assert done.returncode == 1
    assert reason.startswith("vmcapsule: ") and word in reason and reason.count("\n") == 1
    # HTCondor's own user is not the job's, and nobody is to list what is in there.
    assert stat.S_IMODE(here.stat().st_mode) == 0o711
    assert [path.name for path in here.iterdir()] == [FAILURE]


def test_a_full_disk_keeps_nothing_from_htcondor_but_the_reason(tmp_path: Path) -> None:
    """That the file is there is enough for the job to be run again."""
    here = tmp_path / "dir_1"
    here.mkdir(mode=0o700)
    (here / FAILURE).symlink_to("/dev/full")
    done, _ = run(tmp_path, "--", "/bin/true")
    assert done.returncode == 1
    assert "no folder /nowhere" in done.stderr and "Traceback" not in done.stderr
    assert stat.S_IMODE(here.stat().st_mode) == 0o711


def test_a_reason_is_one_line_of_bounded_length(tmp_path: Path) -> None:
    done, here = run(tmp_path, "--", "/bin/true", folder=f"/{'long ' * 200}")
    reason = (here / FAILURE).read_text()
    assert done.returncode == 1
    assert reason.count("\n") == 1 and len(reason) < 600


@pytest.fixture
def starter() -> Iterator[Starter]:
    made = Starter()
    yield made
    made.close()


ROUTED = ("--template-like=aa", "--", "/bin/true")


def test_the_queue_is_told_how_often_a_routed_job_was_not_run(
    tmp_path: Path, starter: Starter
) -> None:
    contact = starter.write_contact(tmp_path)
    (tmp_path / "job.ad").write_text("ChirpVmCapsuleUnreported = 1\n")
    env = {"_CONDOR_CHIRP_CONFIG": str(contact), "_CONDOR_JOB_AD": str(tmp_path / "job.ad")}
    done, here = run(tmp_path, *ROUTED, command="routed", **env)
    assert done.returncode == 1
    assert starter.at_once["ChirpVmCapsuleUnreported"] == 2
    reason = str(starter.at_once["ChirpVmCapsuleReason"])
    assert reason == (
        "m1: this machine has no template of the likeness aa; publish it ('vmcapsule template "
        "publish'), or copy VM_CAPSULE_TEMPLATE there"
    )
    assert "no template of the likeness aa" in (here / FAILURE).read_text()


def test_a_routed_ad_of_another_version_is_counted_too(
    tmp_path: Path, starter: Starter
) -> None:
    env = {"_CONDOR_CHIRP_CONFIG": str(starter.write_contact(tmp_path))}
    done, _ = run(tmp_path, "--of-tomorrow", *ROUTED, command="routed", **env)
    assert done.returncode == 1
    assert starter.at_once["ChirpVmCapsuleUnreported"] == 1
    reason = str(starter.at_once["ChirpVmCapsuleReason"])
    assert (
        reason.startswith("m1: the routed ad says '--of-tomorrow")
        and "same vmcapsule" in reason
    )


def test_a_starter_that_is_not_told_runs_the_job_again_all_the_same(tmp_path: Path) -> None:
    done, here = run(tmp_path, *ROUTED, command="routed")
    assert done.returncode == 1 and "there is no chirp here" in done.stderr
    assert "no template of the likeness aa" in (here / FAILURE).read_text()
