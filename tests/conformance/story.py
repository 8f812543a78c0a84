"""What a user's log tells: for each job the kinds of its events, in their order."""

from __future__ import annotations

import re
from typing import Dict, List, Tuple

#: Events that only tell of sizes, of files under way and of attributes of the job's ad:
#: how many there are is a matter of time (condor_event.h: IMAGE_SIZE, JOB_AD_INFORMATION,
#: FILE_TRANSFER).
PASSED_OVER = ("006", "028", "040")
_NAMES = {
    "000": "submitted",
    "001": "executing",
    "002": "not executable",
    "004": "evicted",
    "005": "terminated",
    "007": "shadow exception",
    "009": "aborted",
    "010": "suspended",
    "011": "resumed",
    "012": "held",
    "013": "released",
    "021": "remote error",
    "022": "disconnected",
    "023": "reconnected",
    "024": "reconnect failed",
    "035": "cluster submitted",
    "036": "cluster removed",
    "046": "skipped",
}
_EVENT = re.compile(r"^(\d{3}) \((\d+)\.(-?\d+)\.\d+\)")
_RETURN = re.compile(r"\(return value (-?\d+)\)|\(signal (\d+)\)")


def stories(log: str) -> Dict[Tuple[int, int], Tuple[str, ...]]:
    """By (cluster, process): the events of a log in HTCondor's classic form.

    A termination is told with the exit code or signal and, where there is one, the core.
    """
    told: Dict[Tuple[int, int], List[str]] = {}
    for text in log.split("\n...\n"):
        lines = text.lstrip("\n").split("\n")
        match = _EVENT.match(lines[0])
        if match is None or match[1] in PASSED_OVER:
            continue
        job = (int(match[2]), int(match[3]))
        told.setdefault(job, []).append(_word(match[1], lines[1:]))
    return {job: tuple(words) for job, words in told.items()}


def _word(number: str, lines: List[str]) -> str:
    name = _NAMES.get(number, f"event {number}")
    if number != "005" or not lines:
        return name
    ended = _RETURN.search(lines[0])
    how = f" with {ended[1]}" if ended and ended[1] is not None else ""
    how = f" by signal {ended[2]}" if ended and ended[2] is not None else how
    core = ", core" if any("Corefile in" in line for line in lines[:3]) else ""
    return f"{name}{how}{core}"
