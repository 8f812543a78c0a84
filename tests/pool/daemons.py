"""HTCondor's daemons in a pool: which process is which, and what its log says of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Optional

from tests.pool.space import Space
from vmcapsule.errors import ToolError

LOGS = "/var/log/condor"
#: Programs by HTCondor's name of the daemon: all those that a pool runs.
PROGRAMS = {
    "MASTER": "condor_master",
    "COLLECTOR": "condor_collector",
    "NEGOTIATOR": "condor_negotiator",
    "SCHEDD": "condor_schedd",
    "STARTD": "condor_startd",
    "JOB_ROUTER": "condor_job_router",
}
_LOG_NAMES = {
    "MASTER": "MasterLog",
    "COLLECTOR": "CollectorLog",
    "NEGOTIATOR": "NegotiatorLog",
    "SCHEDD": "SchedLog",
    "STARTD": "StartLog",
    "JOB_ROUTER": "JobRouterLog",
}


class Daemons:
    """The daemons that run in ``space``."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def pid(self, name: str) -> Optional[int]:
        """The process number of a daemon on the host, None when it does not run."""
        program = PROGRAMS[name]
        # Lowest first: what a daemon forks bears its name for a moment.
        for pid, argv in sorted(self._space.processes().items()):
            if argv and Path(argv[0]).name == program:
                return pid
        return None

    def kill(self, name: str, sig: signal.Signals) -> None:
        """Send a signal to a daemon; `ToolError` when it does not run."""
        pid = self.pid(name)
        if pid is None:
            raise ToolError(f"{PROGRAMS[name]} does not run in the pool")
        os.kill(pid, sig)

    def started(self, name: str) -> bool:
        """Does it run, and has the process that runs written its heading to the log?"""
        pid = self.pid(name)
        return pid is not None and f"** PID = {inner_pid(pid)} " in self.log(name)

    def readings(self, name: str) -> int:
        """How often a daemon has been told to read its configuration again."""
        return self.log(name).count("Got SIGHUP")

    def log(self, name: str) -> str:
        """The whole log of a daemon; empty when there is none yet."""
        path = self._space.path(f"{LOGS}/{_LOG_NAMES[name]}")
        return path.read_text(errors="replace") if path.exists() else ""


def inner_pid(pid: int) -> Optional[int]:
    """The number of a process in its own namespace (proc(5): NSpid); None: it ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return None
