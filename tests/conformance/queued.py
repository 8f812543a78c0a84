"""Ways through the queue of the pool: condor_submit, wait, look at history, log and folder."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field, replace
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

from tests.conformance.cases import DAG_FILE, SUBMIT_FILE, Case
from tests.conformance.outcome import (
    ENDED,
    FAILED,
    HELD,
    REMOVED,
    WAITING,
    JobEnd,
    Outcome,
    Outcomes,
    Usage,
)
from tests.conformance.place import USER, Place, crowd
from tests.conformance.story import stories
from tests.pool import pool as condor
from tests.pool.kvm.libvirt import running_libvirt
from tests.pool.plugin import wrapped
from tests.pool.pool import JobId, Pool, PoolError
from vmcapsule.classad.ads import Ad
from vmcapsule.errors import AdError, ToolError

#: Emulated and several at once: when no job has moved for so long, none will.
STILL_S = 420
#: The guest of a slow case copies gigabytes without a word.
STILL_SLOW_S = 2400
#: And if they move for ever, after so long for each case and this to begin with.
LONGEST_S, LONGEST_FOR_ONE_S = 900, 60
#: Jobs that nothing can run are not waited for longer than this.
_NATIVE_WAITS_S = 15
_POLL_S = 2
#: In so many looks one after the other a job must be held: some are released again, and
#: what a held one's run left is delivered when the routed job has left the queue.
_HELD_LOOKS = 10
_STATES = {condor.COMPLETED: ENDED, condor.HELD: HELD, condor.REMOVED: REMOVED}
_RANGE = re.compile(r"^(\d+)\.(\d+) - (\d+)\.(\d+)$", re.MULTILINE)
#: By which a user asks for a capsule.
WANTED = ("+WantJobRouter = True",)
#: A VM is waited for 45 s and more by its starter, whatever it does: so more at once than a
#: machine of two cores has work for.  Meanwhile a hook a poll for each job that waits would
#: be most of the work.
_VM_CONFIG = """\
NUM_CPUS = 12
JOB_ROUTER_POLLING_PERIOD = 5
"""
_VM_CONFIG_NAME = "96-conformance-vm"
_VMS_S = 90
_WRAPPER_CONFIG_NAME = "97-conformance-wrapper"
#: DAGMan's file that stands in for the case's: it includes that and may add to it.
_OUTER_DAG = "outer.dag"


@dataclass
class _Submitted:
    """A case in the queue: its jobs, or why there are none."""

    place: Place
    jobs: List[JobId] = field(default_factory=list)
    error: str = ""
    is_settled: bool = False
    held_looks: int = 0
    #: Of jobs whose outputs were fetched: their ads as they were before they left.
    ads: Dict[JobId, Ad] = field(default_factory=dict)


class Queued:
    """Submits cases with lines appended to their submit files, and waits for them."""

    def __init__(self, pool: Pool, way: str, append: Sequence[str] = ()) -> None:
        self.pool = pool
        self.way = way
        self.append = append
        self._seen: object = None

    def run(self, cases: Sequence[Case]) -> Outcomes:
        """Submit the cases side by side; return what became of each."""
        submitted = [self._submit(case) for case in cases]
        self._wait([one for one in submitted if not one.error])
        outcomes = {one.place.case.name: self._outcome(one) for one in submitted}
        self._remove_all(submitted)
        for one in submitted:
            one.place.remove()
        return outcomes

    # Into the queue

    def _submit(self, case: Case) -> _Submitted:
        place = Place(self.pool, self.way, case)
        place.make()
        argv = self._dag(place) if case.is_dag else self._argv(case)
        try:
            printed = place.run(argv, timeout_s=120).decode(errors="replace")
        except ToolError as error:
            return _Submitted(place, error=error.message)
        if case.is_dag:
            match = re.search(r"submitted to cluster (\d+)", printed)
            return _Submitted(place, [JobId(int(match[1]))] if match else [])
        jobs = [
            JobId(int(cluster), proc)
            for cluster, first, _, last in _RANGE.findall(printed)
            for proc in range(int(first), int(last) + 1)
        ]
        if not jobs:
            raise PoolError(f"condor_submit of '{case.name}' printed {printed!r}")
        return _Submitted(place, jobs)

    def _argv(self, case: Case) -> List[str]:
        more = [word for line in self.append for word in ("-append", line)]
        return ["condor_submit", "-terse", *case.submit, *more, SUBMIT_FILE]

    def _dag(self, place: Place) -> List[str]:
        """What is appended to the nodes' submit files goes into a DAG around the case's."""
        lines = [f"INCLUDE {DAG_FILE}"]
        for line in self.append:
            name, _, value = line.lstrip("+").partition("=")
            lines.append(f'VARS ALL_NODES My.{name.strip()}="{value.strip()}"')
        path = f"{place.inside}/{_OUTER_DAG}"
        self.pool.put(path, "\n".join([*lines, ""]), owner=USER)
        return ["condor_submit_dag", _OUTER_DAG]

    # In the queue

    def _wait(self, submitted: Sequence[_Submitted]) -> None:
        """Until all have ended or are held, or nothing moves any more."""
        moved_s = began_s = time.monotonic()
        while True:
            queue, past = self._queue(), self._past(submitted)
            for one in submitted:
                if not one.is_settled:
                    self._look(one, queue, past)
            waits_s = time.monotonic() - began_s
            if all(
                one.is_settled or (self._is_hopeless(one) and waits_s > _NATIVE_WAITS_S)
                for one in submitted
            ):
                return
            # For a job that waits natively, too, nobody copies gigabytes.
            is_slow = any(one.place.case.is_slow for one in submitted if not one.is_settled)
            still_s = STILL_SLOW_S if is_slow else STILL_S
            state = (sorted(queue.items(), key=str), len(past))
            if state != self._seen:
                self._seen, moved_s = state, time.monotonic()
            is_late = waits_s > still_s + LONGEST_S + LONGEST_FOR_ONE_S * len(submitted)
            if is_late or time.monotonic() - moved_s > still_s:
                return
            time.sleep(_POLL_S)

    def _is_hopeless(self, one: _Submitted) -> bool:
        """Does a job wait that waits natively, too?"""
        return one.place.case.native_waits and all(map(self._is_turned_away, one.jobs))

    def _queue(self) -> Dict[JobId, Tuple[int, str]]:
        """JobStatus and Managed of all jobs."""
        argv = ["condor_q", "-allusers", "-af", "ClusterId", "ProcId", "JobStatus", "Managed"]
        rows = self.pool.run("root", argv).stdout.decode().split("\n")
        words = [row.split() for row in rows if row]
        return {
            JobId(int(c), int(p)): (int(status), managed) for c, p, status, managed in words
        }

    def _past(self, submitted: Sequence[_Submitted]) -> Set[JobId]:
        """The jobs that have left the queue."""
        first = min((one.jobs[0].cluster for one in submitted if one.jobs), default=0)
        argv = ["condor_history", "-constraint", f"ClusterId >= {first}"]
        argv += ["-af", "ClusterId", "ProcId"]
        rows = self.pool.run("root", argv).stdout.decode().split("\n")
        return {JobId(*map(int, row.split())) for row in rows if row}

    def _look(
        self, one: _Submitted, queue: Dict[JobId, Tuple[int, str]], past: Set[JobId]
    ) -> None:
        """Note whether all jobs of a case have settled; fetch the outputs of spooled ones."""
        states = [queue.get(job) for job in one.jobs]
        if one.place.case.is_spooled and all(map(_is_fetchable, states)):
            one.ads = {job: self.pool.queue(job)[0] for job in one.jobs}
            cluster = str(one.jobs[0].cluster)
            one.place.run(["condor_transfer_data", cluster])
            one.is_settled = True
            return
        done = [
            state is None and job in past or state is not None and state[0] == condor.HELD
            for job, state in zip(one.jobs, states)
        ]
        idle = [job for job, is_done in zip(one.jobs, done) if not is_done]
        is_all = len(idle) == one.place.case.idle and all(map(self._is_turned_away, idle))
        one.held_looks = one.held_looks + 1 if is_all else 0
        wanted = _HELD_LOOKS if any(states) else 1
        one.is_settled = one.held_looks >= wanted

    def _is_turned_away(self, job: JobId) -> bool:
        """Has a negotiator found no machine for an idle job, or for its routed copy?"""
        return any("LastRejMatchTime" in ad for ad in self._matched(job))

    def _matched(self, job: JobId) -> Sequence[Ad]:
        """What negotiators look at of a job."""
        return self.pool.queue(job)

    # Out of it

    def _outcome(self, one: _Submitted) -> Outcome:
        if one.error:
            failed = JobEnd(FAILED, reason=one.error)
            return Outcome((failed,), one.place.tree(()))
        ads = self._ads(one)
        clusters = {ad.integer("ClusterId") or 0 for ad in ads}
        told: Dict[Tuple[int, int], Tuple[str, ...]] = {}
        for log in one.place.logs():
            told.update(stories(log))
        jobs = [
            _end(ad, told.get((ad.integer("ClusterId") or 0, ad.integer("ProcId") or 0), ()))
            for ad in ads
        ]
        ends = tuple(map(one.place.neutral_end, jobs))
        return Outcome(ends, one.place.tree(clusters))

    def _ads(self, one: _Submitted) -> List[Ad]:
        """The jobs' ads, in the queue or past; a DAG's nodes by name."""
        if one.ads:
            return list(one.ads.values())
        clusters = sorted({job.cluster for job in one.jobs})
        name = "DAGManJobId" if one.place.case.is_dag else "ClusterId"
        wanted = " || ".join(f"{name} == {cluster}" for cluster in clusters)
        found = [*self.pool.queue(wanted), *self.pool.past(wanted)]
        return sorted(found, key=_order)

    def _remove_all(self, submitted: Sequence[_Submitted]) -> None:
        """Nothing of these cases stays in the queue."""
        clusters = sorted({job.cluster for one in submitted for job in one.jobs})
        if not clusters:
            return
        first, last = clusters[0], clusters[-1]
        constraint = f"ClusterId >= {first} && ClusterId <= {last} && JobStatus != 3"
        self.pool.run("root", ["condor_rm", "-constraint", constraint], check=False)
        self.pool.until(lambda: not self._queue(), 120, "the queue to be empty")


class Routed(Queued):
    """Submits cases for the route that is printed for another ad template than the pool's.

    The pool gets that route and, as an execute point, what is printed for it; in the end it
    has its own again.
    """

    config = _VM_CONFIG

    def __init__(self, pool: Pool, way: str, ad_template: str) -> None:
        super().__init__(pool, way, WANTED)
        self.ad_template = ad_template

    def run(self, cases: Sequence[Case]) -> Outcomes:
        """Submit the cases side by side; return what became of each."""
        with self._route():
            return super().run(cases)

    def _matched(self, job: JobId) -> Sequence[Ad]:
        """Its routed copy, and not the job itself, which matches nothing."""
        return self.pool.routed(job)

    @contextlib.contextmanager
    def _route(self) -> Iterator[None]:
        self.pool.configure(_VM_CONFIG_NAME, self.config)
        self.pool.change_route({"CONDOR_CLASSAD_TEMPLATE": self.ad_template})
        try:
            what = f"the startd to have what '{self.ad_template}' jobs need"
            self.pool.until(self._has_what_it_needs, _VMS_S, what)
            yield
        finally:
            self.pool.unconfigure(_VM_CONFIG_NAME)
            self.pool.change_route()

    def _has_what_it_needs(self) -> bool:
        wanted = f'HasVM && VM_Type == "{self.ad_template}"'
        argv = ["condor_status", "-constraint", wanted, "-af", "Name"]
        return bool(self.pool.run("root", argv, check=False).stdout)


class InSlots(Routed):
    """The same where jobs are packed in their slots: vanilla ones, of a template there."""

    config = ""

    def _has_what_it_needs(self) -> bool:
        wanted = 'HasVMCapsule && VMCapsuleTemplates != ""'
        argv = ["condor_status", "-constraint", wanted, "-af", "Name"]
        return bool(self.pool.run("root", argv, check=False).stdout)


class Wrapped(Queued):
    """Submits cases for the execute point's job wrapper, without a router.

    CPU time and memory in the jobs' ads are their machines', as is documented.
    """

    def __init__(self, pool: Pool, way: str) -> None:
        super().__init__(pool, way, ("+WantVMCapsule = True",))

    def run(self, cases: Sequence[Case]) -> Outcomes:
        """Submit the cases side by side; return what became of each."""
        self.pool.configure(_WRAPPER_CONFIG_NAME, wrapped())
        self.pool.reconfigure()
        try:
            return {name: _of_machines(one) for name, one in super().run(cases).items()}
        finally:
            self.pool.unconfigure(_WRAPPER_CONFIG_NAME)
            self.pool.reconfigure()


def _of_machines(outcome: Outcome) -> Outcome:
    jobs = (replace(job, usage=replace(job.usage, of_machine=True)) for job in outcome.jobs)
    return replace(outcome, jobs=tuple(jobs))


class OnLibvirt(Routed):
    """The same where libvirt runs the machines: on a root that has it."""

    def run(self, cases: Sequence[Case]) -> Outcomes:
        """Submit the cases side by side; return what became of each."""
        with running_libvirt(self.pool):
            return super().run(cases)


def _is_fetchable(state: Optional[Tuple[int, str]]) -> bool:
    """Has a spooled job ended, and its outputs come back to the spool?"""
    return state is not None and state[0] == condor.COMPLETED and state[1] != "External"


def _order(ad: Ad) -> Tuple[str, int, int]:
    name = ad.string("DAGNodeName") or ""
    return name, ad.integer("ClusterId") or 0, ad.integer("ProcId") or 0


def _end(ad: Ad, story: Tuple[str, ...]) -> JobEnd:
    """What a job's ad and its log say of its end."""
    state = _STATES.get(ad.integer("JobStatus") or 0, WAITING)
    by_signal = state == ENDED and ad.boolean("ExitBySignal")
    reason = ad.string("HoldReason") or "" if state == HELD else ""
    subcode = ad.integer("HoldReasonSubCode") if state == HELD else None
    return JobEnd(
        state,
        exit_code=None if by_signal or state != ENDED else ad.integer("ExitCode"),
        exit_signal=ad.integer("ExitSignal") if by_signal else None,
        core_dumped=state == ENDED and bool(ad.boolean("JobCoreDumped")),
        hold_code=ad.integer("HoldReasonCode") if state == HELD else None,
        hold_subcode=subcode,
        status=subcode if "vmcapsule: " in reason else None,
        reason=reason,
        runs=ad.integer("NumJobStarts"),
        story=story,
        usage=_usage(ad) if state == ENDED else Usage(),
    )


def _usage(ad: Ad) -> Usage:
    user, system = ad.number("RemoteUserCpu"), ad.number("RemoteSysCpu")
    cpu_s = None if user is None or system is None else user + system
    memory_mib, disk_kib = _integer(ad, "MemoryUsage"), _integer(ad, "DiskUsage")
    return Usage(cpu_s, memory_mib, disk_kib, crowd=crowd())


def _integer(ad: Ad, name: str) -> Optional[int]:
    """None also for an expression that cannot be evaluated yet."""
    try:
        return ad.integer(name)
    except AdError:
        return None
