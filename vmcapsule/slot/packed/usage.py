"""What a running job uses, as its guest says now and then, for the job's ad."""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import Mapping, Optional, Union

from vmcapsule import contract
from vmcapsule.errors import ToolError
from vmcapsule.slot import chirp
from vmcapsule.slot import starter as slot
from vmcapsule.slot.packed.links import Frames

_REPORT = struct.Struct(">5Q")
#: More than this of anything is no measurement, and no number of a ClassAd.
_MOST = 1 << 53
#: So much time between two reports: a starter sends nothing on for minutes.
_EVERY_S = 30.0


def read_report(data: bytes) -> Mapping[str, Union[int, float]]:
    """What a guest's frame says, by names of the job's ad; {} where it says nothing."""
    if len(data) != _REPORT.size or max(_REPORT.unpack(data)) > _MOST:
        return {}
    user_ms, system_ms, resident_kib, image_kib, disk_kib = _REPORT.unpack(data)
    return {
        slot.USED_USER_CPU: user_ms / 1000,
        slot.USED_SYSTEM_CPU: system_ms / 1000,
        slot.USED_RESIDENT_KIB: resident_kib,
        slot.USED_IMAGE_KIB: image_kib,
        slot.USED_DISK_KIB: disk_kib,
    }


class Usage:
    """Tells the starter by chirp, whose file is ``contact``; nobody waits for that but `close`.

    A starter that does not take it is not told again.
    """

    def __init__(self, contact: Path) -> None:
        self._contact = contact
        self._latest: Mapping[str, Union[int, float]] = {}
        self._ended = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def are_full(self) -> bool:
        """Only the latest is kept."""
        return False

    def wanted(self, more: bool) -> dict[int, int]:
        """It waits for no file."""
        return {}

    def take(self, kind: bytes, data: bytes) -> Frames:
        """Keep what the guest says; there is no answer."""
        if kind == contract.LINE_USAGE:
            self._latest = read_report(data) or self._latest
            if self._thread is None and self._latest:
                thread = threading.Thread(target=self._tell, daemon=True)
                thread.start()
                self._thread = thread
        yield from ()

    def look(self, ready: set[int]) -> Frames:
        """There is nothing to say to the guest."""
        yield from ()

    def close(self) -> None:
        """Tell nothing more: what the job used in the end comes next."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _tell(self) -> None:
        told: Mapping[str, Union[int, float]] = {}
        while not self._ended.is_set():
            latest = self._latest
            if latest != told:
                try:
                    chirp.set_delayed(latest, self._contact)
                except ToolError:
                    return  # nor will it take what comes in the end, which is told then
                told = latest
            self._ended.wait(_EVERY_S)
