"""Work done for several users at once, each in a process with that user's rights only.

A user may send signals to a process that has his rights, and make the files that it reads
into what he likes.  So each process has a deadline, one that is stopped is killed at once,
and what it says is bounded.  Nobody's process makes another's wait.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import resource
import select
import signal
import time
import traceback
from typing import Callable, NoReturn, Sequence

from vmcapsule.errors import SYSTEM_ERROR, one_line
from vmcapsule.named import NamedTuple

Say = Callable[[str], None]

#: So long may the work for one user take; a delivery of what a killed hook left is in it.
DEADLINE_S = 3600.0
#: So many users are worked for at once.
AT_ONCE = 16
#: After that time even a killed process that has not ended is no longer waited for: a file
#: system that a user mounted can hold it.
_KILLED_S = 5.0
_LOOK_S = 0.1
_LINES_MAX = 1000
_LINE_BYTES_MAX = 8192
_MEMORY_BYTES_MAX = 4 << 30
#: What of the environment is handed to a user's process.  condor_master's has keys in it.
_ENVIRONMENT = re.compile(r"PATH|LANG|LC_\w+|TZ|PYTHON\w+|CONDOR_CONFIG|_condor_.+", re.I)


class Task(NamedTuple):
    """Work for the user ``uid``; ``gid`` is his group where he has no account.

    ``work`` is told whom to tell what it does, in lines.
    """

    uid: int
    gid: int
    work: Callable[[Say], object]


def work_for_all(
    tasks: Sequence[Task], say: Say, *, deadline_s: float = DEADLINE_S, at_once: int = AT_ONCE
) -> None:
    """Do all ``tasks``, and say what they say, or why they did not end."""
    waiting, running = list(reversed(tasks)), list[_Process]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_Process(waiting.pop(), deadline_s))
            with contextlib.suppress(InterruptedError):
                select.select([process.fd for process in running], [], [], _LOOK_S)
            running = [process for process in running if not process.has_ended(say)]
    finally:
        for process in running:
            process.kill("gc was interrupted")


class _Process:
    """A task in a process of its own, from start to end."""

    def __init__(self, task: Task, deadline_s: float) -> None:
        self._uid = task.uid
        self.fd, end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _child(task, end)
        os.close(end)
        os.set_blocking(self.fd, False)
        self._unsaid, self._lines = b"", 0
        self._ends_at = time.monotonic() + deadline_s
        self._is_reaped, self._killed_for = False, ""

    def kill(self, why: str) -> None:
        """End the process and what it started, unless it has ended."""
        if self._is_reaped:
            return
        self._killed_for, self._ends_at = why, time.monotonic() + _KILLED_S
        os.kill(self._pid, signal.SIGKILL)
        # It may not have come to be a group's leader.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)

    def has_ended(self, say: Say) -> bool:
        """Look after it: pass on what it says; whether there is nothing more to look after."""
        pid, status = os.waitpid(self._pid, os.WNOHANG | os.WUNTRACED)
        self._is_reaped = pid != 0 and not os.WIFSTOPPED(status)
        self._pass_on(say)
        if self._is_reaped:
            self._tell_end(status, say)
            return True
        if self._killed_for:
            if time.monotonic() < self._ends_at:
                return False
            say(f"user {self._uid}: left process {self._pid} behind, which does not end")
            os.close(self.fd)
            return True
        if pid:
            self.kill("somebody stopped it")
        elif time.monotonic() >= self._ends_at:
            self.kill("it took too long")
        return False

    def _tell_end(self, status: int, say: Say) -> None:
        os.close(self.fd)
        if self._lines > _LINES_MAX:
            say(f"user {self._uid}: and {self._lines - _LINES_MAX} lines more")
        if self._killed_for:
            say(f"user {self._uid}: was not finished: {self._killed_for}")
        elif status:
            say(f"user {self._uid}: was not finished, see standard error")

    def _pass_on(self, say: Say) -> None:
        with contextlib.suppress(BlockingIOError):
            # Whoever fills the pipe as fast as it is read does not keep us here.
            self._unsaid += os.read(self.fd, 1 << 16)
        *lines, self._unsaid = self._unsaid.split(b"\n")
        self._unsaid = self._unsaid[:_LINE_BYTES_MAX]
        for line in lines:
            self._lines += 1
            if self._lines <= _LINES_MAX:
                say(one_line(line[:_LINE_BYTES_MAX].decode(errors="surrogateescape")))


def _child(task: Task, end: int) -> NoReturn:
    def say(line: str) -> None:
        data = one_line(line).encode(errors="surrogateescape") + b"\n"
        while data:
            data = data[os.write(end, data) :]

    status = SYSTEM_ERROR
    try:
        os.setpgid(0, 0)
        os.chdir("/")
        if os.getuid() != task.uid:
            _become(task)
        task.work(say)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _become(task: Task) -> None:
    """Take on a user's rights, for good, and leave ours behind."""
    for name in [name for name in os.environ if not _ENVIRONMENT.fullmatch(name)]:
        del os.environ[name]
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES_MAX, _MEMORY_BYTES_MAX))
    try:
        account = pwd.getpwuid(task.uid)
        os.environ["HOME"] = account.pw_dir
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
    except KeyError:
        os.setgroups([])
        os.setgid(task.gid)
    os.setuid(task.uid)
