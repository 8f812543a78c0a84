"""Shells in the guest for who logs in to the job's slot: what is typed comes over the line."""

import os
import select
import signal

from init.contract import (
    LINE_FRAME_BYTES_MAX,
    LINE_SHELL,
    LINE_SHELL_END,
    LINE_SHELL_SIZE,
    LINE_SHELL_TEXT,
    LINE_SHELLS_MAX,
)
from init.files import to_bytes, to_text
from init.report import Failure

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, Set

    from init.line import Line

    #: Starts the user's shell: with these arguments, in the setting that the function makes
    #: last, with this kind of terminal.
    Start = Callable[[list[str], Callable[[], None], str], int]

#: Of what a shell does not take more than this is not kept for it.
WAITING_BYTES_MAX = 1 << 20
SIZE_BYTES = 4
END_OF_TEXT = b"\x04"


class Shell:
    """One shell: our end of its terminal or, where there is none, of a pair of sockets."""

    def __init__(self, fd: int, pair: "Any" = None) -> None:
        os.set_blocking(fd, False)
        self.fd, self.pair = fd, pair
        self.pid, self.is_over = 0, False
        self.waiting, self.is_last = b"", False

    def flush(self) -> None:
        """Give it what it takes."""
        try:
            while self.waiting:
                self.waiting = self.waiting[os.write(self.fd, self.waiting) :]
            if self.is_last and self.pair is not None:
                # A terminal has been told so by a character.
                self.is_last = False
                self.pair.shutdown(1)
        except BlockingIOError:
            return
        except OSError:
            self.waiting = b""  # it does not listen any more

    def has_ended(self) -> bool:
        if not self.is_over:
            self.is_over = os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return self.is_over

    def close(self) -> None:
        if not self.has_ended():
            os.kill(self.pid, signal.SIGHUP)
        if self.pair is None:
            os.close(self.fd)
        else:
            self.pair.close()


class Shells:
    """All of them, by the numbers that the host has given them."""

    def __init__(self, line: "Line", start: "Start") -> None:
        self.line, self.start = line, start
        self.shells: Dict[int, Shell] = {}

    def wanted(self) -> "Dict[int, int]":
        """What to wait for, by file descriptor: nothing to send while the line is full."""
        hears = 0 if self.line.unsent else select.POLLIN
        found = {
            shell.fd: hears | (select.POLLOUT if shell.waiting else 0)
            for shell in self.shells.values()
        }
        return {fd: events for fd, events in found.items() if events}

    def look(self, _ready: "Set[int]") -> None:
        """Send what they have printed; one that has ended, and printed all, is over."""
        for number, shell in list(self.shells.items()):
            shell.flush()
            # Before: what it printed last is there by then.
            has_ended = shell.has_ended()
            if self.line.unsent:
                continue
            try:
                data = os.read(shell.fd, LINE_FRAME_BYTES_MAX // 2)
            except BlockingIOError:
                if has_ended:
                    self.end(number)
                continue
            except OSError:
                data = b""  # nobody has the terminal any more
            if data:
                self.say(LINE_SHELL_TEXT, number, data)
            else:
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
            shell.flush()
            if len(shell.waiting) > WAITING_BYTES_MAX:
                self.end(number)
        elif kind == LINE_SHELL_SIZE and shell.pair is None:
            resize(shell.fd, data[1 : 1 + SIZE_BYTES])
        elif kind == LINE_SHELL_END:
            self.end(number)

    def open(self, number: int, size: bytes, said: bytes) -> None:
        term, _, command = (to_text(part) for part in said.partition(b"\0"))
        more = ["-c", command] if command else []
        shell, theirs, setup = with_terminal(size) if any(size[:2]) else with_pair()
        try:
            shell.pid = self.start(more, setup, term)
        except Failure as error:
            shell.is_over = True
            shell.close()
            self.say(LINE_SHELL_TEXT, number, to_bytes(f"{error}\r\n"))
            self.say(LINE_SHELL_END, number)
            return
        finally:
            theirs()
        self.shells[number] = shell

    def end(self, number: int) -> None:
        self.shells.pop(number).close()
        self.say(LINE_SHELL_END, number)

    def say(self, kind: bytes, number: int, data: bytes = b"") -> None:
        self.line.say(kind, bytes([number]) + data)


def with_terminal(size: bytes) -> "tuple[Shell, Callable[[], None], Callable[[], None]]":
    """A shell's terminal; what closes its end here, and what makes it a new process's own."""
    import fcntl
    import termios

    ours, theirs = os.openpty()
    resize(ours, size)

    def setup() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        stand_for_all(theirs)

    return Shell(ours), lambda: os.close(theirs), setup


def with_pair() -> "tuple[Shell, Callable[[], None], Callable[[], None]]":
    """The same without a terminal."""
    import _socket

    ours, theirs = _socket.socketpair()
    return Shell(ours.fileno(), ours), theirs.close, lambda: stand_for_all(theirs.fileno())


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
