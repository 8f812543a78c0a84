"""Shells over a line, both its ends: who logs in to a slot, and what runs for him in there."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import traceback
from fcntl import ioctl
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.guest_place import load_guest
from vmcapsule import contract
from vmcapsule.slot.packed.live import Live
from vmcapsule.slot.packed.shells import Shells, open_in
from vmcapsule.vm.line import Line

guest = load_guest()
#: As HTCondor's condor_docker_enter: hands over its 0, 1 and 2, and waits.
ENTER = """\
import socket
with socket.socket(socket.AF_UNIX) as door:
    door.connect(".docker_sock")
    for fd in range(3):
        socket.send_fds(door, [b"\\0"], [fd])
    door.sendall(bytes(4))
    door.recv(1)
"""


class Job:
    """A job in a machine, which is a process here, and what there is of it in its slot."""

    def __init__(self, sandbox: Path, shells: Shells, machine: int) -> None:
        self.sandbox = sandbox
        self._shells = shells
        self._machine = machine

    def enter(self, **streams: Any) -> subprocess.Popen[bytes]:
        env = {"TERM": "vt52", **streams.pop("env", {})}
        return subprocess.Popen(
            [sys.executable, "-c", ENTER], cwd=self.sandbox, env=env, **streams
        )

    def until_alone(self) -> None:
        """Wait until nobody is logged in."""
        deadline_s = time.monotonic() + 60
        while len(self._shells.wanted(more=True)) != 1:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    def end(self) -> None:
        if self._machine:
            os.kill(self._machine, signal.SIGTERM)
            os.waitpid(self._machine, 0)
        self._machine = 0


def start_shell(sandbox: Path, more: list[str], at_last: Callable[[], None], term: str) -> int:
    def setup() -> None:
        os.setsid()
        os.chdir(sandbox)
        at_last()

    env = {"PATH": "/usr/bin:/bin", "TERM": term, "PS1": "", "JOBS": "own"}
    return int(guest.spawn(["/bin/sh", *more], setup, env))


def run_machine(port: socket.socket, start: Callable[..., int]) -> None:
    """What runs in the guest until the job is ended."""
    job = subprocess.Popen(["sleep", "600"])
    signal.signal(signal.SIGTERM, lambda *_: job.kill())
    line = guest.Line(port.fileno())
    guest.wait_with_line(job.pid, line, {}, [guest.Shells(line, start, os.getuid())])


@contextlib.contextmanager
def running(sandbox: Path, start: Callable[..., int]) -> Iterator[Job]:
    """A job with a line into its machine."""
    host, port = socket.socketpair()
    host.setblocking(False)
    port.setblocking(False)
    machine = os.fork()
    if machine == 0:
        try:
            host.close()
            run_machine(port, start)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stderr.flush()
            os._exit(0)
    port.close()
    with host, open_in(sandbox) as shells:
        live = Live(Line(sandbox, host.fileno(), host.fileno()), {}, shells)
        made = Job(sandbox, shells, machine)
        with live.listening():
            try:
                yield made
            finally:
                made.end()
    assert list(sandbox.glob(".*")) == []


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with running(tmp_path, partial(start_shell, tmp_path)) as made:
        yield made


def test_who_logs_in_is_where_the_job_runs(job: Job) -> None:
    pipe = subprocess.PIPE
    with job.enter(stdin=pipe, stdout=pipe) as entered:
        said, _ = entered.communicate(b"pwd\necho $JOBS $TERM\nno-such-program\n", 60)
    assert said.startswith(f"{job.sandbox}\nown vt52\n".encode())
    # What is no output comes there, too.
    assert said.endswith(b"not found\n")
    with job.enter(env={"SSH_ORIGINAL_COMMAND": "cat"}, stdin=pipe, stdout=pipe) as entered:
        assert entered.communicate(b"what is typed\n", 60)[0] == b"what is typed\n"
    job.until_alone()


def test_a_command_is_run_and_nothing_of_what_it_prints_is_lost(job: Job) -> None:
    env = {"SSH_ORIGINAL_COMMAND": "head -c 3000000 /dev/zero | tr '\\0' x; exit 3"}
    with job.enter(env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as entered:
        time.sleep(0.5)
        said, _ = entered.communicate(timeout=60)
    assert said == b"x" * 3_000_000
    job.until_alone()


def test_a_shell_that_is_slow_gets_all_that_is_typed(job: Job) -> None:
    env = {"SSH_ORIGINAL_COMMAND": "sleep 1; wc -c"}
    with job.enter(env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as entered:
        assert entered.communicate(b"x" * 3_000_000, 60)[0].split() == [b"3000000"]


def test_a_command_may_let_go_of_its_streams_and_go_on(job: Job) -> None:
    work = "exec >log 2>&1 </dev/null; sleep 1; echo done"
    with job.enter(
        env={"SSH_ORIGINAL_COMMAND": work}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as entered:
        assert entered.communicate(timeout=60)[0] == b""
    assert (job.sandbox / "log").read_text() == "done\n"


def test_who_does_not_look_delays_nobody_else(job: Job) -> None:
    endless = {"SSH_ORIGINAL_COMMAND": "yes"}
    with job.enter(env=endless, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as blind:
        time.sleep(1)
        for _ in range(3):
            with job.enter(
                env={"SSH_ORIGINAL_COMMAND": "seq 200000"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            ) as entered:
                assert len(entered.communicate(timeout=60)[0].split()) == 200_000
        blind.kill()
    job.until_alone()


def test_a_command_is_run_whole_or_not_at_all(job: Job) -> None:
    env = {"SSH_ORIGINAL_COMMAND": f"echo {'x' * 70_000}; echo end"}
    with job.enter(env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as entered:
        assert entered.communicate(timeout=60)[0] == b"vmcapsule: the command is too long\r\n"
    env = {"SSH_ORIGINAL_COMMAND": f"echo {'x' * 60_000}; echo end"}
    with job.enter(env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as entered:
        assert entered.communicate(timeout=60)[0].endswith(b"x\nend\n")


def test_a_terminal_is_one_in_there_of_the_same_size(job: Job) -> None:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    before = termios.tcgetattr(theirs)
    with job.enter(stdin=theirs, stdout=theirs, stderr=theirs) as entered:
        while termios.tcgetattr(theirs) == before:
            time.sleep(0.01)
        os.write(ours, b"stty size; tty\n")
        said = read_until(ours, b"/dev/pts/")
        assert b"33 101" in said
        # A new size is told with the next key.
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 99, 0, 0))
        os.write(ours, b"stty size\n")
        assert b"44 99" in read_until(ours, b"44 99")
        # As by control-D, which the terminal in there makes an end of.
        os.write(ours, b"\x04")
        entered.wait(60)
    # What was typed was shown once, by the terminal in there; here all is as it was.
    assert said.count(b"stty size") == 1
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def read_until(fd: int, end: bytes) -> bytes:
    said = b""
    while end not in said:
        said += os.read(fd, 4096)
    return said


def test_who_goes_takes_his_shell_along(job: Job) -> None:
    pipe = subprocess.PIPE
    with job.enter(stdin=pipe, stdout=pipe) as entered:
        assert entered.stdin and entered.stdout
        # What it runs is told, too.
        script = "trap 'echo gone >gone; exit' HUP; echo ready; while :; do sleep 0.1; done"
        entered.stdin.write(f"({script}) 2>/dev/null\n".encode())
        entered.stdin.flush()
        assert entered.stdout.readline() == b"ready\n"
        entered.kill()
    job.until_alone()
    deadline_s = time.monotonic() + 60
    while not (job.sandbox / "gone").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_there_are_so_many_at_once_and_the_next_waits(job: Job) -> None:
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        many = [
            stack.enter_context(job.enter(stdin=pipe, stdout=pipe))
            for _ in range(contract.LINE_SHELLS_MAX + 2)
        ]
        said = []
        for entered in many[::-1]:
            assert entered.stdin
            entered.stdin.write(b"echo here; read end\n")
            entered.stdin.flush()
        for entered in many:
            assert entered.stdin
            entered.stdin.close()
        for entered in many:
            assert entered.stdout
            said.append(entered.stdout.read())
    assert said == [b"here\n"] * len(many)
    job.until_alone()


def test_whoever_hands_nothing_over_is_not_let_in(job: Job) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(job.sandbox / ".docker_sock"))
        stranger.sendall(b"hello")
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    with job.enter(env={"SSH_ORIGINAL_COMMAND": "echo yes"}, stdout=subprocess.PIPE) as entered:
        assert entered.communicate(timeout=60)[0] == b"yes\n"


def test_who_hands_over_too_little_keeps_nothing_open_and_nobody_out(job: Job) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = opened()
    with contextlib.ExitStack() as stack:
        for _ in range(3 * contract.LINE_SHELLS_MAX):
            stranger = stack.enter_context(socket.socket(socket.AF_UNIX))
            stranger.connect(str(job.sandbox / ".docker_sock"))
            socket.send_fds(stranger, [b"\0"], [0])
        started_s = time.monotonic()
        env = {"SSH_ORIGINAL_COMMAND": "echo yes"}
        with job.enter(env=env, stdout=subprocess.PIPE) as entered:
            assert entered.communicate(timeout=60)[0] == b"yes\n"
        assert time.monotonic() - started_s < 30
    job.until_alone()
    # Those whom nobody pushed out have gone by now.
    deadline_s = time.monotonic() + 60
    while opened() > before:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_the_machines_end_is_the_end_of_all(tmp_path: Path) -> None:
    with running(tmp_path, partial(start_shell, tmp_path)) as job:
        entered = job.enter(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert entered.stdin and entered.stdout
        entered.stdin.write(b"echo ready; exec cat\n")
        entered.stdin.flush()
        assert entered.stdout.readline() == b"ready\n"
    with entered:
        assert entered.wait(60) == 0


def test_when_the_job_has_ended_nobody_gets_in_any_more(tmp_path: Path) -> None:
    with open_in(tmp_path) as shells:
        assert list(shells.take(contract.LINE_BEGUN, b"")) == []
        assert len(shells.wanted(more=True)) == 1
        assert list(shells.take(contract.LINE_SHELL_END, b"")) == []
        assert shells.wanted(more=True) == {}
        with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
            late.connect(str(tmp_path / ".docker_sock"))


def test_a_door_that_is_taken_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / ".docker_sock").write_text("the job's")
    with open_in(tmp_path) as shells:
        assert list(shells.take(contract.LINE_BEGUN, b"")) == []
        assert shells.wanted(more=True) == {}
    assert (tmp_path / ".docker_sock").read_text() == "the job's"


def test_only_its_owner_has_the_door(tmp_path: Path) -> None:
    with open_in(tmp_path):
        assert (tmp_path / ".docker_sock").stat().st_mode & 0o777 == 0o600


KINDS = [
    *(contract.LINE_SHELL, contract.LINE_SHELL_TEXT, contract.LINE_SHELL_SIZE),
    *(contract.LINE_SHELL_END, contract.LINE_BEGUN, b"?"),
]
FRAMES = st.lists(st.tuples(st.sampled_from(KINDS), st.binary(max_size=8)), max_size=20)


@given(FRAMES)
def test_whatever_a_guest_says_of_shells_nobody_asked_for_is_passed_over(
    frames: list[tuple[bytes, bytes]],
) -> None:
    shells = Shells(None)
    for kind, data in frames:
        assert list(shells.take(kind, data)) == []
    assert shells.wanted(more=True) == {} and not shells.are_full()


@given(FRAMES)
def test_whatever_a_host_says_of_shells_the_guest_goes_on(
    frames: list[tuple[bytes, bytes]],
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        started: list[int] = []

        def start(more: list[str], at_last: Any, term: str) -> int:
            started.append(os.posix_spawn("/bin/true", ["true"], {}))
            return started[-1]

        shells = guest.Shells(guest.Line(theirs.fileno()), start, os.getuid())
        for kind, data in frames:
            shells.take(kind, data)
            shells.look(set())
        assert len(shells.shells) <= contract.LINE_SHELLS_MAX
        for number in list(shells.shells):
            shells.end(number)
        for pid in started:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "error", [guest.Failure("exec", "cannot start '/bin/sh': no"), BlockingIOError(11, "no")]
)
def test_a_shell_that_does_not_start_says_so(tmp_path: Path, error: Exception) -> None:
    def fails(*_: object) -> int:
        raise error

    with running(tmp_path, fails) as job:
        with job.enter(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as entered:
            assert entered.communicate(timeout=60)[0] == f"{error}\r\n".encode()
        job.until_alone()
