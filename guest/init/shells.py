"""Shells in the guest for who logs in to the job's slot: what is typed comes over the line.

Whatever becomes of one is no matter of the job's.
"""

import os
import select
import signal

from init.contract import (
    LINE_FRAME_BYTES_MAX,
    LINE_SHELL,
    LINE_SHELL_END,
    LINE_SHELL_SIZE,
    LINE_SHELL_TAKEN,
    LINE_SHELL_TEXT,
    LINE_SHELL_WINDOW_BYTES,
    LINE_SHELLS_MAX,
)
from init.files import to_bytes, to_text
from init.report import Failure

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, List, Set, Tuple

    from init.line import Line

    #: Starts the user's shell: with these arguments, in the setting that the function makes
    #: last, with this kind of terminal.
    Start = Callable[[List[str], Callable[[], None], str], int]
    #: A shell without a process; what closes its end here; what makes it a new process's own.
    Prepared = Tuple["Shell", Callable[[], None], Callable[[], None]]

SIZE_BYTES = 4
COUNT_BYTES = 4
END_OF_TEXT = b"\x04"
#: How long the host is given to take the last that is said of shells.
LAST_TRIES, LAST_TRY_S = 20, 0.1


class Shell:
    """One shell: our end of its terminal or, where there is none, of a pair of sockets."""

    def __init__(self, fd: int, pair: "Any" = None) -> None:
        os.set_blocking(fd, False)
        self.fd, self.pair = fd, pair
        self.pid, self.is_over = 0, False
        self.waiting, self.is_last = b"", False
        #: It has closed its streams, and goes on.
        self.is_mute = False
        #: Of what it printed the host has yet to take so much.
        self.untaken = 0

    def flush(self) -> int:
        """Give it what it takes, and say how much that was."""
        before = len(self.waiting)
        try:
            while self.waiting:
                self.waiting = self.waiting[os.write(self.fd, self.waiting) :]
            if self.is_last and self.pair is not None:
                # A terminal has been told so by a character.
                self.is_last = False
                self.pair.shutdown(1)
        except BlockingIOError:
            pass
        except OSError:
            self.waiting = b""  # it does not listen any more
        return before - len(self.waiting)

    def has_ended(self) -> bool:
        if not self.is_over:
            self.is_over = os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return self.is_over

    def hang_up(self) -> None:
        """As by a terminal that is gone: also what it runs."""
        if not self.has_ended():
            hang_up(self.pid)
        if self.pair is None:
            os.close(self.fd)
        else:
            self.pair.close()


