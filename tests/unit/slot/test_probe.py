"""What an execute point's startd is told: run as it runs it, with a QEMU that we can vary."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Mapping

import classad2
import pytest

from vmcapsule.capsule.record import RETURNED, UNREPORTED_SIGNAL
from vmcapsule.errors import SpaceError
from vmcapsule.slot.program import PROGRAM, write_program
from vmcapsule.vm.accelerator import KVM, TCG, choose
from vmcapsule.vm.boot import MACHINE
from vmcapsule.vm.confinement import TUN

#: Looks like QEMU: its version, its machines, and a guest that KVM runs, or does not.
QEMU = """\
#!/bin/sh
case "$*" in
{sandbox}
*--version*) echo "QEMU emulator version {version} (Debian 1:x)" ;;
*"-machine help"*) echo "Supported machines are:"; echo "{machine}       Standard PC" ;;
*accel=kvm*)
    for word; do case "$word" in file:*) console=${{word#file:}} ;; esac; done
    {guest}
    ;;
esac
"""
BOOTS = 'echo "Linux version 6.12" >"$console"'


@pytest.fixture
def program(tmp_path: Path) -> Path:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"kernel")
    return write_program(tmp_path / "program.pyz", kernel)


def fake_pasta(folder: Path, script: str = 'while [ "$1" != -- ]; do shift; done') -> None:
    path = folder / "bin" / "pasta"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def fake_qemu(
    folder: Path,
    *,
    version: str = "7.2.22",
    machine: str = MACHINE,
    guest: str = BOOTS,
    sandbox: str = "",
) -> None:
    path = folder / "bin" / "qemu-system-x86_64"
    path.parent.mkdir(exist_ok=True)
    path.write_text(QEMU.format(version=version, machine=machine, guest=guest, sandbox=sandbox))
    path.chmod(0o755)


def environment(folder: Path) -> dict[str, str]:
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "TMPDIR": str(scratch)}


def probed(program: Path, folder: Path, *arguments: str) -> Mapping[str, object]:
    """The ad that a startd gets."""
    done = subprocess.run(
        [sys.executable, "-I", program, "probe", *arguments], env=environment(folder), cwd="/",
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert list((folder / "scratch").iterdir()) == []
    *lines, last = done.stdout.splitlines()
    assert last == "- update:true"
    ad = classad2.parseOne("\n".join(lines), classad2.ParserType.Old)
    values = {name: ad.eval(name) for name in ad}
    return {n: None if v is classad2.Value.Undefined else v for n, v in values.items()}


def test_a_machine_that_can_says_what_it_has(tmp_path: Path, program: Path) -> None:
    fake_qemu(tmp_path)
    fake_pasta(tmp_path)
    ad = probed(program, tmp_path)
    assert (ad["HasVMCapsule"], ad["VMCapsuleQEMUVersion"]) == (True, "7.2.22")
    assert ad["VMCapsuleNetwork"] is os.access(TUN, os.R_OK | os.W_OK)
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        assert (ad["VMCapsuleKVM"], ad["VMCapsuleReason"]) == (True, None)


def test_a_configuration_from_before_templates_had_a_job_of_their_own_is_told(
    tmp_path: Path, program: Path
) -> None:
    fake_qemu(tmp_path)
    ad = probed(program, tmp_path, "/a/template")
    assert "config --execute" in str(ad["VMCapsuleTemplateReason"])
    assert "VMCapsuleTemplateReason" not in probed(program, tmp_path)


def test_it_says_where_the_program_is(tmp_path: Path, program: Path) -> None:
    fake_qemu(tmp_path)
    assert probed(program, tmp_path)["VMCapsuleProgram"] == str(program)
    odd = program.rename(tmp_path / "a,b")
    assert probed(odd, tmp_path)["VMCapsuleProgram"] is None


@pytest.mark.parametrize("guest", ["exit 1", "true", 'echo "SeaBIOS" >"$console"'])
def test_kvm_counts_only_where_a_guest_comes_up(
    tmp_path: Path, program: Path, guest: str
) -> None:
    fake_qemu(tmp_path, guest=guest)
    ad = probed(program, tmp_path)
    assert ad["HasVMCapsule"] is True
    assert ad["VMCapsuleKVM"] in (False, None) and "/dev/kvm" in str(ad["VMCapsuleReason"])


def test_without_a_kernel_kvm_is_not_known(tmp_path: Path) -> None:
    fake_qemu(tmp_path)
    write_program(tmp_path / "p.pyz")
    ad = probed(tmp_path / "p.pyz", tmp_path)
    assert ad["HasVMCapsule"] is True and ad["VMCapsuleKVM"] in (False, None)
    assert ad["VMCapsuleReason"]


def test_a_qemu_without_our_machine_cannot(tmp_path: Path, program: Path) -> None:
    fake_qemu(tmp_path, machine=MACHINE + "0")
    ad = probed(program, tmp_path)
    assert ad["HasVMCapsule"] is False
    assert f"no machine '{MACHINE}'" in str(ad["VMCapsuleReason"])


def test_a_qemu_without_a_sandbox_cannot(tmp_path: Path, program: Path) -> None:
    said = "-sandbox support is not enabled in this QEMU binary"
    fake_qemu(tmp_path, sandbox=f'*-sandbox*) echo "{said}" >&2; exit 1;;')
    ad = probed(program, tmp_path)
    assert ad["HasVMCapsule"] is False and said in str(ad["VMCapsuleReason"])


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo No external routable interface for IPv4 >&2; exit 1", "routable interface"),
        ("echo 'Failed to send 9 bytes to syslog' >&2; exit 1", "pasta says: ;"),
    ],
)
def test_why_a_guest_can_have_no_network_is_said(
    tmp_path: Path, program: Path, script: str, said: str
) -> None:
    fake_qemu(tmp_path)
    fake_pasta(tmp_path, script)
    ad = probed(program, tmp_path)
    assert (ad["HasVMCapsule"], ad["VMCapsuleNetwork"]) == (True, False)
    assert said in str(ad["VMCapsuleReason"])
    assert "default route" in str(ad["VMCapsuleReason"])


def test_a_qemu_that_says_nothing_it_should_cannot(tmp_path: Path, program: Path) -> None:
    fake_qemu(tmp_path, version='\\"\x1b[2J')
    ad = probed(program, tmp_path)
    assert ad["HasVMCapsule"] is False and "(Debian" in str(ad["VMCapsuleReason"])


def test_no_qemu_is_an_answer_too(tmp_path: Path, program: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    (empty / "setpriv").symlink_to("/bin/true")
    done = subprocess.run(
        [sys.executable, "-c", _NO_SBIN, program, empty], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "HasVMCapsule = false\n" in done.stdout
    assert "'qemu-system-x86_64' is not installed" in done.stdout


#: Runs the program with nothing in its path but one folder.
_NO_SBIN = """
import runpy, sys
program, folder = sys.argv[1:]
sys.path.insert(0, program)
from vmcapsule import process
process._search_path = lambda: folder
sys.argv = [program, "probe"]
runpy.run_path(program, run_name="__main__")
"""

#: Runs the program as an older Python would.
_OLD = """
import runpy, sys
sys.version_info = (3, 6, 8)
program, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(program, run_name="__main__")
"""


def test_an_old_python_is_an_answer_too(program: Path) -> None:
    argv = [sys.executable, "-c", _OLD, program, "probe"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ad = classad2.parseOne(done.stdout, classad2.ParserType.Old)
    assert ad["HasVMCapsule"] is False and "Python 3.6 is too old" in ad["VMCapsuleReason"]


def test_an_old_python_of_a_machine_is_a_guest_that_does_not_report(tmp_path: Path) -> None:
    program = write_program(tmp_path / PROGRAM)
    done = subprocess.run(
        [sys.executable, "-c", _OLD, program, "machine"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -UNREPORTED_SIGNAL
    assert "Python 3.6 is too old" in done.stderr
    assert (tmp_path / RETURNED).is_dir()


def test_a_startd_that_ends_takes_the_probe_along(tmp_path: Path, program: Path) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("without /dev/kvm no guest is tried")
    running = tmp_path / "running"
    fake_qemu(tmp_path, guest=f"echo $$ >{running}; exec sleep 600")
    argv = [sys.executable, "-I", program, "probe"]
    probe = subprocess.Popen(argv, env=environment(tmp_path), stdout=subprocess.PIPE)
    deadline_s = time.monotonic() + 30
    while not (running.exists() and running.read_text()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    probe.send_signal(signal.SIGTERM)
    assert probe.communicate(timeout=30)[0] == b""
    assert list((tmp_path / "scratch").iterdir()) == []
    machine = Path(f"/proc/{running.read_text().strip()}")
    # The kernel kills it, and somebody else's parent has to notice.
    while machine.exists():
        assert time.monotonic() < deadline_s + 30, "its machine runs on"
        time.sleep(0.02)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    target = tmp_path / "none" / "p.pyz"
    with pytest.raises(SpaceError, match=str(target)):
        write_program(target)


@pytest.mark.parametrize(("works", "kind"), [(True, KVM), (False, TCG)])
def test_what_the_machine_says_of_kvm_is_believed_where_it_is_permitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool, kind: str
) -> None:
    device = tmp_path / "kvm"
    monkeypatch.setattr("vmcapsule.vm.accelerator.DEVICE", device)
    assert choose(tmp_path / "kernel", tmp_path, works) == TCG
    device.touch()
    assert choose(tmp_path / "kernel", tmp_path, works) == kind
