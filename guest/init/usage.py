"""What a running job uses, told to the host now and then over the live line."""

import os
import struct
import time

from init.contract import LINE_USAGE
from init.files import usage_kib
from init.processes import process_table

MYPY = False
if MYPY:
    from typing import Dict, Set, Tuple

    from init.line import Line

#: How often the processes are looked at.
USAGE_S = 5.0
#: How often the sandbox is, which may have a million files: at most so much of all time.
DISK_S, DISK_SHARE = 60.0, 0.02
#: Fields of /proc/PID/stat from the state on (man 5 proc).
USER_CPU, SYSTEM_CPU, OF_CHILDREN, IMAGE_BYTES, RESIDENT_PAGES = 11, 12, 2, 20, 21
#: Milliseconds of the user's and of the system's, and KiB: resident and virtual at the most so
#: far, and on the disk.
REPORT = struct.Struct(">5Q")


class Usage:
    """Looks at all processes of the job's user: this machine has no others of his."""

    def __init__(self, line: "Line", uid: int, sandbox: str) -> None:
        self.line, self.uid, self.sandbox = line, uid, sandbox
        self.look_at_s = time.monotonic() + USAGE_S
        self.disk_at_s = 0.0
        self.peak_kib = (0, 0)
        self.disk_kib = 0

    def wanted(self) -> "Dict[int, int]":
        """It waits for nothing but time."""
        return {}

    def take(self, kind: bytes, data: bytes) -> None:
        """The host asks for nothing."""

    def look(self, ready: "Set[int]") -> None:
        """Tell it when it is time, and the host has taken what was told before."""
        now_s = time.monotonic()
        if now_s < self.look_at_s or self.line.unsent:
            return
        self.look_at_s = now_s + USAGE_S
        self.line.say(LINE_USAGE, REPORT.pack(*self.cpu_ms(), *self.peak_kib, self.disk()))

    def cpu_ms(self) -> "Tuple[int, int]":
        """The CPU time of all that runs, with that of children of theirs that have ended."""
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
        self.peak_kib = max(resident, self.peak_kib[0]), max(image, self.peak_kib[1])
        return int(user * tick_ms), int(system * tick_ms)

    def disk(self) -> int:
        """What the sandbox takes up, as it was seen last."""
        began_s = time.monotonic()
        if began_s >= self.disk_at_s:
            self.disk_kib = usage_kib(os.fsencode(self.sandbox))
            took_s = time.monotonic() - began_s
            self.disk_at_s = began_s + max(DISK_S, took_s / DISK_SHARE)
        return self.disk_kib
