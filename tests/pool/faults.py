"""Jobs to which something happens, and the look at what is left of them afterwards."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Tuple, Union

import pytest

from tests.pool.plugin import HOME, SCRATCH, left_in
from tests.pool.pool import COMPLETED, JobId, Pool, PoolError
from tests.pool.processes import machines, works_for
from vmcapsule.classad.ads import Ad

HOOKS = ("translate", "update", "finalize", "cleanup")
_KNOBS = {
    "translate": "TRANSLATE_JOB",
    "update": "UPDATE_JOB_INFO",
    "finalize": "JOB_FINALIZE",
    "cleanup": "JOB_CLEANUP",
}
#: Inside: the hooks with faults in them, and where they say how far they are.
FOLDER = "/opt/vmcapsule-faults"
STATE = "/var/faults"
#: Emulated, and several machines at once.
TIMEOUT_S = 600
#: Longer than the router needs to clean up, and `gc` to come round.
QUIET_S = 90

#: In what a row adds to its job: a moment so many seconds after that was submitted.
LATER, LATER_S = "LATER", 20
#: For a job that is idle at some of the router's polls: while it runs no hook is asked.
IDLE_FOR_A_WHILE = f"requirements = time() > {LATER}"

EXIT_CODE = 3
INPUT = random.Random(3).randbytes(300_000)
OUTPUTS = {
    "out": b"ran\n",
    "err": b"",
    "twice.bin": INPUT * 2,
    "numbers": "".join(f"{n}\n" for n in range(1, 20001)).encode(),
}
_SCRIPT = f"""\
#!/bin/sh
sleep $(cat seconds)
cat in.bin in.bin >twice.bin
seq 20000 >numbers
echo ran
exit {EXIT_CODE}
"""
_SUBMIT = """\
executable = job.sh
transfer_input_files = in.bin, seconds
output = out
error = err
log = {log}
request_memory = 64
+WantJobRouter = True
+Fault = "{fault}"
+FaultKnobs = "{knobs}"
{more}
queue
"""


@dataclass(frozen=True)
class Row:
    """A job and what is to happen to it; ``fault`` and ``knobs`` are `fault_hook`'s."""

    name: str
    fault: str = ""
    knobs: str = ""
    more: str = ""
    seconds: int = 0
    log: str = "log"


@contextlib.contextmanager
def faulty_hooks(pool: Pool) -> Iterator[None]:
    """Have the pool's router run the hooks with faults in them; they are those installed."""
    source = (Path(__file__).parent / "fault_hook.py").read_bytes()
    pool.space.make_folder(STATE)
    pool.path(STATE).chmod(0o1777)
    lines = []
    for name in HOOKS:
        if not pool.path(f"{HOME}/hooks/{name}").exists():
            continue
        pool.put(f"{FOLDER}/{name}", source, mode=0o755)
        lines.append(f"CAPSULE_HOOK_{_KNOBS[name]} = {FOLDER}/{name}\n")
        if name in ("finalize", "cleanup"):
            lines.append(f"CAPSULE_RUNNING_HOOK_{_KNOBS[name]} = {FOLDER}/{name}\n")
    pool.configure("90-faults", "".join(lines))
    try:
        pool.reconfigure()
        yield
    finally:
        pool.unconfigure("90-faults")
        pool.reconfigure()


