"""The host's end of a running job's line: what it prints comes here, signals go to it.

The guest is a stranger: of what it says there is no more at a time than a frame, what it
prints goes where its job's output goes anyway, connections lead to the starter's chirp proxy
alone, a shell to who has logged in for one, what it says that the job uses into the job's ad,
and nothing else becomes of it.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import struct
import sys
import threading
import zlib
from collections import deque
from typing import Iterator, Mapping, Optional, Protocol

from vmcapsule import contract
from vmcapsule.slot.ending import say
from vmcapsule.slot.packed.links import Frames
from vmcapsule.vm.line import Line

_HEAD = struct.Struct(">cI")
_READ_BYTES = 64 << 10
#: Of what the guest has not taken yet no more is kept.
_UNSENT_BYTES_MAX = 256 << 10
#: Shells may have so much more of it, without a guest that takes all being deafened by them.
_DEAF_BYTES = _UNSENT_BYTES_MAX + contract.LINE_SHELLS_MAX * (
    contract.LINE_SHELL_WINDOW_BYTES + contract.LINE_FRAME_BYTES_MAX
)
_SIGNALS_MAX = 64


class Stream:
    """A stream of the job's in the slot, and what of it has been written there already.

    ``count`` bytes, whose CRC-32 is ``crc``.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.count, self.crc = 0, 0
        self._is_stuck = False
        status = os.fstat(fd)
        self._base = status.st_size if stat.S_ISREG(status.st_mode) else None

    def write(self, data: bytes) -> None:
        """Append what the job has written, as it comes.

        Where not all of it can be written now, on a full disk, say, that and what follows is
        left to the end: nothing of it may lack or come twice.
        """
        view = memoryview(data)
        while view and not self._is_stuck:
            try:
                written = os.write(self.fd, view)
            except OSError:
                self._is_stuck = True
                break
            self.crc = zlib.crc32(view[:written], self.crc)
            self.count += written
            view = view[written:]

    def forget(self) -> None:
        """Take back what has been written, where that can be: the job has done so itself."""
        if self._base is not None:
            os.ftruncate(self.fd, self._base)
            os.lseek(self.fd, self._base, os.SEEK_SET)
            self.count, self.crc = 0, 0


def write_all(fd: int, data: bytes) -> None:
    """Write to an open file of whatever kind."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Talker(Protocol):
    """What else goes over a line: connections of some kind, or reports."""

    def are_full(self) -> bool:
        """Is the guest not to be listened to, since somebody else does not?"""

    def wanted(self, more: bool) -> dict[int, int]:
        """What to wait for, by file descriptor; ``more``: what is for the guest, too."""

    def take(self, kind: bytes, data: bytes) -> Frames:
        """Take a frame of the guest's, whatever it is; what is yielded is the answer."""

    def look(self, ready: set[int]) -> Frames:
        """Go on with what is ready; what is yielded is for the guest."""

    def close(self) -> None:
        """End it."""


def _warn(error: Exception) -> None:
    say(f"vmcapsule: warning: {type(error).__name__}: {error}", sys.stderr)


class Live:
    """A line in use; ``streams`` are by the kind of the frames that carry them."""

    def __init__(self, line: Line, streams: Mapping[bytes, Stream], *talkers: Talker) -> None:
        self._line = line
        self.streams = streams
        self._talkers = list(talkers)
        self._heard = b""
        self._unsent = bytearray()
        #: Signals are sent from where the rest is: not in the middle of another frame.
        self._signals: deque[int] = deque(maxlen=_SIGNALS_MAX)
        self._begun = self._broken = False
        self._wake: Optional[int] = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts a thread takes what comes, and sends what is to be sent."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        thread = threading.Thread(target=self._listen, args=(reader,))
        thread.start()
        self._wake = writer
        try:
            yield
        finally:
            self._wake = None
            os.close(writer)
            thread.join()
            os.close(reader)
            for talker in list(self._talkers):
                self._let_go(talker)

    def send_signal(self, number: int) -> bool:
        """Send the job a signal; False: it has not begun, and there is nobody to send it to."""
        if self._begun and self._wake is not None:
            self._signals.append(number)
            with contextlib.suppress(BlockingIOError):  # it is waking up already
                os.write(self._wake, b"!")
        return self._begun

    def _listen(self, woken: int) -> None:
        """Until the other end of the pipe ``woken`` is closed, and all that came is taken."""
        while True:
            ready = self._ready(woken)
            is_last = woken in ready and os.read(woken, _READ_BYTES) == b""
            self._say_signals()
            for talker in list(self._talkers):
                self._pass_on(talker, talker.look(ready))
            if is_last or self._line.out_of in ready:
                self._take_some()
            self._flush()
            if is_last:
                return

    def _ready(self, woken: int) -> set[int]:
        """Wait for something to do; say which file descriptors there is something for."""
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        # A guest that does not listen is not listened to, nor is a starter for it.
        has_room = len(self._unsent) < _UNSENT_BYTES_MAX
        is_heard = len(self._unsent) < _DEAF_BYTES and not self._broken
        if is_heard and not any(talker.are_full() for talker in self._talkers):
            poll.register(self._line.out_of, select.POLLIN)
        if self._unsent:
            poll.register(self._line.into, select.POLLOUT)
        for talker in self._talkers:
            for fd, events in talker.wanted(has_room).items():
                poll.register(fd, events)
        return {fd for fd, _ in poll.poll()}

    def _pass_on(self, talker: Talker, frames: Frames) -> None:
        """Say what a talker has to say.  One that fails is closed: the rest has to go on."""
        try:
            for kind, data in frames:
                self._say(kind, data)
        except Exception as error:  # whatever it is, it is not the job's
            _warn(error)
            self._let_go(talker)

    def _let_go(self, talker: Talker) -> None:
        """Close a talker, whatever becomes of that."""
        self._talkers.remove(talker)
        try:
            talker.close()
        except Exception as error:
            _warn(error)

    def _say_signals(self) -> None:
        """Those that there is room for; of what a guest does not take the last are kept."""
        while self._signals and len(self._unsent) < _UNSENT_BYTES_MAX:
            self._say(contract.LINE_SIGNAL, bytes([self._signals.popleft()]))

    def _say(self, kind: bytes, data: bytes) -> None:
        self._unsent += _HEAD.pack(kind, len(data)) + data

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                del self._unsent[: os.write(self._line.into, self._unsent)]

    def _take_some(self) -> None:
        """Take what has come by now, as much as a pipe holds."""
        with contextlib.suppress(BlockingIOError):
            self._heard += os.read(self._line.out_of, _READ_BYTES)
        at = 0
        while len(self._heard) >= at + _HEAD.size and not self._broken:
            kind, length = _HEAD.unpack_from(self._heard, at)
            self._broken = length > contract.LINE_FRAME_BYTES_MAX
            end = at + _HEAD.size + length
            if len(self._heard) < end or self._broken:
                break
            self._take(kind, self._heard[at + _HEAD.size : end])
            at = end
        self._heard = b"" if self._broken else self._heard[at:]

    def _take(self, kind: bytes, data: bytes) -> None:
        self._begun = self._begun or kind == contract.LINE_BEGUN
        if kind in self.streams:
            self.streams[kind].write(data)
            return
        for talker in list(self._talkers):
            self._pass_on(talker, talker.take(kind, data))
