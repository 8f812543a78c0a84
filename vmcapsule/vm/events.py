"""What QEMU says of a machine: whether it has stopped it, since a disk cannot be used.

It says so by its machine protocol (QMP).  Nobody talks to it: the one word that opens the
protocol comes from a file, and what happens is written into another.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Iterator, Optional

from vmcapsule.errors import SpaceError, ToolError, VmCapsuleError, one_line

#: For QEMU, whose standard input and output are an `Events`'.
OPTIONS = ("-chardev", "stdio,id=events,signal=off", "-mon", "chardev=events,mode=control")
#: For each of its drives.  A guest whose writing fails may go on and end well, with outputs
#: that are wrong; stopped, it is run again.  By default QEMU stops it for a full disk only.
ON_ERROR = "werror=stop,rerror=stop"
_OPEN = b'{"execute": "qmp_capabilities"}\n'
#: Of what QEMU says between two looks; it is a line now and then.
_LOOK_BYTES_MAX = 1 << 16


class Events:
    """What QEMU reads and writes: to be its standard input and output."""

    def __init__(self, said: IO[bytes], heard: IO[bytes]) -> None:
        self.said = said
        self.heard = heard
        self._position = 0

    def check(self) -> None:
        """Raise `SpaceError`, or `ToolError`, where QEMU has stopped the machine."""
        text = os.pread(self.heard.fileno(), _LOOK_BYTES_MAX, self._position)
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            error = _stop(line)
            if error is not None:
                raise error


@contextmanager
def events(scratch: Path) -> Iterator[Events]:
    """An `Events` whose files are in ``scratch``, and gone with it."""
    with TemporaryFile(dir=scratch) as said, TemporaryFile(dir=scratch) as heard:
        said.write(_OPEN)
        said.seek(0)
        yield Events(said, heard)


def _stop(line: bytes) -> Optional[VmCapsuleError]:
    """What is to be raised for an event; None: the machine runs on."""
    try:
        event: Any = json.loads(line)
        data = event.get("data", {})
        is_stop = event.get("event") == "BLOCK_IO_ERROR" and data.get("action") == "stop"
        is_full = data.get("nospace") is True
        reason = one_line(str(data.get("reason")), 200)
    except (ValueError, AttributeError):
        return None
    if not is_stop:
        return None
    said = f"the machine was stopped, since one of its disks cannot be used: {reason}"
    if is_full:
        return SpaceError(said, "make room where capsules run, or request the disk they use")
    return ToolError(said, "see the kernel's log about the disk on which capsules run")
