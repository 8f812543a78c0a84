"""A running guest, watched from outside: whatever runs it, and whatever it runs."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Callable, Optional, Sequence

from vmcapsule.errors import GuestError, GuestTimeout, one_line

#: A guest that has not mounted its data disk by then never will.
BOOT_TIMEOUT_S = 600.0
CONSOLE_TAIL_BYTES = 1 << 16
_LAST_WORDS_CHARS = 200
#: A guest that writes more than this on its console is after the host's disk.
CONSOLE_BYTES_MAX = 64 << 20
#: Longer than this between two looks, and we were stopped meanwhile, or nearly so.
_LOOK_S_MAX = 10.0


class Watch:
    """Looks at a running guest from outside: is it alive, and within its limits?

    A guest counts as alive when its data disk was written: mounting a vfat file system
    marks it so.  That needs no console, which a template made by hand may not have.
    """

    def __init__(self, console: Path, disk: Sequence[Path], timeout_s: Optional[float]) -> None:
        self._console = console
        self._disk = disk
        self._looked = time.monotonic()
        self._spent_s = 0.0
        self._timeout_s = timeout_s
        self._before = self._written()
        self._is_alive = False

    def _written(self) -> list[int]:
        return [path.stat().st_mtime_ns for path in self._disk]

    def _spend(self) -> float:
        """How long the guest has run; while it stands still so do we, and look at nothing."""
        now = time.monotonic()
        self._spent_s += min(now - self._looked, _LOOK_S_MAX)
        self._looked = now
        return self._spent_s

    def look(self, alive: Callable[[], None]) -> None:
        """Raise when a limit is passed; call ``alive`` when the guest first shows life."""
        spent_s = self._spend()
        if not self._is_alive and self._written() != self._before:
            self._is_alive = True
            alive()
        if self._console.stat().st_size > CONSOLE_BYTES_MAX:
            raise GuestError(
                f"the guest wrote more than {CONSOLE_BYTES_MAX} bytes on its console",
                "let the job write to its standard output instead",
            )
        if self._timeout_s is not None and spent_s > self._timeout_s:
            raise GuestTimeout(
                f"the guest did not power off within {self._timeout_s:g} s"
                + last_line(self._console),
                "give the job more time with --timeout or VM_CAPSULE_TIMEOUT",
            )
        if not self._is_alive and spent_s > BOOT_TIMEOUT_S:
            raise GuestTimeout(
                f"the guest did not mount its data disk within {BOOT_TIMEOUT_S:g} s"
                + last_line(self._console),
                "check the template with 'vmcapsule template check'",
            )


def check_panic(console: Path) -> None:
    """Raise `GuestError` where a guest's kernel has panicked, by its own words."""
    panic = re.search(rb"Kernel panic[^\r\n]*", console_tail(console))
    if panic:
        raise GuestError(
            f"the guest's kernel panicked: {panic.group().decode(errors='replace')[:200]}",
            "request more memory, or check the template with 'vmcapsule template check'",
        )


def console_tail(console: Path) -> bytes:
    """The last of the console's output."""
    with console.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - CONSOLE_TAIL_BYTES))
        return file.read()


def last_line(console: Path) -> str:
    """What a guest last said, in brackets to end a message with; empty: it said nothing."""
    lines = console_tail(console).decode(errors="replace").split("\n")
    said = [line for line in lines if line.strip()]
    return f" (its console last said: {one_line(said[-1], _LAST_WORDS_CHARS)})" if said else ""
