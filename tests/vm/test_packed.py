"""A job packed where it runs, by the one file of execute points, as a starter starts it."""

from __future__ import annotations

import contextlib
import signal
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import pytest

from tests.unit.starter import Starter
from tests.vm.conftest import TIMEOUT_S, kvm_line, template_lines
from vmcapsule.config import Config
from vmcapsule.slot.program import write_program

pytestmark = pytest.mark.vm
PYTHON = "/usr/bin/python3"
MACHINE_AD = "Cpus = 1\nMemory = 300\nDisk = 100000\n"


@dataclass(frozen=True)
class Ended:
    """How the program ended, and where."""

    status: int
    out: str
    err: str
    here: Path


@pytest.fixture
def here(tmp_path: Path) -> Path:
    sandbox = tmp_path / "dir_1"
    sandbox.mkdir()
    (sandbox / ".machine.ad").write_text(MACHINE_AD + kvm_line() + template_lines())
    (sandbox / ".job.ad").write_text("ClusterId = 7\nProcId = 1\n")
    return sandbox


def has_kvm() -> bool:
    return "true" in kvm_line()


def run(
    here: Path,
    config: Config,
    script: str,
    *arguments: str,
    stdin: str = "",
    option: str = "--timeout=400",
    first: str = "#!/bin/sh",
    **env: str,
) -> Ended:
    argv = command(here, config, script, *arguments, option=option, first=first)
    (here / "given").write_text(stdin)
    with (here / "given").open() as given:
        done = subprocess.run(
            argv, cwd=here, env={"PATH": "/nowhere", **env}, stdin=given,
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr, here)


def command(
    here: Path,
    config: Config,
    script: str,
    *arguments: str,
    option: str = "--timeout=400",
    first: str = "#!/bin/sh",
) -> list[str]:
    """What a job wrapper starts in place of a job, whose script is put into the sandbox."""
    program = here / "condor_exec.exe"
    program.write_text(f"{first}\n{script}")
    program.chmod(0o755)
    ours = [PYTHON, "-I", str(write_program_beside(here)), "packed"]
    return [*ours, option, "--", str(program), *arguments]


def write_program_beside(here: Path) -> Path:
    program = here.parent / "vmcapsule-execute.pyz"
    write_program(program)
    return program


SCRIPT = """\
echo "$PATH $LC_CTYPE"
PATH=/usr/bin:/bin
pwd
cat
printf '%s|' "$@" "$FOO"; echo
echo error >&2
rm gone; echo more >>kept; mkdir -p new/deep; echo x >new/deep/file
ln -s kept link
exit 7
"""


def test_a_job_finds_and_leaves_its_slot_as_natively(here: Path, config: Config) -> None:
    (here / "gone").write_text("")
    (here / "kept").write_text("kept\n")
    ended = run(here, config, SCRIPT, "one", "two  2", stdin="in\n", FOO="a  'b")
    assert ended.status == 7, ended.err
    # It is the job's own, and neither Python's nor what QEMU was looked for with.
    assert ended.out == f"/nowhere \n{here}\nin\none|two  2|a  'b|\n"
    assert ended.err == "error\n"
    names = {str(path.relative_to(here)) for path in here.rglob("*")}
    assert names == {
        *(".job.ad", ".machine.ad", "condor_exec.exe", "given", "kept", "link"),
        *("new", "new/deep", "new/deep/file"),
    }
    assert (here / "kept").read_text() == "kept\nmore\n"
    assert not (here / "link").is_symlink()
    assert (here / ".machine.ad").read_text().startswith(MACHINE_AD)


def test_it_dies_by_the_jobs_signal(here: Path, config: Config) -> None:
    starter = Starter()
    starter.write_contact(here)
    ended = run(here, config, "echo said; kill -SEGV $$\n")
    starter.close()
    assert (ended.status, ended.out) == (-11, "said\n"), ended.err
    # What kept its guest from the machine is in its ad.
    assert starter.attributes["ChirpVmCapsuleIsolation"] == ("kvm" if has_kvm() else "tcg")
    assert not (here / ".job_wrapper_failure").exists()


def test_it_is_not_emulated_where_the_job_does_not_want_that(
    here: Path, config: Config
) -> None:
    with (here / ".job.ad").open("a") as ad:
        ad.write("VmCapsuleRequireKVM = true\n")
    ended = run(here, config, "exit 4\n")
    assert ended.status == (4 if has_kvm() else 1)
    if not has_kvm():
        assert "KVM is required" in (here / ".job_wrapper_failure").read_text()


@pytest.mark.parametrize(("first", "status"), [("#!/nowhere/sh", 127), ("\x7fELF", 126)])
def test_a_program_that_cannot_be_started_ends_as_behind_a_shell(
    here: Path, config: Config, first: str, status: int
) -> None:
    ended = run(here, config, "exit 0\n", first=first)
    assert (ended.status, ended.out) == (status, "")
    assert ended.err.startswith("vmcapsule: ") and ended.err.count("\n") == 1
    # By which the starter would have the job run again, and again.
    assert not (here / ".job_wrapper_failure").exists()


