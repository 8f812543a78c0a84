"""What fails before a machine runs is told to HTCondor, and is no job's end."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from vmcapsule.slot.program import write_probe

PYTHON = "/usr/bin/python3"
FAILURE = ".job_wrapper_failure"


def run(tmp_path: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    program = tmp_path / "program.pyz"
    write_probe(program, None)
    here = tmp_path / "dir_1"
    here.mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(
        [PYTHON, "-I", program, "packed", *arguments],
        cwd=here, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done, here


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--template=/nowhere", "--", "/bin/true"], "no folder /nowhere"),
        (["--template=/nowhere", "--of-another-version", "--", "/bin/true"], "job wrapper"),
        (["--", "/bin/true"], "job wrapper"),
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
    done, _ = run(tmp_path, "--template=/nowhere", "--", "/bin/true")
    assert done.returncode == 1
    assert "no folder /nowhere" in done.stderr and "Traceback" not in done.stderr
    assert stat.S_IMODE(here.stat().st_mode) == 0o711


def test_a_reason_is_one_line_of_bounded_length(tmp_path: Path) -> None:
    done, here = run(tmp_path, f"--template=/{'long ' * 200}\n/x", "--", "/bin/true")
    reason = (here / FAILURE).read_text()
    assert done.returncode == 1
    assert reason.count("\n") == 1 and len(reason) < 600