class Case:
    """A row's job, submitted by alice from a folder with the row's name."""

    def __init__(self, pool: Pool, row: Row) -> None:
        self.pool = pool
        self.row = row
        self.folder = f"/home/alice/{row.name}"
        fault = f"{row.name} {row.fault}" if row.fault else ""
        more = row.more.replace(LATER, str(int(time.time()) + LATER_S))
        text = _SUBMIT.format(log=row.log, fault=fault, knobs=row.knobs, more=more)
        self.files: Dict[str, Union[str, bytes]] = {
            "job.sh": _SCRIPT,
            "in.bin": INPUT,
            "seconds": f"{row.seconds}\n",
        }
        self.job: JobId = pool.submit("alice", self.folder, text, self.files)
        own = re.search(r"SCRATCH_DIR_PREFIX=(\S+)", row.knobs)
        self.scratch = own[1] if own else SCRATCH

    # What the faulty hook does

    @property
    def has_happened(self) -> bool:
        """Has the fault happened, or is the hook waiting where it was told to?"""
        return self.pool.path(f"{STATE}/{self.row.name}.reached").exists()

    def until_it_happened(self) -> None:
        """Wait for the fault; the job may not have ended before."""
        self.pool.until(
            lambda: self.has_happened or not self.pool.queue(self.job),
            TIMEOUT_S,
            f"{self.row.name}: {self.row.fault}",
        )
        assert self.has_happened, f"{self.row.name}: ended, and it never came to the fault"

    def let_go(self) -> None:
        """Let the hook that waits go on."""
        self.pool.put(f"{STATE}/{self.row.name}.go", "")

    # What there is of it

    def as_user(self, *argv: str, check: bool = True) -> str:
        """Run a command as the job's owner in the job's folder; return what it printed."""
        done = self.pool.run("alice", argv, cwd=self.folder, check=check)
        return (done.stdout + done.stderr).decode(errors="replace")

    def source(self) -> Ad:
        """The job's ad while it is in the queue; `PoolError` when it has left."""
        ads = self.pool.queue(self.job)
        if not ads:
            raise PoolError(f"job {self.job} is not in the queue")
        return ads[0]

    def copies(self) -> Tuple[Ad, ...]:
        """The copies that the router made of it and that are in the queue."""
        return self.pool.queue(f'RoutedFromJobId == "{self.job}"')

    def capsules(self) -> List[Path]:
        """Whatever is in scratch of it: capsules, drafts, halves of deleted ones."""
        found = self.pool.path(self.scratch).iterdir()
        return sorted(path for path in found if f"-{self.job}-" in path.name)

    def machines(self) -> List[int]:
        """The QEMUs that run for it."""
        return [pid for pid in machines(self.pool) if works_for(pid, self.job)]

    def log(self) -> str:
        """The user's log."""
        return self.pool.read(str(Path(self.folder) / self.row.log))

    def note(self) -> str:
        """What is told beside the user's log; empty when there is nothing."""
        path = self.pool.path(str(Path(self.folder) / f"{self.row.log}.vmcapsule"))
        return path.read_text() if path.exists() else ""

    def events(self, number: str) -> int:
        """How many events of a number (such as 005) are in the user's log."""
        return len(
            re.findall(rf"^{number} \({self.job.cluster:03}\.", self.log(), re.MULTILINE)
        )

    def discard(self) -> None:
        """Remove all of it, for the sake of the other rows, when a test has failed."""
        self.let_go()
        self.pool.run("root", ["condor_rm", str(self.job)], check=False)
        gone = f'ClusterId == {self.job.cluster} || RoutedFromJobId == "{self.job}"'
        self.pool.until(lambda: not self.pool.queue(gone), QUIET_S, "the queue to be rid of it")
        for path in self.capsules():
            shutil.rmtree(path)

    # How it is to be in the end

    def assert_ended_right(
        self, *, only_gc_knows: bool = False, also: Optional[Mapping[str, bytes]] = None
    ) -> Ad:
        """The job ends as it would have with nothing happening; returns its ad.

        ``also``: files that have another content than the job gave them.
        ``only_gc_knows``: what is left in scratch no hook will be told of again.
        """
        ad = self.pool.wait(self.job, timeout_s=TIMEOUT_S)
        assert ad.integer("JobStatus") == COMPLETED
        assert (ad.integer("ExitCode"), ad.boolean("ExitBySignal")) == (EXIT_CODE, False)
        if only_gc_knows:
            self.assert_nothing_left(kept=1)
            sweep(self.pool)
        self.assert_nothing_left()
        self.assert_delivered(also)
        assert f"(return value {EXIT_CODE})" in self.log()
        assert self.events("005") == 1, self.log()
        return ad

    def assert_delivered(self, also: Optional[Mapping[str, bytes]] = None) -> None:
        """Each output is there and whole, and nothing beside what belongs there."""
        here = self.pool.path(self.folder)
        logs = {self.row.log} - {path for path in [self.row.log] if "/" in path}
        expected = {*self.files, *OUTPUTS, "job.sub", *logs}
        assert {path.name for path in here.iterdir()} == expected
        for name, data in {**OUTPUTS, **(also or {})}.items():
            assert (here / name).read_bytes() == data, name

    def assert_not_delivered(self) -> None:
        """Nothing of the outputs is there, in whatever form."""
        here = self.pool.path(self.folder)
        assert {path.name for path in here.iterdir()} <= {*self.files, "job.sub", "log"}

    def assert_nothing_left(self, *, source: bool = False, kept: int = 0) -> None:
        """Of the job nothing is in the queue, in scratch or running.

        ``source``: but for itself, which is held; ``kept``: how many capsules remain.
        """
        found: List[str] = []

        def is_gone() -> bool:
            found[:] = [f"copy: {ad.value('JobStatus')}" for ad in self.copies()]
            found[:] += [f"machine: {pid}" for pid in self.machines()]
            found[:] += ["source"] * (bool(self.pool.queue(self.job)) != source)
            names = [path.name for path in self.capsules()]
            found[:] += names if len(names) != kept else []
            return not found

        try:
            self.pool.until(is_gone, QUIET_S, "nothing to be left")
        except PoolError as error:
            raise AssertionError(f"{self.row.name}: left of job {self.job}: {found}") from error


@contextlib.contextmanager
def discarded_if_failed(session: pytest.Session, case: Case) -> Iterator[Case]:
    """A case for one test; for the sake of the others all of it goes where that fails."""
    failed = session.testsfailed
    yield case
    if session.testsfailed > failed:
        case.discard()


def sweep(pool: Pool) -> None:
    """What the gc daemon does when it comes round, and without waiting."""
    pool.run("root", [f"{HOME}/hooks/gc", "--min-age", "0.01"])


def assert_quiet(pool: Pool) -> None:
    """The whole pool: no job, no claimed slot, no process, nothing in scratch."""
    found: List[str] = []

    def is_quiet() -> bool:
        found[:] = [f"job {ad.value('ClusterId')}" for ad in pool.queue()]
        found[:] += [f"machine {pid}" for pid in machines(pool)]
        words = [" ".join(argv) for argv in pool.space.processes().values()]
        found[:] += [text for text in words if FOLDER in text]
        found[:] += left_in(pool.path(SCRATCH))
        slots = pool.run("root", ["condor_status", "-af", "Name", "State"]).stdout.decode()
        found[:] += [line for line in slots.splitlines() if line.split()[1] != "Unclaimed"]
        found[:] += [path.name for path in pool.path("/var/lib/condor/execute").iterdir()]
        return not found

    try:
        pool.until(is_quiet, QUIET_S, "the pool to be quiet")
    except PoolError as error:
        raise AssertionError(f"left in the pool: {found}") from error