class Shells:
    """All of them, by the numbers that the host has given them; they are user ``uid``'s."""

    def __init__(self, line: "Line", start: "Start", uid: int) -> None:
        self.line, self.start, self.uid = line, start, uid
        self.shells: Dict[int, Shell] = {}
        #: Told to end, which they have not yet.
        self.ending: List[Shell] = []

    def wanted(self) -> "Dict[int, int]":
        """What to wait for, by file descriptor: nothing to send while the line is full."""
        found = {}
        for shell in self.shells.values():
            is_heard = not self.line.unsent and shell.untaken < LINE_SHELL_WINDOW_BYTES
            hears = select.POLLIN if is_heard and not shell.is_mute else 0
            found[shell.fd] = hears | (select.POLLOUT if shell.waiting else 0)
        return {fd: events for fd, events in found.items() if events}

    def look(self, _ready: "Set[int]") -> None:
        """Send what they have printed; one that has ended, and printed all, is over."""
        self.ending = [shell for shell in self.ending if not shell.has_ended()]
        for number, shell in list(self.shells.items()):
            self.flush(number, shell)
            # Before: what it printed last is there by then.
            has_ended = shell.has_ended()
            if self.line.unsent or shell.untaken >= LINE_SHELL_WINDOW_BYTES:
                continue
            try:
                data = os.read(shell.fd, LINE_FRAME_BYTES_MAX // 2)
            except BlockingIOError:
                if has_ended:
                    self.end(number)
                continue
            except OSError:
                data = b""  # nobody has the terminal any more
            shell.is_mute = not data
            if data:
                shell.untaken += len(data)
                self.say(LINE_SHELL_TEXT, number, data)
            elif has_ended:
                self.end(number)

    def take(self, kind: bytes, data: bytes) -> None:
        """What the host says of a shell, which may be over by now."""
        number = data[0] if data else LINE_SHELLS_MAX
        shell = self.shells.get(number)
        if kind == LINE_SHELL and shell is None and number < LINE_SHELLS_MAX:
            self.open(number, data[1 : 1 + SIZE_BYTES], data[1 + SIZE_BYTES :])
        elif shell is None:
            return
        elif kind == LINE_SHELL_TEXT:
            shell.is_last = not data[1:]
            is_typed = shell.is_last and shell.pair is None
            shell.waiting += END_OF_TEXT if is_typed else data[1:]
            self.flush(number, shell)
        elif kind == LINE_SHELL_TAKEN:
            taken = int.from_bytes(data[1 : 1 + COUNT_BYTES], "big")
            shell.untaken = max(0, shell.untaken - taken)
        elif kind == LINE_SHELL_SIZE and shell.pair is None:
            resize(shell.fd, data[1 : 1 + SIZE_BYTES])
        elif kind == LINE_SHELL_END:
            self.end(number)

    def flush(self, number: int, shell: Shell) -> None:
        taken = shell.flush()
        if taken:
            self.say(LINE_SHELL_TAKEN, number, taken.to_bytes(COUNT_BYTES, "big"))

    def open(self, number: int, size: bytes, said: bytes) -> None:
        term, _, command = (to_text(part) for part in said.partition(b"\0"))
        try:
            has_terminal = any(size[:2])
            prepared = with_terminal(size, self.uid) if has_terminal else with_pair()
            self.shells[number] = self.started(prepared, command, term)
        except (Failure, OSError, ImportError, ValueError) as error:
            # No memory for it, no terminal left: the job goes on.
            self.say(LINE_SHELL_TEXT, number, to_bytes(f"{error}\r\n"))
            self.say(LINE_SHELL_END, number)

    def started(self, prepared: "Prepared", command: str, term: str) -> Shell:
        shell, close_theirs, setup = prepared
        try:
            shell.pid = self.start(["-c", command] if command else [], setup, term)
        except BaseException:
            shell.is_over = True
            shell.hang_up()
            raise
        finally:
            close_theirs()
        return shell

    def end(self, number: int) -> None:
        shell = self.shells.pop(number)
        shell.hang_up()
        self.ending.append(shell)
        self.say(LINE_SHELL_END, number)

    def close(self) -> None:
        """Have all end, and say that there are no more: the job has ended."""
        for number in list(self.shells):
            self.end(number)
        self.line.say(LINE_SHELL_END)
        for _ in range(LAST_TRIES):
            if self.line.flush():
                break
            select.select([], [self.line.fd], [], LAST_TRY_S)

    def say(self, kind: bytes, number: int, data: bytes = b"") -> None:
        self.line.say(kind, bytes([number]) + data)


def with_terminal(size: bytes, uid: int) -> "Prepared":
    """A shell's terminal, which is the user's."""
    import fcntl
    import termios

    ours, theirs = os.openpty()
    try:
        if os.geteuid() == 0:
            os.fchown(theirs, uid, -1)
        resize(ours, size)
    except OSError:
        os.close(ours)
        os.close(theirs)
        raise

    def setup() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        stand_for_all(theirs)

    return Shell(ours), lambda: os.close(theirs), setup


def with_pair() -> "Prepared":
    """The same without a terminal."""
    import _socket

    ours, theirs = _socket.socketpair()
    return Shell(ours.fileno(), ours), theirs.close, lambda: stand_for_all(theirs.fileno())


def hang_up(group: int) -> None:
    try:
        os.killpg(group, signal.SIGHUP)
    except OSError:
        return  # all of them have ended, or are another user's


def stand_for_all(fd: int) -> None:
    for place in range(3):
        os.dup2(fd, place)


def resize(fd: int, size: bytes) -> None:
    import fcntl
    import struct
    import termios

    if len(size) == SIZE_BYTES:
        rows, columns = struct.unpack(">HH", size)
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
