"""The user's log of a source job: the hold event that nobody else writes.

The JobRouter mirrors a routed job's hold on its source without a word in the source's log,
and what follows that (``condor_wait``, DAGMan) would never hear of it.
"""

from __future__ import annotations

import os
import re
import time

from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.errors import one_line
from vmcapsule.job.policy import Logs

#: In a routed ad: the source's logs, by full path.
_USER_LOG, _NODES_LOG = "VmCapsuleUserLog", "VmCapsuleNodesLog"
_SOURCE = "VmCapsuleSourceJobId"
_JOB_ID = r"(\d{1,10})\.(\d{1,10})"
#: As HTCondor creates a log.
_LOG_MODE = 0o664


def told_logs(logs: Logs) -> dict[str, Value]:
    """What a routed ad says of its source's logs, for `tell_hold`."""
    named = ((_USER_LOG, logs.user), (_NODES_LOG, logs.nodes))
    return {name: quote(path) for name, path in named if path}


def tell_hold(routed: Ad) -> None:
    """Append the hold that ``routed`` tells of to its source's logs.

    The event is written as HTCondor's ``JobHeldEvent`` is (``condor_event.cpp``), in one
    write, with ISO 8601 dates and without a lock, which are HTCondor's defaults.  Raises
    `OSError` for a log that cannot be written.
    """
    match = re.fullmatch(_JOB_ID, routed.string(_SOURCE) or "")
    if match is None:
        return
    reason = one_line(routed.string("HoldReason") or "") or "Reason unspecified"
    code, subcode = (routed.integer(f"HoldReason{name}") or 0 for name in ("Code", "SubCode"))
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    event = (
        f"012 ({int(match[1]):03d}.{int(match[2]):03d}.000) {when} Job was held.\n"
        f"\t{reason}\n\tCode {code} Subcode {subcode}\n...\n"
    )
    for name in (_USER_LOG, _NODES_LOG):
        log = routed.string(name)
        if log:
            _append(log, event.encode(errors="surrogateescape"))


def _append(log: str, event: bytes) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _LOG_MODE)
    try:
        os.write(fd, event)
    finally:
        os.close(fd)
