"""The fault table of jobs that are packed in their slots: none is lost, ended twice or by
what happened to its machine, and nothing is left behind.

=========================================  ===============================================
what happens                               test
=========================================  ===============================================
QEMU is killed, once and again and again   ``test_slot.py``
the starter is killed                      ``test_a_run_that_is_killed_is_made_good``
our program is killed                      ``test_who_kills_our_program_kills_the_job``
the source is removed: while the copy is   ``test_a_removed_job_leaves_nothing``
idle, while the machine runs
the source is held then, and released      ``test_a_held_job_leaves_nothing``, and
                                           ``test_a_job_that_was_held_ends_right``
a hook is killed: each of `KILLS`          ``test_a_killed_hook_is_made_good``
the router, the schedd, the startd, the    ``test_a_daemon_killed_while_...``
master is killed
the router does not see that a run ends,   ``test_a_run_that_ends_while_the_router_...``
and is killed
a template is damaged as it is fetched,    ``test_published.py``, and the unit tests of
its store gone, the cache full             ``vmcapsule.template``
=========================================  ===============================================
"""

from __future__ import annotations

import os
import signal
from typing import Dict, Iterator

import pytest

from tests.pool.faults import (
    IDLE_FOR_A_WHILE,
    TIMEOUT_S,
    Case,
    Row,
    assert_quiet,
    discarded_if_failed,
    faulty_hooks,
)
from tests.pool.jobs import try_now
from tests.pool.packed import in_slot
from tests.pool.plugin import SCRATCH, left_in
from tests.pool.pool import COMPLETED, HELD, IDLE, REMOVED, Pool
from tests.pool.processes import STARTER, matching, parent_of

pytestmark = pytest.mark.pool

#: A few polls on a busy machine: how long a machine may go on that is to stop.
STOP_S = 30
#: Removed or held: what the source is made to be in.
PHASES = {
    "idle": Row("", more="request_cpus = 64"),
    "running": Row("", seconds=9999),
}
#: Killed where the hook is half-way.
KILLS = ("translate print", "update begin", "finalize begin", "finalize print", "cleanup begin")


def _rows() -> Iterator[Row]:
    for phase, row in PHASES.items():
        for verb in ("removed", "held"):
            yield Row(f"slot-{verb}-{phase}", more=row.more, seconds=row.seconds)
    for point in KILLS:
        more = IDLE_FOR_A_WHILE if point.startswith("update") else ""
        yield Row(f"slot-{point.replace(' ', '-')}", f"kill {point}", more=more)


ROWS: Dict[str, Row] = {row.name: row for row in _rows()}


@pytest.fixture(scope="module", autouse=True)
def route(pool: Pool) -> Iterator[None]:
    with in_slot(pool), faulty_hooks(pool):
        yield


@pytest.fixture(scope="module")
def cases(pool: Pool, route: None) -> Dict[str, Case]:
    """The jobs of all rows: they are in flight together."""
    return {name: Case(pool, row) for name, row in ROWS.items()}


@pytest.fixture
def case(request: pytest.FixtureRequest, cases: Dict[str, Case], name: str) -> Iterator[Case]:
    with discarded_if_failed(request.session, cases[name]) as one:
        yield one


def come(case: Case, phase: str) -> None:
    """Wait until the job is in the phase."""
    if phase == "idle":
        case.pool.until(
            lambda: any(ad.integer("JobStatus") == IDLE for ad in case.copies()), 240, phase
        )
    else:
        case.pool.until(lambda: bool(case.machines()), 240, f"the machine of {case.row.name}")


@pytest.mark.parametrize("name", [f"slot-removed-{phase}" for phase in PHASES])
def test_a_removed_job_leaves_nothing(case: Case, name: str) -> None:
    come(case, name.rpartition("-")[2])
    case.as_user("condor_rm", str(case.job))
    case.pool.until(lambda: not case.machines(), STOP_S, "the machine to be stopped")
    assert case.pool.wait(case.job).integer("JobStatus") == REMOVED
    case.assert_nothing_left()
    case.assert_not_delivered()
    assert (case.events("009"), case.events("005")) == (1, 0), case.log()


@pytest.mark.parametrize("name", [f"slot-held-{phase}" for phase in PHASES])
def test_a_held_job_leaves_nothing(case: Case, name: str) -> None:
    come(case, name.rpartition("-")[2])
    case.as_user("condor_hold", str(case.job))
    case.pool.until(lambda: not case.machines(), STOP_S, "the machine to be stopped")
    case.pool.wait(case.job, until=(HELD,))
    case.assert_nothing_left(source=True)
    case.assert_not_delivered()
    case.pool.put(f"{case.folder}/seconds", "0\n", owner="alice")
    case.as_user("condor_qedit", str(case.job), "RequestCpus", "1")
    case.as_user("condor_release", str(case.job))


