"""Who logs in to a job's slot, by condor_ssh_to_job, is in its machine: a shell over the line.

HTCondor has a door for that, made for jobs in containers.  Where ``.docker_sock`` is in a
sandbox its login script starts condor_docker_enter, which hands over its 0, 1 and 2 there and
waits until the other side hangs up (``docker_enter.cpp``, ``fdpass.unix.cpp``).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import termios
import tty
from pathlib import Path
from typing import Any, Iterator, Optional

from vmcapsule import contract
from vmcapsule.slot.packed.links import Frames

_SOCKET = ".docker_sock"
_HANDED_OVER = 3
_HAND_OVER_S = 2.0
_READ_BYTES = contract.LINE_FRAME_BYTES_MAX // 2
_ENVIRONMENT_BYTES_MAX = 4 << 20
_TERM_CHARS_MAX = 64
#: Of what who is logged in does not take no more is kept: then the guest is not listened to.
_WAITING_BYTES_MAX = 256 << 10
_PEER = struct.Struct("3i")
_SIZE = struct.Struct(">HH")


class _Login:
    """One who is logged in: the connection, and 0, 1 and 2 that came over it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.waiting = b""
        #: Nothing more is typed; he has gone, or the shell has; what is left is shown.
        self.is_silent = self.is_leaving = self.is_over = False
        self._fds: list[int] = []
        self._was: Optional[list[Any]] = None
        connection.settimeout(_HAND_OVER_S)
        while len(self._fds) < _HANDED_OVER:
            byte, fds, _, _ = socket.recv_fds(connection, 1, 1)
            if not byte or not fds:
                raise ConnectionError("nobody to log in")
            self._fds += fds
        connection.setblocking(False)
        for fd in self._fds:
            os.set_blocking(fd, False)

    @property
    def typed(self) -> int:
        return self._fds[0]

    @property
    def shown(self) -> int:
        return self._fds[1]

    def enter(self) -> bytes:
        """Have a terminal hand on all that is typed; say what shell is wanted."""
        size = self.size()
        with contextlib.suppress(termios.error):
            self._was = termios.tcgetattr(self.typed)
            # What has been typed already is not lost.
            tty.setraw(self.typed, termios.TCSANOW)
        told = _environment(self.connection)
        term = told.get(b"TERM", b"dumb")[:_TERM_CHARS_MAX]
        command = told.get(b"SSH_ORIGINAL_COMMAND", b"")[:_READ_BYTES]
        return size + term + b"\0" + command

    def size(self) -> bytes:
        """The terminal's, as the line has it."""
        if not os.isatty(self.typed):
            return _SIZE.pack(0, 0)
        rows, columns = os.get_terminal_size(self.typed)[::-1]
        return _SIZE.pack(rows or 24, columns or 80)

    def flush(self) -> None:
        """Show what there is to show; raises `OSError` where nobody looks."""
        with contextlib.suppress(BlockingIOError):
            while self.waiting:
                self.waiting = self.waiting[os.write(self.shown, self.waiting) :]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.flush()
        if self._was is not None:
            with contextlib.suppress(termios.error):  # it has gone
                termios.tcsetattr(self.typed, termios.TCSANOW, self._was)
        for fd in self._fds:
            with contextlib.suppress(OSError):
                # It is not ours alone.
                os.set_blocking(fd, True)
            os.close(fd)
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
    """The door, and all who are logged in, by the numbers that the guest is told."""

    def __init__(self, door: Optional[socket.socket]) -> None:
        self._door = door
        self._has_begun = False
        self._logins: dict[int, _Login] = {}

    def are_full(self) -> bool:
        """Is there somebody who does not look at what he is shown?"""
        return any(len(one.waiting) > _WAITING_BYTES_MAX for one in self._logins.values())

    def wanted(self, more: bool) -> dict[int, int]:
        """What to wait for, by file descriptor; ``more``: what is typed, too."""
        found = {}
        for one in self._logins.values():
            if one.waiting or not one.is_leaving:
                found[one.connection.fileno()] = select.POLLIN
            if more and not (one.is_silent or one.is_leaving):
                found[one.typed] = select.POLLIN
            if one.waiting:
                found[one.shown] = select.POLLOUT
        if self._door and self._has_begun and len(self._logins) < contract.LINE_SHELLS_MAX:
            found[self._door.fileno()] = select.POLLIN
        return found

    def take(self, kind: bytes, data: bytes) -> Frames:
        """Take a frame of the guest's, whatever it is; what is yielded is the answer."""
        self._has_begun = self._has_begun or kind == contract.LINE_BEGUN
        number = data[0] if data else contract.LINE_SHELLS_MAX
        one = self._logins.get(number)
        if one is None:
            return
        if kind == contract.LINE_SHELL_END:
            one.is_leaving = one.is_over = True
            yield from self._flush(number, one)
        elif kind == contract.LINE_SHELL_TEXT and not one.is_leaving:
            one.waiting += data[1:]
            yield from self._flush(number, one)

    def look(self, ready: set[int]) -> Frames:
        """Go on with who is ready; what is yielded is for the guest."""
        for number, one in list(self._logins.items()):
            if one.connection.fileno() in ready and self._has_hung_up(one):
                one.waiting = b""
                yield from self._leave(number, one)
            elif one.typed in ready and not (one.is_leaving or one.is_silent):
                yield from self._hear(number, one)
            if one.shown in ready or one.is_over:
                yield from self._flush(number, one)
        if self._door and self._door.fileno() in ready:
            yield from self._admit(self._door)

    def _admit(self, door: socket.socket) -> Frames:
        with contextlib.suppress(OSError):
            connection, _ = door.accept()
            try:
                one = _Login(connection)
            except OSError:
                connection.close()
                return
            number = min(set(range(contract.LINE_SHELLS_MAX)) - set(self._logins))
            self._logins[number] = one
            yield contract.LINE_SHELL, bytes([number]) + one.enter()

    def _hear(self, number: int, one: _Login) -> Frames:
        try:
            data = os.read(one.typed, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data and os.isatty(one.typed):
            yield contract.LINE_SHELL_SIZE, bytes([number]) + one.size()
        one.is_silent = not data
        yield contract.LINE_SHELL_TEXT, bytes([number]) + data

    @staticmethod
    def _has_hung_up(one: _Login) -> bool:
        """Has its end gone?  It says a command's length there, which we know already."""
        try:
            return one.connection.recv(_READ_BYTES) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _flush(self, number: int, one: _Login) -> Frames:
        try:
            one.flush()
        except OSError:
            one.waiting = b""
            yield from self._leave(number, one)
        if one.is_over and not one.waiting:
            self._logins.pop(number).close()

    @staticmethod
    def _leave(number: int, one: _Login) -> Frames:
        if not one.is_leaving:
            one.is_leaving = True
            yield contract.LINE_SHELL_END, bytes([number])

    def close(self) -> None:
        """Have all go: the machine has ended."""
        for one in self._logins.values():
            one.close()
        self._logins.clear()


@contextlib.contextmanager
def open_in(sandbox: Path) -> Iterator[Shells]:
    """A door in a sandbox, for its owner; none where its name is taken, or there is no room."""
    door = socket.socket(socket.AF_UNIX)
    door.setblocking(False)
    folder = os.open(sandbox, os.O_PATH | os.O_DIRECTORY)
    # The address of a socket is short, and a sandbox's path may not be.
    place = f"/proc/self/fd/{folder}/{_SOCKET}"
    is_open = False
    try:
        with contextlib.suppress(OSError):
            door.bind(place)
            is_open = True
            os.chmod(place, 0o600)  # noqa: PTH101
            door.listen()
        yield Shells(door if is_open else None)
    finally:
        if is_open:
            with contextlib.suppress(OSError):
                os.unlink(place)  # noqa: PTH108
        os.close(folder)
        door.close()