def test_a_guest_that_does_not_report_is_no_end_of_the_job(here: Path, config: Config) -> None:
    ended = run(here, config, "echo said; sleep 600\n", option="--timeout=1")
    reason = (here / ".job_wrapper_failure").read_text()
    assert ended.status == 1
    assert reason.startswith("vmcapsule: the guest did not power off"), ended
    assert stat.S_ISREG((here / "condor_exec.exe").lstat().st_mode)
    assert not [path for path in here.iterdir() if path.name.startswith(".vmcapsule-")]


@contextlib.contextmanager
def started(
    here: Path, config: Config, script: str
) -> Iterator[Callable[[bytes], subprocess.Popen[bytes]]]:
    """A running job; what is yielded waits until it has printed something."""
    argv = command(here, config, script)
    out = here / "_condor_stdout"
    with out.open("ab") as stream, subprocess.Popen(argv, cwd=here, stdout=stream) as process:

        def printed(wanted: bytes) -> subprocess.Popen[bytes]:
            deadline_s = time.monotonic() + TIMEOUT_S
            while wanted not in out.read_bytes():
                assert process.poll() is None and time.monotonic() < deadline_s, (
                    out.read_bytes()
                )
                time.sleep(0.1)
            return process

        try:
            yield printed
        finally:
            process.kill()


ASKED = """\
trap 'echo asked' USR1
trap 'echo told; echo saved >state; exit 5' TERM
echo begun
while :; do sleep 0.2; done
"""


def test_a_running_job_is_heard_and_gets_its_signals(here: Path, config: Config) -> None:
    with started(here, config, ASKED) as printed:
        process = printed(b"begun\n")
        process.send_signal(signal.SIGUSR1)
        printed(b"begun\nasked\n").terminate()
        assert process.wait(TIMEOUT_S) == 5
    assert (here / "_condor_stdout").read_bytes() == b"begun\nasked\ntold\n"
    assert (here / "state").read_text() == "saved\n"


def test_what_a_job_printed_before_it_was_killed_is_there(here: Path, config: Config) -> None:
    with started(here, config, "echo begun; sleep 600") as printed:
        printed(b"begun\n").kill()
    assert (here / "_condor_stdout").read_bytes() == b"begun\n"


def test_a_starter_hears_what_a_running_job_uses(here: Path, config: Config) -> None:
    starter = Starter()
    starter.write_contact(here)
    script = "head -c 5000000 /dev/zero >made; echo begun; exec sleep 600"
    with started(here, config, script) as printed:
        process = printed(b"begun\n")
        deadline_s = time.monotonic() + TIMEOUT_S
        while "ChirpVmCapsuleDiskUsage" not in starter.attributes:
            assert process.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.1)
        process.kill()
    starter.close()
    told = {
        name: value for name, value in starter.attributes.items() if "Isolation" not in name
    }
    assert told.keys() == {
        f"ChirpVmCapsule{name}"
        for name in ("UserCpu", "SysCpu", "ResidentSetSize", "ImageSize", "DiskUsage")
    }
    used_kib, disk_kib = (
        told["ChirpVmCapsuleResidentSetSize"],
        told["ChirpVmCapsuleDiskUsage"],
    )
    # A 'sleep', and not a machine with its system.
    assert isinstance(used_kib, int) and 0 < used_kib < 20_000
    assert isinstance(disk_kib, int) and 4900 <= disk_kib < 20_000


#: A slot with a disk of its own, in a mount namespace that ends with the command.
SMALL = """\
mount -t tmpfs -o size=120m tmpfs "$1" && cp -a "$2"/. "$1" && cd "$1" || exit 99
shift 2
"$@"
status=$?
cat .job_wrapper_failure
ls -A
exit $status
"""


def test_a_job_that_fills_its_slot_has_not_ended(here: Path, config: Config) -> None:
    """QEMU stops a machine then, and would wait for ever."""
    unshare = ["unshare", "--mount"]
    if subprocess.run([*unshare, "true"], check=False).returncode != 0:
        pytest.skip("a private mount namespace cannot be had here (no root, or a plain chroot)")
    script = "head -c 300000000 /dev/zero | tr '\\0' x >big; sync; echo done\n"
    small = here.parent / "small"
    small.mkdir()
    argv = [word.replace(str(here), str(small)) for word in command(here, config, script)]
    done = subprocess.run(
        [*unshare, "sh", "-c", SMALL, "sh", small, here, *argv],
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    reason, *left = done.stdout.splitlines()
    assert "its disks cannot be used: No space left on device" in reason
    expected = {".job.ad", ".job_wrapper_failure", ".machine.ad", "condor_exec.exe"}
    assert set(left) == expected
