"""The host's end of a running job's line: what it prints comes here, signals go to it.

The guest is a stranger: of what it says there is no more at a time than a frame, what it
prints goes where its job's output goes anyway, and nothing else becomes of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zlib
from typing import Mapping

from vmcapsule import contract
from vmcapsule.vm.line import Line

_HEAD = struct.Struct(">cI")
_READ_BYTES = 64 << 10
#: Between two looks at the machine; what is more waits for the next.
_LOOK_BYTES_MAX = 2 << 20


class Stream:
    """A stream of the job's in the slot, and what of it has been written there already.

    ``count`` bytes, whose CRC-32 is ``crc``.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.count, self.crc = 0, 0
        status = os.fstat(fd)
        self._base = status.st_size if stat.S_ISREG(status.st_mode) else None

    def write(self, data: bytes) -> None:
        """Append what the job has written, as it comes."""
        self.crc = zlib.crc32(data, self.crc)
        self.count += len(data)
        write_all(self.fd, data)

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


class Live:
    """A line in use; ``streams`` are by the kind of the frames that carry them."""

    def __init__(self, line: Line, streams: Mapping[bytes, Stream]) -> None:
        self._line = line
        self.streams = streams
        self._heard = b""
        self._begun = self._broken = False

    def send_signal(self, number: int) -> bool:
        """Send the job a signal; False: it has not begun, and there is nobody to send it to."""
        if self._begun:
            # One that has not taken as many signals as a pipe holds takes none.
            with contextlib.suppress(BlockingIOError):
                os.write(self._line.into, _HEAD.pack(contract.LINE_SIGNAL, 1) + bytes([number]))
        return self._begun

    def look(self) -> None:
        """Take what the guest has said since the last look; raises OSError as streams do."""
        for _ in range(_LOOK_BYTES_MAX // _READ_BYTES):
            try:
                self._heard += os.read(self._line.out_of, _READ_BYTES)
            except BlockingIOError:
                break
            self._take_whole_frames()

    def _take_whole_frames(self) -> None:
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
