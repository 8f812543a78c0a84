"""What a person meets: help that fits a terminal, errors on one line with their status."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

import pytest

from tests.unit.returned import small_template
from vmcapsule import errors
from vmcapsule.classad.ads import Ad, parse_ad
from vmcapsule.cli import report

HOME = Path(__file__).resolve().parents[3]
COMMANDS = [
    [],
    ["run"],
    ["translate"],
    ["update"],
    ["finalize"],
    ["gc"],
    ["cleanup"],
    ["config"],
    ["boot"],
    ["extract"],
    ["inspect"],
    ["template"],
    ["template", "build"],
    ["template", "check"],
    ["tarball"],
    ["tarball", "build"],
]


def vmcapsule(
    *arguments: object, cwd: Path, stdin: str = "", env: Optional[dict[str, str]] = None
) -> subprocess.CompletedProcess[str]:
    settings = {
        "PATH": os.environ["PATH"],
        "HOME": str(cwd),
        "PYTHONPATH": str(HOME),
        "COLUMNS": "80",
        **(env or {}),
    }
    return subprocess.run(
        [sys.executable, "-m", "vmcapsule", *(str(a) for a in arguments)],
        cwd=cwd,
        env=settings,
        input=stdin,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_80_columns(command: list[str], tmp_path: Path) -> None:
    done = vmcapsule(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_help_names_every_exit_status(tmp_path: Path) -> None:
    text = vmcapsule("--help", cwd=tmp_path).stdout
    kinds = [k for k in vars(errors).values() if isinstance(k, type)]
    statuses = {k.exit_status for k in kinds if issubclass(k, errors.VmCapsuleError)}
    assert {int(n) for n in re.findall(r"\b(6\d|7\d) ", text)} == statuses


def test_what_the_system_refuses_is_told_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    env = {"_CONDOR_VM_CAPSULE_CACHE_DIR": str(tmp_path / "file/cache")}
    done = vmcapsule("tarball", "build", cwd=tmp_path, env=env)
    assert done.returncode == 71
    assert done.stderr == f"vmcapsule: '{tmp_path}/file/cache': Not a directory; correct that\n"


DAG = Path(__file__).resolve().parents[2] / "conformance" / "cases" / "dag" / "job.dag"
AD = 'ClusterId = 3\nProcId = 1\nJobUniverse = 5\nCmd = "{cmd}"\nIwd = "{iwd}"\n'


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "said"),
    [
        (["bogus"], "", 64, "invalid choice: 'bogus'"),
        (["run"], "", 64, "FILE"),
        (["run", "--timeout", "-3", "x"], "", 64, "'-3' is not a number of seconds"),
        (["run", "--timeout", "soon", "x"], "", 64, "'soon' is not a number of seconds"),
        (["run", "/dev/null"], "", 66, "'/dev/null' holds no job"),
        (["run", "gone.sub"], "", 66, "'gone.sub': No such file"),
        (["run", str(DAG)], "", 65, "describes a DAG, which needs a queue"),
        (["translate"], "", 65, "no ads"),
        (["translate"], "Cmd = \n", 65, "line 1"),
        (["translate"], AD.format(cmd="gone", iwd="/nowhere"), 67, "template"),
        (["finalize"], "a = 1\n", 65, "no line of dashes"),
        (["cleanup"], "A = \n", 0, "line 1"),
        (["cleanup"], "A = 1\n", 0, ""),
        (["cleanup"], 'VmCapsuleDir = "/gone"\n', 0, ""),
        (["inspect", "gone"], "", 64, "no capsule 'gone'"),
        (["boot", "."], "", 64, "is no capsule"),
        (["extract", "gone"], "", 64, "is no capsule"),
        (["extract", "7.0"], "", 64, "no capsule of yours for job 7.0"),
        (["gc", "--min-age", "x"], "", 64, "'x' is not a number of seconds"),
        (["gc"], "", 0, ""),
        (["template", "build", "--data-size", "x"], "", 64, "'x' is no size"),
        (["template", "check", "--no-boot"], "", 67, "this template will not work"),
    ],
)
def test_bad_input_gets_one_line_and_a_status_of_its_own(
    arguments: list[str], stdin: str, status: int, said: str, tmp_path: Path
) -> None:
    done = vmcapsule(*arguments, cwd=tmp_path, stdin=stdin)
    assert done.returncode == status, done.stderr
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    if done.stderr.startswith("vmcapsule:"):
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / ".cache/vmcapsule/scratch").exists()


def test_a_refused_job_names_the_attribute(tmp_path: Path) -> None:
    ad = AD.format(cmd="/bin/true", iwd=tmp_path) + "RequestGPUs = 1\n"
    done = vmcapsule("translate", cwd=tmp_path, stdin=ad)
    assert done.returncode == 65
    assert "RequestGPUs = 1" in done.stderr and "request_gpus" in done.stderr


def test_a_wrong_knob_is_named(tmp_path: Path) -> None:
    env = {"_CONDOR_VM_CAPSULE_DISK_PART_OFFSET": "63"}
    done = vmcapsule("translate", cwd=tmp_path, env=env)
    assert done.returncode == 78
    assert "VM_CAPSULE_DISK_PART_OFFSET = 63" in done.stderr


def test_a_knob_that_is_not_utf8_is_an_error_of_its_own(tmp_path: Path) -> None:
    env = {"_CONDOR_VM_CAPSULE_TEMPLATE": "/x\udcff"}
    done = vmcapsule("translate", cwd=tmp_path, env=env)
    assert done.returncode == 78 and "is not UTF-8" in done.stderr


def test_a_mistyped_knob_is_warned_of(tmp_path: Path) -> None:
    env = {"_CONDOR_VM_CAPSULE_TEMPLAT": "/x"}
    done = vmcapsule("translate", cwd=tmp_path, env=env)
    assert "warning: VM_CAPSULE_TEMPLAT is no knob" in done.stderr
    assert "VM_CAPSULE_TEMPLATE" in done.stderr


def test_a_log_that_cannot_be_written_costs_a_warning_only(tmp_path: Path) -> None:
    env = {"_CONDOR_VM_CAPSULE_TRANSLATE_LOG": str(tmp_path / "no/such/folder/log")}
    done = vmcapsule("translate", cwd=tmp_path, stdin="a = 1\n", env=env)
    assert done.returncode == 65
    assert "warning: cannot write the log" in done.stderr


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    done = vmcapsule("run", "\x1b[31mred", cwd=tmp_path)
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_caller_may_close_the_standard_streams(closed: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m vmcapsule translate {closed}', sys.executable],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PYTHONPATH": str(HOME), "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert done.returncode == 65, done.stderr
    assert b"Traceback" not in done.stderr and done.stdout == b""


def test_a_user_without_a_home_is_told_what_to_set(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become a user who is not in the password file")
    code = (
        "import os; from vmcapsule.config import default_cache; "
        "os.setuid(54321); default_cache()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HOME, env={}, capture_output=True, text=True
    )
    assert "ConfigError: this user has no home folder" in done.stderr


def test_a_home_that_is_closed_to_us_holds_no_configuration(tmp_path: Path) -> None:
    """A hook runs as the job's owner, with a HOME that may be root's."""
    if os.geteuid() != 0:
        pytest.skip("root's permission is needed to be somebody else")
    (tmp_path / "home").mkdir(mode=0o700)
    code = (
        "import os; from vmcapsule import config, params\n"
        "from vmcapsule.job.submit import _unpacked\n"
        "from pathlib import Path; os.setuid(54321)\n"
        "params.machine_has_condor_config()\n"
        "assert config.newest_tarball(Path.home() / 'cache') is None\n"
        "_unpacked(Path('/bin/sh'), Path.home() / 'cache')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HOME,
        env={"HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert "ToolError: cannot unpack condor_submit below" in done.stderr


def test_names_that_a_guest_chose_do_not_reach_the_terminal() -> None:
    assert report.output_lines(["/x/a\x1b[2J\nb  c\udcff"]) == ["  /x/a\\x1b[2J\\nb  c\\udcff"]


def test_an_interrupt_is_not_cut_short_by_the_next_one() -> None:
    """What follows the first is cleaning up; and what the caller ignores stays ignored."""
    code = """
