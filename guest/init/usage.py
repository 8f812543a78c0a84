"""What a running job uses, told to the host now and then over the live line."""

import os
import time

from init.contract import LINE_USAGE
from init.files import usage_so_far
from init.processes import process_table

MYPY = False
if MYPY:
    from typing import Dict, Iterator, Optional, Set

    from init.line import Line

#: How often the processes are looked at.
USAGE_S = 5.0
#: How often the sandbox is, which may have a million files: for so long at a time, so that
#: nothing else waits for it.
DISK_S, DISK_STEP_S = 60.0, 0.05
#: Fields of /proc/PID/stat from the state on (man 5 proc), and how far behind them those of
#: children are that have ended.
USER_CPU, SYSTEM_CPU, OF_CHILDREN, IMAGE_BYTES, RESIDENT_PAGES = 11, 12, 2, 20, 21


class Usage:
    """Looks at all processes of the job's user: this machine has no others of his."""

    def __init__(self, line: "Line", uid: int, sandbox: str) -> None:
        self.line, self.uid, self.sandbox = line, uid, sandbox
        self.look_at_s = time.monotonic() + USAGE_S
        self.user_ms = self.system_ms = 0
        #: At the most so far.
        self.resident_kib = self.image_kib = 0
        self.disk_kib, self.found_kib, self.disk_at_s = 0, 0, 0.0
        self.walk: Optional[Iterator[int]] = None

    def wanted(self) -> "Dict[int, int]":
        """It waits for nothing but time."""
        return {}

    def take(self, kind: bytes, data: bytes) -> None:
        """The host asks for nothing."""

    def look(self, ready: "Set[int]") -> None:
        """Look when it is time, and tell if the host has taken what was told before."""
        now_s = time.monotonic()
        self.walk_on(now_s)
        if now_s < self.look_at_s:
            return
        self.look_at_s = now_s + USAGE_S
        self.look_at_processes()
        if not self.line.unsent:
            told = [self.user_ms, self.system_ms, self.resident_kib, self.image_kib]
            numbers = [number.to_bytes(8, "big") for number in told + [self.disk_kib]]
            self.line.say(LINE_USAGE, b"".join(numbers))

    def look_at_processes(self) -> None:
        """All that run, and of children of theirs that have ended the CPU time."""
        tick_ms = 1000 / os.sysconf("SC_CLK_TCK")
        page_kib = os.sysconf("SC_PAGE_SIZE") // 1024
        user = system = image = resident = 0
        for pid, fields in process_table().items():
            try:
                if os.stat(f"/proc/{pid}").st_uid != self.uid:
                    continue
            except OSError:
                continue  # it has ended
            user += int(fields[USER_CPU]) + int(fields[USER_CPU + OF_CHILDREN])
            system += int(fields[SYSTEM_CPU]) + int(fields[SYSTEM_CPU + OF_CHILDREN])
            image += int(fields[IMAGE_BYTES]) // 1024
            resident += int(fields[RESIDENT_PAGES]) * page_kib
        self.user_ms, self.system_ms = int(user * tick_ms), int(system * tick_ms)
        self.resident_kib = max(resident, self.resident_kib)
        self.image_kib = max(image, self.image_kib)

    def walk_on(self, now_s: float) -> None:
        """Go on with what the sandbox takes up: a step, from time to time from the start."""
        if self.walk is None:
            if now_s < self.disk_at_s:
                return
            self.walk = usage_so_far(os.fsencode(self.sandbox))
            self.disk_at_s = now_s + DISK_S
        for found_kib in self.walk:
            self.found_kib = found_kib
            if time.monotonic() > now_s + DISK_STEP_S:
                return
        self.disk_kib, self.walk = self.found_kib, None
