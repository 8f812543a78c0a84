"""What stands in for jobs on execute points: USER_JOB_WRAPPER, as it is written."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.cli.test_cli import vmcapsule
from tests.unit.cli.test_execute_config import printed, templates

__all__ = ["templates"]
#: Stands in for the program: says how it was called, what of its environment would be
#: Python's, and what environment it was told of.
PROGRAM = """\
import json, os, sys
(kept,) = (word.partition("=")[2] for word in sys.argv if word.startswith("--environment="))
with open(kept, "rb") as file:
    entries = os.fsdecode(file.read()).split(chr(0))
mode = os.stat(kept).st_mode & 0o777
os.unlink(kept)
print(json.dumps([sys.argv[1:], dict(os.environ), entries[:-1], mode]))
"""
#: What Debian and what Red Hat have as sh.
SHELLS = [path for path in ("/bin/dash", "/bin/bash") if Path(path).exists()]
#: Names that shells set, read or take for their own; and two of the wrapper's.
SHELLS_OWN = """\
PWD OLDPWD IFS PPID OPTIND OPTARG SHLVL _ PS1 PS4 LINENO BASH_ENV BASH_FUNC_ml%% LC_ALL
LD_LIBRARY_PATH ENV HOME UID EUID PYTHONHOME PATH POSIXLY_CORRECT GREP_OPTIONS GREP_COLOR
EPOCHSECONDS RANDOM SECONDS FUNCNAME HISTCMD COMP_WORDBREAKS DIRSTACK GROUPS HOSTNAME HOSTTYPE
MACHTYPE OSTYPE TERM COLUMNS LINES MAILCHECK CDPATH FCEDIT NLSPATH vmcapsule_kept vmcapsule_odd
"""
names = st.one_of(
    st.text(st.sampled_from("AZaz09_%-.\xe9 \n"), min_size=1, max_size=4),
    st.sampled_from(SHELLS_OWN.split()),
)
environments = st.dictionaries(
    names, st.text(st.sampled_from("/=a\n\"' \xe9$(){};:"), max_size=6), max_size=6
)
ARGUMENTS = ["one", "two  words", "--", "-x", "$HOME", "'", ""]


def is_read_by_shells(environment: dict[str, str]) -> bool:
    """Without what one dies of as it begins, or warns of: so it would of any wrapper."""
    optind = environment.get("OPTIND", "1")
    return optind.isdigit() and optind.isascii() and "LC_ALL" not in environment


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
    wrapper: Path, ad: Optional[str], *command: str, shell: str = "/bin/sh", **env: str
) -> subprocess.CompletedProcess[str]:
    here = wrapper.parent / "dir_1"
    here.mkdir()
    sh = wrapper.parent / "sh"
    # Bash is another one by this name.
    sh.symlink_to(shell)
    if ad is not None:
        (here / ".job.ad").write_text(ad)
    told = {"_CONDOR_JOB_AD": str(here / ".job.ad"), **env}
    told["_CONDOR_WRAPPER_ERROR_FILE"] = str(here / ".job_wrapper_failure")
    return subprocess.run(
        [sh, wrapper, *command], cwd=here, env=told, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "ad", ["", "WantVMCapsule = false\n", 'X = "WantVMCapsule = true"\n', None]
)
def test_other_jobs_are_started_as_they_are(wrapper: Path, ad: Optional[str]) -> None:
    shown = ["/usr/bin/printf", "%s|", *ARGUMENTS]
    done = started(wrapper, ad, *shown)
    assert (done.returncode, done.stdout) == (0, "|".join([*ARGUMENTS, ""]))


@pytest.mark.parametrize("shell", SHELLS)
@given(environment=environments.filter(is_read_by_shells))
@example(environment={})
@example(environment={"PWD": "/home/alice", "BASH_FUNC_module%%": "() { :; }"})
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=60,
    deadline=None,
)
def test_other_jobs_have_their_own_environment(
    wrapper: Path, shell: str, environment: dict[str, str]
) -> None:
    """Whatever is in there, and whatever the shell that stands between does with it."""
    told = {
        "_CONDOR_JOB_AD": os.devnull,
        "_CONDOR_SCRATCH_DIR": str(wrapper.parent),
        **environment,
    }
    sh = wrapper.parent / "sh"
    if not sh.exists():
        # Bash is another one by this name.
        sh.symlink_to(shell)
    shown = [sh, wrapper, "/usr/bin/env", "-0"]
    done = subprocess.run(shown, env=told, cwd=wrapper.parent, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    entries = os.fsdecode(done.stdout).split("\0")[:-1]
    if shell == "/bin/bash" and "SHLVL" not in environment:
        # As any shell has it that is started without one.
        entries = [entry for entry in entries if entry != "SHLVL=0"]
    assert sorted(entries) == sorted(f"{name}={value}" for name, value in told.items())
    assert list(wrapper.parent.glob(".*")) == []


def test_a_job_that_cannot_be_asked_is_not_run_outside(wrapper: Path) -> None:
    wrapper.write_text(wrapper.read_text().replace("/bin/grep", "/nowhere/grep"))
    done = started(wrapper, "WantVMCapsule = true\n", "/usr/bin/printf", "no")
    assert (done.returncode, done.stdout) == (1, "")
    assert (wrapper.parent / "dir_1" / ".job_wrapper_failure").exists()


ODD = {"BASH_FUNC_module%%": "() { :; }"}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("odd", [{}, ODD])
def test_a_program_that_cannot_be_started_is_told_to_htcondor(
    wrapper: Path, shell: str, odd: dict[str, str]
) -> None:
    done = started(wrapper, "", "/nowhere/program", shell=shell, **odd)
    assert done.returncode != 0
    told = (wrapper.parent / "dir_1" / ".job_wrapper_failure").read_text()
    assert told == "cannot run /nowhere/program\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_other_jobs_start_where_python_does_not(wrapper: Path, shell: str) -> None:
    text = wrapper.read_text()
    assert text.count("=/usr/bin/python3\n") == 1
    wrapper.write_text(text.replace("=/usr/bin/python3\n", "=/nowhere/python3\n"))
    done = started(wrapper, "", "/usr/bin/printf", "started", shell=shell, **ODD)
    assert (done.returncode, done.stdout, done.stderr) == (0, "started", "")
    assert [path.name for path in (wrapper.parent / "dir_1").iterdir()] == [".job.ad"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_job_for_a_machine_does_not_end_where_python_does_not_start(
    wrapper: Path, shell: str
) -> None:
    wrapper.write_text(
        wrapper.read_text().replace("=/usr/bin/python3\n", "=/nowhere/python3\n")
    )
    done = started(wrapper, "WantVMCapsule = true\n", "/usr/bin/printf", "no", shell=shell)
    assert done.returncode != 0 and done.stdout == ""
    left = {path.name for path in (wrapper.parent / "dir_1").iterdir()}
    assert left == {".job.ad", ".job_wrapper_failure"}
    told = (wrapper.parent / "dir_1" / ".job_wrapper_failure").read_text()
    assert told == "cannot run /usr/bin/printf\n"


@pytest.mark.parametrize("odd", [{}, ODD])
def test_what_a_shell_takes_for_its_own_script_is_one_either_way(
    wrapper: Path, odd: dict[str, str]
) -> None:
    script = wrapper.parent / "script"
    script.write_text("echo $0 $1\n")
    script.chmod(0o755)
    done = started(wrapper, "", str(script), "one", PATH="/usr/bin:/bin", **odd)
    assert done.stdout == f"{script} one\n", done.stderr


@pytest.mark.parametrize("ad", ["A = 1\nWantVMCapsule = true\n", "wantvmcapsule = True\n"])
def test_a_job_that_asks_for_it_is_given_to_the_program(wrapper: Path, ad: str) -> None:
    odd = {"LD_PRELOAD": "", "LD_LIBRARY_PATH": "/no where", "PATH": "", "PYTHONHOME": "/no"}
    odd |= {"BASH_FUNC_module%%": "() { :; }", "PWD": "/home/alice", "A": "b\n=c"}
    done = started(wrapper, ad, "/dir/job", *ARGUMENTS, **odd)
    assert done.returncode == 0, done.stderr
    arguments, environment, entries, mode = json.loads(done.stdout)
    kept = arguments.pop(2)
    assert kept.startswith("--environment=./.vmcapsule-environment.") and mode == 0o600
    assert arguments == ["packed", "--memory-overhead-mib=256", "--", "/dir/job", *ARGUMENTS]
    assert {f"{name}={value}" for name, value in odd.items()} <= set(entries)
    assert "LD_PRELOAD" not in environment and "LD_LIBRARY_PATH" not in environment


def test_a_job_whose_environment_cannot_be_kept_is_not_run_without(wrapper: Path) -> None:
    nowhere = str(wrapper.parent / "nowhere")
    done = started(wrapper, "WantVMCapsule = true\n", "/job", _CONDOR_SCRATCH_DIR=nowhere)
    assert (done.returncode, done.stdout) == (1, "")
    told = (wrapper.parent / "dir_1" / ".job_wrapper_failure").read_text()
    assert told == "cannot run /job\n"


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
