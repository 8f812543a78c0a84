"""Who logs in to a job's slot, by condor_ssh_to_job, is in its machine: a shell over the line.

HTCondor has a door for that, made for jobs in containers.  Where ``.docker_sock`` is in a
sandbox its login script starts condor_docker_enter, which hands over its 0, 1 and 2 there and
waits until the other side hangs up (``docker_enter.cpp``, ``fdpass.unix.cpp``).

The line is the job's first of all: nothing that anybody does who logs in stops what goes over
it.  So each end of a shell tells what it has taken, and the other sends no more than a window.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import struct
import termios
import tty
from pathlib import Path
from typing import Any, Iterator, Optional

from vmcapsule import contract
from vmcapsule.slot.packed.links import Frames

_SOCKET = ".docker_sock"
_HANDED_OVER = 3
_READ_BYTES = contract.LINE_FRAME_BYTES_MAX // 2
_WINDOW_BYTES = contract.LINE_SHELL_WINDOW_BYTES
_ENVIRONMENT_BYTES_MAX = 4 << 20
_TERM_CHARS_MAX = 64
_COMMAND_BYTES_MAX = contract.LINE_FRAME_BYTES_MAX - 256
_PEER = struct.Struct("3i")
_SIZE = struct.Struct(">HH")
_COUNT = struct.Struct(">I")


class _Stream:
    """A descriptor that came, never waited for, whoever else has it open.

    Its flags are not ours to change: a terminal or a pipe is opened anew.
    """

    def __init__(self, fd: int, flags: int) -> None:
        self._socket: Optional[socket.socket] = None
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
            self.fd = self._socket.fileno()
        elif stat.S_ISREG(mode):
            self.fd = os.dup(fd)  # with its place in the file
        else:
            how = flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            self.fd = os.open(f"/proc/self/fd/{fd}", how)

    def read(self) -> bytes:
        """What is there, none at the end; `BlockingIOError` where nothing is there yet."""
        if self._socket is not None:
            return self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        return os.read(self.fd, _READ_BYTES)

    def write(self, data: bytes) -> int:
        """Say how much of it was written; `BlockingIOError` where nothing can be yet."""
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return os.write(self.fd, data)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self.fd)


class _Arrival:
    """One who has knocked, and what he has handed over by now."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.fds: list[int] = []
        connection.setblocking(False)

    @property
    def is_complete(self) -> bool:
        """Has he handed over all?"""
        return len(self.fds) == _HANDED_OVER

    def take(self) -> None:
        """Take what there is.  Raises `OSError` for who does not know how to hand over."""
        with contextlib.suppress(BlockingIOError):
            while len(self.fds) < _HANDED_OVER:
                byte, fds, _, _ = socket.recv_fds(self.connection, 1, 1)
                self.fds += fds
                if not byte or not fds:
                    raise ConnectionError("nobody to log in")

    def close_fds(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def close(self) -> None:
        self.close_fds()
        self.connection.close()


class _Login:
    """One who is logged in: the connection, and where he types and looks."""

    def __init__(self, arrival: _Arrival) -> None:
        self.connection = arrival.connection
        self.waiting = b""
        #: Of what he typed the guest has yet to take so much.
        self.untaken = 0
        #: Nothing more is typed; he has gone, or the shell has; what is left is shown.
        self.is_silent = self.is_leaving = self.is_over = False
        self._was: Optional[list[Any]] = None
        self.typed = _Stream(arrival.fds[0], os.O_RDONLY)
        try:
            self.shown = _Stream(arrival.fds[1], os.O_WRONLY)
        except OSError:
            self.typed.close()
            raise

    def enter(self) -> bytes:
        """Have a terminal hand on all that is typed; say what shell is wanted."""
        size = self.size()
        told = _environment(self.connection)
        term = told.get(b"TERM", b"dumb")[:_TERM_CHARS_MAX]
        command = told.get(b"SSH_ORIGINAL_COMMAND", b"")
        if len(command) > _COMMAND_BYTES_MAX:
            self.waiting = b"vmcapsule: the command is too long\r\n"
            self.flush()
            raise ConnectionError("a command that is too long")
        with contextlib.suppress(termios.error):
            self._was = termios.tcgetattr(self.typed.fd)
            # What has been typed already is not lost.
            tty.setraw(self.typed.fd, termios.TCSANOW)
        return size + term + b"\0" + command

    def size(self) -> bytes:
        """The terminal's, as the line has it; none has no rows."""
        try:
            rows, columns = os.get_terminal_size(self.typed.fd)[::-1]
        except OSError:
            return _SIZE.pack(0, 0)
        return _SIZE.pack(rows or 24, columns or 80)

    def flush(self) -> int:
        """Show what there is to show, and say how much was; raises `OSError` where nobody
        looks."""
        before = len(self.waiting)
        with contextlib.suppress(BlockingIOError):
            while self.waiting:
                self.waiting = self.waiting[self.shown.write(self.waiting) :]
        return before - len(self.waiting)

    def has_hung_up(self) -> bool:
        """Has its end gone?  It says a command's length there, which we know already."""
        try:
            return self.connection.recv(_READ_BYTES) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.flush()
        if self._was is not None:
            with contextlib.suppress(termios.error):  # it has gone
                termios.tcsetattr(self.typed.fd, termios.TCSANOW, self._was)
        self.typed.close()
        self.shown.close()
        self.connection.close()


def _environment(connection: socket.socket) -> dict[bytes, bytes]:
    """That of the program at the other end, which is its user's, as we are."""
    pid, _, _ = _PEER.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    )
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            entries = file.read(_ENVIRONMENT_BYTES_MAX).split(b"\0")
    except OSError:
        return {}
    return dict(entry.partition(b"=")[::2] for entry in entries if entry)