import os, signal, sys, time
from vmcapsule.cli import cli
signal.signal(signal.SIGHUP, signal.SIG_IGN)
def work(arguments):
    os.kill(os.getpid(), signal.SIGHUP)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(9)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        print("cleaned", flush=True)
from vmcapsule.cli import commands
commands.inspect = work
sys.exit(cli.main(["inspect", "x"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (143, "cleaned\n"), done.stderr
    assert done.stderr == "vmcapsule: interrupted\n"


def test_the_hooks_are_the_commands(tmp_path: Path) -> None:
    for name, status in (("translate", 65), ("update", 0), ("finalize", 65), ("cleanup", 0)):
        done = run_hook(name, "", tmp_path)
        assert done.returncode == status, done.stderr


def run_hook(name: str, stdin: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A hook as HTCondor starts it; its Python is this one."""
    env = {"HOME": str(cwd), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    return subprocess.run(
        [HOME / "hooks" / name], cwd=cwd, env=env, input=stdin, capture_output=True, text=True
    )


RECORDED = HOME / "tests/fixtures/jobrouter-23.9.6"
ASKED = (
    'ChirpVmCapsuleHoldReason = "vmcapsule: ep1: no program"\n'
    "ChirpVmCapsuleHoldReasonCode = 6\nChirpVmCapsuleHoldReasonSubCode = 8\n"
)


@pytest.mark.parametrize("state", ["running", "idle"])
def test_python_is_not_started_for_a_routed_job_that_nothing_is_to_be_said_of(
    state: str, tmp_path: Path
) -> None:
    # A module that Python would find before ours, where the hook is started.
    strange = tmp_path / "strange"
    (strange / "vmcapsule").mkdir(parents=True)
    (strange / "vmcapsule/__init__.py").write_text("raise SystemExit('Python was started')")
    ad = (RECORDED / f"update-{state}.stdin").read_text()
    held = re.sub(r"(?m)^JobStatus *=.*$", "JobStatus = 5", ad)
    done = run_hook("update", ad, strange)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for text in (held, re.sub(r"(?m)^JobStatus *=.*$", "JobStatus = 1", ad) + ASKED):
        done = run_hook("update", text, strange)
        assert (done.returncode, done.stderr) == (0, "")
        assert "VmCapsuleHoldSeen = true\n" in done.stdout
        command = vmcapsule("update", cwd=tmp_path, stdin=text).stdout
        assert re.sub(r"\d{9,}", "", command) == re.sub(r"\d{9,}", "", done.stdout)
    # So Python is started only for those.
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho started\n")
    python.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    for text, said in ((ad, ""), (held, "started\n")):
        hook = [HOME / "hooks/update"]
        out = subprocess.run(hook, env=env, input=text, capture_output=True, text=True).stdout
        assert out == said


def test_a_cleanup_that_has_nothing_to_clear_away_starts_no_python(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\ncat\n")
    python.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    packed_there = 'VmCapsuleInSlot = true\nVmCapsuleSourceJobId = "4.2"\n'
    ended = f"{packed_there}JobStatus = 4\nLastJobStatus = 2\n"
    # Its user may have held it, which nobody else tells the log.
    taken_away = f"{packed_there}JobStatus = 3\nLastJobStatus = 4\n"
    made = 'JobStatus = 4\nVmCapsuleDir = "/gone"\n'
    for text, said in ((ended, ""), (taken_away, taken_away), (made, made)):
        hook = [HOME / "hooks/cleanup"]
        done = subprocess.run(hook, env=env, input=text, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def held_by_the_update_hook(
    ad: str, tmp_path: Path, env: Optional[dict[str, str]] = None
) -> Ad:
    """What becomes of a source ad that the router sends: translated, then updated."""
    stdin = f'[ Name = "capsule" ]\n------\n{ad}'
    done = vmcapsule("translate", cwd=tmp_path, stdin=stdin, env=env)
    assert done.returncode == 0, done.stderr
    routed = parse_ad(done.stdout)
    assert routed.integer("JobUniverse") == 5 and routed.boolean("Requirements") is False
    assert routed.value("PeriodicHold") is None, "it is not held before the hook had its turn"
    assert routed.string("PeriodicHoldReason") == routed.string("VmCapsuleHoldReason")
    idle = routed.with_({"JobStatus": 1, "QDate": 1})
    printed = parse_ad(vmcapsule("update", cwd=tmp_path, stdin=idle.long_form()).stdout)
    held = idle.with_({name: text for name, text in printed.attributes})
    assert held.integer("JobStatus") == 5 and held.boolean("VmCapsuleHoldSeen") is True
    assert held.boolean("PeriodicRemove") is True
    assert 0 <= time.time() - (held.integer("EnteredCurrentStatus") or 0) < 60
    again = vmcapsule("update", cwd=tmp_path, stdin=held.long_form()).stdout
    assert again == "", "it may be gone, and a failed change of it takes others along"
    return held


def test_a_job_that_cannot_be_translated_is_held_when_the_router_asks(tmp_path: Path) -> None:
    ad = AD.format(cmd="/bin/true", iwd=tmp_path) + 'Owner = "alice"\nRequestGPUs = 1\n'
    held = held_by_the_update_hook(ad, tmp_path)
    assert held.string("Owner") == "alice"
    assert (held.integer("HoldReasonCode"), held.integer("HoldReasonSubCode")) == (26, 65)
    reason = held.string("HoldReason") or ""
    assert "RequestGPUs = 1" in reason and "request_gpus" in reason


def test_a_missing_input_holds_with_htcondors_own_code(tmp_path: Path) -> None:
    knobs = {f"_CONDOR_{name}": value for name, value in small_template(tmp_path).items()}
    ad = AD.format(cmd="/bin/true", iwd=tmp_path) + 'TransferInput = "gone"\n'
    held = held_by_the_update_hook(ad, tmp_path, env=knobs)
    # CONDOR_HOLD_CODE TransferInputError, and ENOENT.
    assert (held.integer("HoldReasonCode"), held.integer("HoldReasonSubCode")) == (13, 2)
    assert "gone" in (held.string("HoldReason") or "")


@pytest.mark.parametrize(
    ("env", "status", "reason"),
    [
        ({}, 67, "vmcapsule template build"),
        ({"_CONDOR_VM_CAPSULE_TIMEOUT": "soon"}, 78, "VM_CAPSULE_TIMEOUT = soon"),
        ({"_CONDOR_VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE_CAPSULE": "x"}, 78, "_CAPSULE = x"),
    ],
)
def test_what_is_the_administrators_to_mend_holds_the_job_too(
    env: dict[str, str], status: int, reason: str, tmp_path: Path
) -> None:
    held = held_by_the_update_hook(AD.format(cmd="/bin/true", iwd=tmp_path), tmp_path, env)
    assert held.integer("HoldReasonSubCode") == status
    assert reason in (held.string("HoldReason") or "")


def test_a_held_routed_job_says_that_its_hold_was_seen(tmp_path: Path) -> None:
    running = (RECORDED / "update-running.stdin").read_text()
    assert vmcapsule("update", cwd=tmp_path, stdin=running).stdout == ""
    held = re.sub(r"(?m)^JobStatus *=.*$", "JobStatus = 5", running)
    assert held != running
    assert vmcapsule("update", cwd=tmp_path, stdin=held).stdout == "VmCapsuleHoldSeen = true\n"


def test_a_hold_that_the_slot_asked_for_has_its_own_code(tmp_path: Path) -> None:
    running = (RECORDED / "update-running.stdin").read_text() + ASKED
    assert vmcapsule("update", cwd=tmp_path, stdin=running).stdout == ""
    idle = re.sub(r"(?m)^JobStatus *=.*$", "JobStatus = 1", running)
    held = parse_ad(vmcapsule("update", cwd=tmp_path, stdin=idle).stdout)
    assert [held.integer(n) for n in ("JobStatus", "HoldReasonCode", "HoldReasonSubCode")] == [
        5,
        6,
        8,
    ]
    assert held.string("HoldReason") == "vmcapsule: ep1: no program"
    assert held.boolean("VmCapsuleHoldSeen") is True


def test_finalize_never_fails_a_job_that_the_router_sent(tmp_path: Path) -> None:
    source = AD.format(cmd="/bin/true", iwd=tmp_path) + f'UserLog = "{tmp_path}/job.log"\n'
    routed = f'VmCapsuleDir = "{tmp_path}/gone"\n'
    done = vmcapsule("finalize", cwd=tmp_path, stdin=f"{source}\n------\n{routed}")
    assert done.returncode == 0
    ad = parse_ad(done.stdout)
    assert ad.integer("ExitCode") == 64 and ad.boolean("ExitBySignal") is False
    assert "gone' is no capsule" in (ad.string("ExitReason") or "")
    note = (tmp_path / "job.log.vmcapsule").read_text()
    assert note.startswith("Job 3.1: vmcapsule: ") and "vmcapsule extract" in note


def test_the_printed_configuration_names_this_installation(tmp_path: Path) -> None:
    env = {"_CONDOR_VM_CAPSULE_CONDOR_TARBALL": "/srv/condor-1.tar"}
    done = vmcapsule("config", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    settings = dict(re.findall(r"^(\w+) = (.*)$", done.stdout, re.MULTILINE))
    assert settings["VM_CAPSULE_CONDOR_TARBALL"] == "/srv/condor-1.tar"
    assert settings["DAEMON_LIST"] == "$(DAEMON_LIST) JOB_ROUTER CAPSULE_GC"
    assert os.access(settings["CAPSULE_GC"], os.X_OK)
    for name in ("TRANSLATE_JOB", "UPDATE_JOB_INFO", "JOB_FINALIZE", "JOB_CLEANUP"):
        assert os.access(settings[f"CAPSULE_HOOK_{name}"], os.X_OK)
    assert "${" not in done.stdout
