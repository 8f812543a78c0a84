"""A line between a machine and who runs it: two pipes here, a port of virtio-serial there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator

from vmcapsule.named import NamedTuple

#: How QEMU calls the pipe that it reads, and the one that it writes.
_INTO, _OUT_OF = ".in", ".out"


class Line(NamedTuple):
    """Both pipes of a line: their path without what QEMU adds, and our ends, opened."""

    path: Path
    #: To write to, without waiting for the machine.
    into: int
    #: To read from.  It never ends: QEMU has opened it for reading, too.
    out_of: int


@contextlib.contextmanager
def made(path: Path) -> Iterator[Line]:
    """A line whose pipes lie at ``path``, and are gone with it."""
    places = [Path(f"{path}{end}") for end in (_INTO, _OUT_OF)]
    with contextlib.ExitStack() as stack:
        fds = []
        for place in places:
            os.mkfifo(place, 0o600)
            stack.callback(place.unlink, missing_ok=True)
            # Both ways: so nobody has to be at the other end.
            fds.append(os.open(place, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
        yield Line(path, *fds)


def options(path: Path, port: str) -> list[str]:
    """What gives a machine of QEMU's the line at ``path`` as its port of that name."""
    escaped = str(path).replace(",", ",,")
    return [
        *("-chardev", f"pipe,id=line,path={escaped}"),
        *("-device", "virtio-serial-pci"),
        *("-device", f"virtserialport,chardev=line,name={port}"),
    ]
