"""What became of a case one way: its jobs' ends, and the folder that they left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Mapping, Optional, Tuple

#: How a job can stand at the end.
ENDED, HELD, REMOVED, FAILED, WAITING = "ended", "held", "removed", "failed", "waiting"


@dataclass(frozen=True)
class Usage:
    """What the job's ad says that it used; None for what it does not say.

    With ``of_machine`` CPU time and memory are known to be those of the job's machine.
    ``crowd`` is how many wanted each processor of this machine meanwhile.
    """

    cpu_s: Optional[float] = None
    memory_mib: Optional[int] = None
    disk_kib: Optional[int] = None
    of_machine: bool = False
    crowd: float = 1.0


@dataclass(frozen=True)
class JobEnd:
    """How one job stood at the end.

    ``state`` is one of the words above: FAILED is what `vmcapsule run` could not run and
    what condor_submit did not take, WAITING what neither ended nor was held in time.
    ``status`` is the exit status of vmcapsule where it gave up or refused, ``reason`` what
    it or HTCondor said.  ``runs`` and ``story`` (the kinds of the events in the user's
    log) are None for a way that has no queue.
    """

    state: str
    exit_code: Optional[int] = None
    exit_signal: Optional[int] = None
    core_dumped: bool = False
    hold_code: Optional[int] = None
    hold_subcode: Optional[int] = None
    status: Optional[int] = None
    reason: str = ""
    runs: Optional[int] = None
    story: Optional[Tuple[str, ...]] = None
    usage: Usage = Usage()


@dataclass(frozen=True)
class Entry:
    """A file, folder, link or other thing in a folder.

    ``kind`` is "file", "folder", "link", "fifo", "socket" or "device".  ``data`` is the
    beginning of a small file, to show how it differs; it is not compared.
    """

    kind: str
    mode: int
    size: int = 0
    sha256: str = ""
    is_sparse: bool = False
    target: bytes = b""
    data: Optional[bytes] = field(default=None, compare=False)


#: By path relative to the folder; the folder itself is ``.``.
Tree = Mapping[bytes, Entry]


@dataclass(frozen=True)
class Outcome:
    """The jobs of a case in the order of their numbers, and its folder afterwards."""

    jobs: Tuple[JobEnd, ...]
    tree: Tree


Outcomes = Dict[str, Outcome]
