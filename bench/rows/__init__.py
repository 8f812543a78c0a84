"""The rows of the benchmarks: each does one kind of work, ours and the alternatives'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Tuple

from bench.place import Place
from bench.results import Outcome
from bench.rows import boot, hooks, quickstart, router, running, short, slot, staging, xfs


@dataclass(frozen=True)
class Row:
    """A benchmark by its name, and what it is about in a line."""

    name: str
    about: str
    run: Callable[[Place], Outcome]


ROWS: Tuple[Row, ...] = (
    Row("large", "a file of 1 GiB onto a data disk and out: cp, mcopy, pyfatfs", staging.large),
    Row("small", "2,000 files of 20 kB: mcopy, cp", staging.small),
    Row("xfs", "a file of 1 GiB on XFS, which can share blocks: cp", xfs.shared),
    Row("quickstart", "a whole capsule: convert, mcopy, convert back", quickstart.quickstart),
    Row("translate", "the translate hook: a Python that imports classad2", hooks.translate),
    Row("translate-slot", "the hook for a job packed in its slot", hooks.translate_slot),
    Row("translate-large", "the hook for a job with an input of 1 GiB: cp", hooks.large),
    Row("translate-small", "the hook for a job with 2,000 files: mcopy, cp", hooks.small),
    Row("boot", "a capsule with the direct runner: a kernel that powers off", boot.direct),
    Row("boot-condor", "the same under the guest's HTCondor", boot.condor),
    Row("slot", "1 GiB in and out in a slot: cp, what the routed job claims", slot.large),
    Row("growth", "staging, from 1 to 10,000 files and from 1 MiB to 4 GiB", staging.growth),
    Row("router", "up to 200 jobs through a pool's JobRouter: natively", router.jobs),
    Row("running", "10,000 jobs that run, for the JobRouter", running.jobs),
    Row("short", "one job in a pool at default intervals, each way: natively", short.jobs),
)