@pytest.mark.parametrize("name", [f"slot-{point.replace(' ', '-')}" for point in KILLS])
def test_a_killed_hook_is_made_good(case: Case, name: str) -> None:
    case.until_it_happened()
    case.assert_ended_right()


@pytest.mark.parametrize("name", [f"slot-held-{phase}" for phase in PHASES])
def test_a_job_that_was_held_ends_right(case: Case) -> None:
    case.assert_ended_right()


@pytest.mark.usefixtures("cases")
def test_nothing_is_left_of_all_these(pool: Pool) -> None:
    assert_quiet(pool)
    assert left_in(pool.path(SCRATCH)) == []


@pytest.fixture
def running_case(request: pytest.FixtureRequest, pool: Pool, what: str) -> Iterator[Case]:
    """A job whose machine is up, and stays so for a while."""
    case = Case(pool, Row(f"slot-killed-{what}", more="job_lease_duration = 20", seconds=20))
    with discarded_if_failed(request.session, case):
        come(case, "running")
        yield case


@pytest.mark.parametrize("what", ["program"])
def test_who_kills_our_program_kills_the_job(running_case: Case, pool: Pool, what: str) -> None:
    """As natively: it has the job's place."""
    (machine,) = running_case.machines()
    os.kill(above(machine, pool, r"\S*python3? .* routed "), signal.SIGKILL)
    pool.until(lambda: machine not in running_case.machines(), STOP_S, "the machine to end")
    ad = pool.wait(running_case.job, TIMEOUT_S)
    assert (ad.boolean("ExitBySignal"), ad.integer("ExitSignal")) == (True, signal.SIGKILL)
    running_case.assert_nothing_left()
    assert running_case.events("005") == 1, running_case.log()
    assert_quiet(pool)


@pytest.mark.representative
@pytest.mark.parametrize("what", ["starter"])
def test_a_run_that_is_killed_is_made_good(running_case: Case, pool: Pool, what: str) -> None:
    (machine,) = running_case.machines()
    os.kill(above(machine, pool, STARTER), signal.SIGKILL)
    pool.until(lambda: machine not in running_case.machines(), STOP_S, "the machine to end")
    pool.until(lambda: again(running_case), TIMEOUT_S, "the job to be tried again")
    running_case.assert_ended_right()
    assert_quiet(pool)


def above(machine: int, pool: Pool, pattern: str) -> int:
    """The process among those that started a machine whose arguments begin so."""
    wanted = matching(pool, pattern)
    pid = machine
    while pid > 1:
        pid = parent_of(pid)
        if pid in wanted:
            return pid
    raise AssertionError(f"no {pattern} started the machine")


def again(case: Case) -> bool:
    """Does another machine run for it?  The only one of this pool is not avoided any more."""
    try_now(case.pool, case.job)
    starts = [ad.integer("NumShadowStarts") or 0 for ad in case.copies()]
    return bool(case.machines()) and max(starts, default=0) > 1


@pytest.mark.parametrize("what", ["JOB_ROUTER", "SCHEDD", "STARTD", "MASTER"])
def test_a_daemon_killed_while_the_machine_runs(
    running_case: Case, pool: Pool, what: str
) -> None:
    pool.restart(what)
    running_case.assert_ended_right()
    assert_quiet(pool)


def test_a_run_that_ends_while_the_router_sees_nothing(pool: Pool) -> None:
    names = ("kept", "removed", "held")
    kept, removed, held = some = [Case(pool, Row(f"slot-unseen-{name}")) for name in names]
    for case in some:
        come(case, "running")
    pool.daemons.kill("JOB_ROUTER", signal.SIGSTOP)
    pool.until(lambda: all(map(is_over, some)), TIMEOUT_S, "the machines to end")
    removed.as_user("condor_rm", str(removed.job))
    held.as_user("condor_hold", str(held.job))
    pool.restart("JOB_ROUTER")
    assert pool.wait(removed.job).integer("JobStatus") == REMOVED
    pool.wait(held.job, until=(HELD,))
    held.assert_nothing_left(source=True)
    held.as_user("condor_release", str(held.job))
    for case in (kept, held):
        case.assert_ended_right()
    removed.assert_nothing_left()
    assert_quiet(pool)


def is_over(case: Case) -> bool:
    """Has the run ended, whether the router knows it or not?"""
    return [ad.integer("JobStatus") for ad in case.copies()] == [COMPLETED]