class Shells:
    """The door, who comes in by it, and who is in, by the numbers that the guest is told."""

    def __init__(self, door: Optional[socket.socket]) -> None:
        self._door = door
        self._has_begun = False
        self._arrivals: list[_Arrival] = []
        self._logins: dict[int, _Login] = {}

    def are_full(self) -> bool:
        """Never: nobody has the job wait."""
        return False

    def wanted(self, more: bool) -> dict[int, int]:
        """What to wait for, by file descriptor; ``more``: what is typed, too."""
        has_number = len(self._logins) < contract.LINE_SHELLS_MAX
        found = {
            arrival.connection.fileno(): select.POLLIN
            for arrival in self._arrivals
            # What he says beside is read when he is in.
            if has_number and not arrival.is_complete
        }
        for one in self._logins.values():
            if one.waiting or not one.is_leaving:
                found[one.connection.fileno()] = select.POLLIN
            listens = more and one.untaken < _WINDOW_BYTES
            if listens and not (one.is_silent or one.is_leaving):
                found[one.typed.fd] = select.POLLIN
            if one.waiting:
                found[one.shown.fd] = select.POLLOUT
        if self._door and self._has_begun and has_number:
            found[self._door.fileno()] = select.POLLIN
        return found

    def take(self, kind: bytes, data: bytes) -> Frames:
        """Take a frame of the guest's, whatever it is; what is yielded is the answer."""
        self._has_begun = self._has_begun or kind == contract.LINE_BEGUN
        if kind == contract.LINE_SHELL_END and not data:
            self.close()
        number = data[0] if data else contract.LINE_SHELLS_MAX
        one = self._logins.get(number)
        if one is None:
            return
        if kind == contract.LINE_SHELL_END:
            one.is_leaving = one.is_over = True
            yield from self._flush(number, one)
        elif kind == contract.LINE_SHELL_TAKEN and len(data) == 1 + _COUNT.size:
            one.untaken = max(0, one.untaken - _COUNT.unpack_from(data, 1)[0])
        elif kind == contract.LINE_SHELL_TEXT and not one.is_leaving:
            one.waiting += data[1:]
            yield from self._flush(number, one)
            if len(one.waiting) > _WINDOW_BYTES + contract.LINE_FRAME_BYTES_MAX:
                # A guest that does not care for what was taken.
                one.waiting = b""
                yield from self._leave(number, one)

    def look(self, ready: set[int]) -> Frames:
        """Go on with who is ready; what is yielded is for the guest."""
        for number, one in list(self._logins.items()):
            if one.connection.fileno() in ready and one.has_hung_up():
                one.waiting = b""
                yield from self._leave(number, one)
            elif one.typed.fd in ready and not (one.is_leaving or one.is_silent):
                yield from self._hear(number, one)
            if one.shown.fd in ready or one.is_over:
                yield from self._flush(number, one)
        for arrival in list(self._arrivals):
            if arrival.connection.fileno() in ready or arrival.is_complete:
                yield from self._admit(arrival)
        if self._door and self._door.fileno() in ready:
            self._open(self._door)

    def _open(self, door: socket.socket) -> None:
        """Let one more come in: for who does not get on the first of those goes."""
        try:
            connection, _ = door.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            # There are no descriptors left, say, and more important things that need them.
            self._shut()
            return
        if len(self._arrivals) >= contract.LINE_SHELLS_MAX:
            self._arrivals.pop(0).close()
        self._arrivals.append(_Arrival(connection))

    def _admit(self, arrival: _Arrival) -> Frames:
        try:
            arrival.take()
        except OSError:
            self._arrivals.remove(arrival)
            arrival.close()
            return
        if not arrival.is_complete or len(self._logins) >= contract.LINE_SHELLS_MAX:
            return
        self._arrivals.remove(arrival)
        try:
            one = _Login(arrival)
        except OSError:
            arrival.close()
            return
        arrival.close_fds()
        try:
            wanted = one.enter()
        except OSError:
            one.close()
            return
        number = min(set(range(contract.LINE_SHELLS_MAX)) - set(self._logins))
        self._logins[number] = one
        yield contract.LINE_SHELL, bytes([number]) + wanted

    def _hear(self, number: int, one: _Login) -> Frames:
        try:
            data = one.typed.read()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        size = one.size()
        if data and any(size):
            yield contract.LINE_SHELL_SIZE, bytes([number]) + size
        one.is_silent = not data
        one.untaken += len(data)
        yield contract.LINE_SHELL_TEXT, bytes([number]) + data

    def _flush(self, number: int, one: _Login) -> Frames:
        try:
            count = one.flush()
        except OSError:
            one.waiting, count = b"", 0
            yield from self._leave(number, one)
        if one.is_over and not one.waiting:
            self._logins.pop(number).close()
        elif count:
            yield contract.LINE_SHELL_TAKEN, bytes([number]) + _COUNT.pack(count)

    @staticmethod
    def _leave(number: int, one: _Login) -> Frames:
        if not one.is_leaving:
            one.is_leaving = True
            yield contract.LINE_SHELL_END, bytes([number])

    def _shut(self) -> None:
        if self._door is not None:
            self._door.close()
        self._door = None

    def close(self) -> None:
        """Have all go, and nobody come: the machine has ended."""
        self._shut()
        for arrival in self._arrivals:
            arrival.close()
        for one in self._logins.values():
            one.close()
        self._arrivals.clear()
        self._logins.clear()


@contextlib.contextmanager
def open_in(sandbox: Path) -> Iterator[Shells]:
    """A door in a sandbox, for its owner; none where its name is taken, or there is no room."""
    folder = os.open(sandbox, os.O_PATH | os.O_DIRECTORY)
    # The address of a socket is short, and a sandbox's path may not be.
    place = f"/proc/self/fd/{folder}/{_SOCKET}"
    door = socket.socket(socket.AF_UNIX)
    door.setblocking(False)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, folder)
        stack.callback(door.close)
        is_open = False
        with contextlib.suppress(OSError):
            door.bind(place)
            stack.callback(_remove, place)
            os.chmod(place, 0o600)  # noqa: PTH101
            door.listen()
            is_open = True
        shells = Shells(door if is_open else None)
        stack.callback(shells.close)
        yield shells


def _remove(place: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(place)  # noqa: PTH108
