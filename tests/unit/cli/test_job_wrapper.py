"""What stands in for jobs on execute points: USER_JOB_WRAPPER, as it is written."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Optional

import pytest

from tests.unit.cli.test_cli import vmcapsule
from tests.unit.cli.test_execute_config import printed, templates

__all__ = ["templates"]
#: Stands in for the program: says how it was called.
PROGRAM = """\
import json, os, sys
print(json.dumps([sys.argv[1:], dict(os.environ)]))
"""
ARGUMENTS = ["one", "two  words", "--", "-x", "$HOME", "'", ""]


@pytest.fixture
def wrapper(tmp_path: Path, templates: Path) -> Path:
    found = printed(
        tmp_path, "--program", tmp_path / "the program", "--wrapper", tmp_path / "wrapper"
    )
    assert found["USER_JOB_WRAPPER"] == str(tmp_path / "wrapper")
    assert found["HasVMCapsuleWrapper"] == (
        'HasVMCapsule =?= True && (VMCapsuleTemplatePaths ?: "") != ""'
    )
    (tmp_path / "the program").write_text(PROGRAM)
    return tmp_path / "wrapper"


def started(
    wrapper: Path, ad: Optional[str], *command: str, **env: str
) -> subprocess.CompletedProcess[str]:
    here = wrapper.parent / "dir_1"
    here.mkdir()
    if ad is not None:
        (here / ".job.ad").write_text(ad)
    told = {"_CONDOR_JOB_AD": str(here / ".job.ad"), **env}
    told["_CONDOR_WRAPPER_ERROR_FILE"] = str(here / ".job_wrapper_failure")
    return subprocess.run(
        [wrapper, *command], cwd=here, env=told, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "ad", ["", "WantVMCapsule = false\n", 'X = "WantVMCapsule = true"\n', None]
)
def test_other_jobs_are_started_as_they_are(wrapper: Path, ad: Optional[str]) -> None:
    shown = ["/usr/bin/printf", "%s|", *ARGUMENTS]
    done = started(wrapper, ad, *shown)
    assert (done.returncode, done.stdout) == (0, "|".join([*ARGUMENTS, ""]))


def test_other_jobs_have_their_own_environment(wrapper: Path) -> None:
    done = started(wrapper, "", "/usr/bin/env", LD_LIBRARY_PATH="/x", FOO="a\nb")
    assert "LD_LIBRARY_PATH=/x\n" in done.stdout and "FOO=a\nb\n" in done.stdout


def test_a_program_that_cannot_be_started_is_told_to_htcondor(wrapper: Path) -> None:
    done = started(wrapper, "", "/nowhere/program")
    assert done.returncode != 0
    told = (wrapper.parent / "dir_1" / ".job_wrapper_failure").read_text()
    assert told == "cannot run /nowhere/program\n"


@pytest.mark.parametrize("ad", ["A = 1\nWantVMCapsule = true\n", "wantvmcapsule = True\n"])
def test_a_job_that_asks_for_it_is_given_to_the_program(wrapper: Path, ad: str) -> None:
    odd = {"LD_PRELOAD": "", "LD_LIBRARY_PATH": "/no where", "PATH": "", "PYTHONHOME": "/no"}
    done = started(wrapper, ad, "/dir/job", *ARGUMENTS, **odd)
    assert done.returncode == 0, done.stderr
    arguments, environment = json.loads(done.stdout)
    kept = ["--set=LD_LIBRARY_PATH=/no where", "--set=LD_PRELOAD="]
    given = ["packed", "--memory-overhead-mib=256"]
    assert arguments == [*given, *kept, "--", "/dir/job", *ARGUMENTS]
    assert environment["PYTHONHOME"] == "/no" and environment["PATH"] == ""
    assert "LD_PRELOAD" not in environment and "LD_LIBRARY_PATH" not in environment


def test_a_wrapper_says_what_the_administrator_has_configured(
    tmp_path: Path, templates: Path
) -> None:
    knobs = {"TEMPLATE": str(templates), "NETWORK": "true", "TIMEOUT": "3600"}
    env = {f"_CONDOR_VM_CAPSULE_{name}": text for name, text in knobs.items()}
    done = vmcapsule("config", "--execute", "--wrapper", "w", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "USER_JOB_WRAPPER = /usr/local/libexec/w\n" in done.stdout
    text = (tmp_path / "w").read_text()
    assert " --network --timeout=3600.0 " in text and "--require-kvm" not in text
    assert os.access(tmp_path / "w", os.X_OK)
