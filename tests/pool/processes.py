"""The processes in a pool that run users' jobs, told from the others; numbers are the host's.

A machine and our vm-gahp work in the starter's folder for the job, where the job's ad lies.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterable, List, Optional

from tests.pool.pool import JobId, Pool
from vmcapsule.slot.program import PROGRAM_HOME

#: As the kernel starts the program, whose first line has '-I'.
GAHP = rf"\S*python3? -I {PROGRAM_HOME} -f .*-M 3"
STARTER = r"\S*condor_starter "


def matching(pool: Pool, pattern: str) -> List[int]:
    """All that runs inside whose arguments begin with ``pattern``."""
    running = pool.space.processes()
    return [pid for pid, argv in running.items() if re.match(pattern, " ".join(argv) + " ")]


def machines(pool: Pool) -> List[int]:
    """Every QEMU that runs in the pool."""
    return [pid for pid in pool.space.processes() if "qemu-system" in _program(pid)]


def gahps(pool: Pool) -> List[int]:
    """Every vm-gahp of ours that serves a starter."""
    return matching(pool, GAHP)


def of_job(pids: Iterable[int], job: JobId) -> Optional[int]:
    """The first of ``pids`` that works for ``job``."""
    return next((pid for pid in pids if works_for(pid, job)), None)


def works_for(pid: int, job: JobId) -> bool:
    """Does a process work in a folder that a starter has made for ``job``?"""
    try:
        ad = Path(f"/proc/{pid}/cwd/.job.ad").read_text(errors="replace")
    except OSError:
        return False
    return f'VmCapsuleSourceJobId = "{job}"' in ad


def parent_of(pid: int) -> int:
    """The process that started it, or that has it now."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def is_gone(pid: int) -> bool:
    """Has a process ended?"""
    return not Path(f"/proc/{pid}").exists()


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:  # it has ended
        return ""
