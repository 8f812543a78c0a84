"""The fault table of capsules that are packed on the access point: whatever happens, no output
is lost, delivered twice or half written, and nothing is left behind.

=========================================  ===============================================
what happens                               test
=========================================  ===============================================
the guest panics; its machine, the gahp,   ``test_vmware_faults.py``
the starter, the startd are killed
the guest leaves a damaged data disk       ``test_a_disk_that_comes_back_damaged_...``
it is damaged on the access point          ``test_a_disk_damaged_before_finalize_...``
no room in scratch, in translate           ``test_scratch_full_in_translate_...``
the Iwd is read-only, in finalize          ``test_outputs_that_cannot_be_delivered_...``
a hook is killed: translate while it       ``test_a_killed_hook_is_made_good``: each of
stages, and with the capsule made;         `KILLS`
finalize between two drafts, between two
renames, and with all delivered; cleanup
between two deletions; update
the source is removed: while translate     ``test_a_removed_job_leaves_nothing``: each of
runs, while the copy is idle, while the    `PHASES`
machine runs, while finalize runs
the source is held then, and released      ``test_a_held_job_leaves_nothing``, and
                                           ``test_a_job_that_was_held_ends_right``
the source is removed or held when the     ``test_the_router_killed_while_...``
run has ended and nobody knows it yet
the router is killed: while translate      ``test_the_router_killed_while_...``: each of
runs, while finalize runs, while the       `WINDOWS`, and running
machine runs
the schedd is killed                       ``test_the_schedd_killed_while_...``
=========================================  ===============================================

The jobs of all rows with a ``name`` are in flight together; each test then waits for its
own.
"""

from __future__ import annotations

import contextlib
import signal
from typing import Callable, Dict, Iterator

import pytest

from tests.pool.faults import (
    EXIT_CODE,
    FOLDER,
    IDLE_FOR_A_WHILE,
    TIMEOUT_S,
    Case,
    Row,
    discarded_if_failed,
    faulty_hooks,
    sweep,
)
from tests.pool.own_gahp import assert_all_gone, vm_route
from tests.pool.plugin import HOME, left_in
from tests.pool.pool import COMPLETED, HELD, IDLE, REMOVED, Pool
from vmcapsule.errors import ToolError

pytestmark = pytest.mark.pool

#: How long a machine may go on that is to stop: a starter that has just started one sleeps
#: for half a minute.
STOP_S = 120
SMALL_SCRATCH = "/var/scratch/small"
PROGRAM = ("env", f"PYTHONPATH={HOME}", "python3", "-m", "vmcapsule")

#: Removed or held: what the source is made to be in, and how its hooks are slowed.
PHASES = {
    "translate": Row("", "wait translate print"),
    "idle": Row("", more="request_cpus = 64"),
    "running": Row("", seconds=9999),
    "finalize": Row("", "wait finalize begin"),
}

#: Killed where the hook is half-way.
KILLS = (
    "translate staging",
    "translate print",
    "finalize drafting",
    "finalize renaming",
    "finalize print",
    "cleanup deleting",
    "update begin",
)


def _rows() -> Iterator[Row]:
    for phase, row in PHASES.items():
        for verb in ("removed", "held"):
            yield Row(f"{verb}-{phase}", row.fault, row.knobs, row.more, row.seconds)
    yield Row("scratch-full", knobs=f"SCRATCH_DIR_PREFIX={SMALL_SCRATCH}")
    knobs = f"INIT_SCRIPT_PATH={FOLDER}/scribble CONDOR_CLASSAD_TEMPLATE={FOLDER}/two.classad"
    yield Row("damaged-there", knobs=knobs)
    yield Row("damaged-here", "wait finalize begin")
    yield Row("read-only", "wait finalize begin", log="/home/alice/logs/read-only")
    for point in KILLS:
        more = IDLE_FOR_A_WHILE if point.startswith("update") else ""
        yield Row(point.replace(" ", "-"), f"kill {point}", more=more)


ROWS: Dict[str, Row] = {row.name: row for row in _rows()}

#: Leaves a data disk that no longer holds a file system, and is gone at once.
SCRIBBLE = """\
import os, time
mounts = [line.split() for line in open("/proc/mounts")]
(device,) = [words[0] for words in mounts if words[2] == "vfat"]
fd = os.open(device, os.O_WRONLY)
os.write(fd, os.urandom(1 << 20))
os.fsync(fd)
open("/proc/sysrq-trigger", "w").write("o")
time.sleep(60)
"""


@pytest.fixture(scope="module", autouse=True)
def hooks(pool: Pool) -> Iterator[None]:
    """The pool with the route of VMware jobs, whose hooks have faults."""
    with vm_route(pool, "vmware"), _with_faults(pool):
        yield


@contextlib.contextmanager
def _with_faults(pool: Pool) -> Iterator[None]:
    pool.put(f"{FOLDER}/scribble", SCRIBBLE, mode=0o755)
    pool.space.make_folder("/home/alice/logs", owner="alice")
    template = pool.read(f"{HOME}/templates/vmware.classad")
    fewer = template.replace("VmCapsuleMaxTries = 3", "VmCapsuleMaxTries = 2")
    assert fewer != template
    pool.put(f"{FOLDER}/two.classad", fewer)
    pool.space.make_folder(SMALL_SCRATCH)
    # Less than the smallest capsule takes.
    options = "size=256k,mode=1777"
    pool.run("root", ["mount", "-t", "tmpfs", "-o", options, "small", SMALL_SCRATCH])
    try:
        with faulty_hooks(pool):
            yield
    finally:
        pool.run("root", ["umount", SMALL_SCRATCH])


@pytest.fixture(scope="module")
def cases(request: pytest.FixtureRequest, pool: Pool, hooks: None) -> Dict[str, Case]:
    """The jobs of all rows that are to be tested: they are in flight together."""
    wanted = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module.__name__ == __name__
        and hasattr(item, "callspec")
        and "name" in item.callspec.params
    ]
    return {name: Case(pool, ROWS[name]) for name in dict.fromkeys(wanted)}


@pytest.fixture
def case(request: pytest.FixtureRequest, cases: Dict[str, Case], name: str) -> Iterator[Case]:
    with discarded_if_failed(request.session, cases[name]) as one:
        yield one


def come(case: Case, phase: str) -> None:
    """Wait until the job is in the phase."""
    comes: Dict[str, Callable[[], bool]] = {
        "translate": lambda: case.has_happened,
        "idle": lambda: any(ad.integer("JobStatus") == IDLE for ad in case.copies()),
        "running": lambda: bool(case.machines()),
        "finalize": lambda: case.has_happened,
    }
    case.pool.until(comes[phase], 240, f"{case.row.name} to be in that phase")


@pytest.mark.parametrize("name", [f"removed-{phase}" for phase in PHASES])
def test_a_removed_job_leaves_nothing(case: Case, name: str) -> None:
    phase = name.split("-")[1]
    come(case, phase)
    case.as_user("condor_rm", str(case.job))
    case.let_go()
    case.pool.until(lambda: not case.machines(), STOP_S, "the machine to be stopped")
    ad = case.pool.wait(case.job)
    assert ad.integer("JobStatus") == REMOVED
    case.assert_nothing_left()
    if phase == "finalize":
        # It had ended by itself: what it left arrives as if nobody had come in between.
        case.assert_delivered()
        assert case.events("005") == 1, case.log()
    else:
        case.assert_not_delivered()
        assert (case.events("009"), case.events("005")) == (1, 0), case.log()


@pytest.mark.parametrize("name", [f"held-{phase}" for phase in PHASES])
def test_a_held_job_leaves_nothing(case: Case, name: str) -> None:
    phase = name.split("-")[1]
    come(case, phase)
    if phase == "finalize":
        # HTCondor holds no job that has ended.
        case.as_user("condor_hold", str(case.job), check=False)
        assert case.source().integer("JobStatus") == COMPLETED
        case.let_go()
        return
    case.as_user("condor_hold", str(case.job))
    case.let_go()
    case.pool.until(lambda: not case.machines(), STOP_S, "the machine to be stopped")
    case.pool.wait(case.job, until=(HELD,))
    case.assert_nothing_left(source=True)
    case.assert_not_delivered()
    case.pool.put(f"{case.folder}/seconds", "0\n", owner="alice")
    case.as_user("condor_qedit", str(case.job), "RequestCpus", "1")
    case.as_user("condor_release", str(case.job))


@pytest.mark.representative
@pytest.mark.parametrize("name", ["scratch-full"])
def test_scratch_full_in_translate_holds_the_job(case: Case) -> None:
    ad = case.pool.wait(case.job, until=(HELD,))
    reason = ad.string("HoldReason") or ""
    assert reason.startswith("vmcapsule: ") and SMALL_SCRATCH in reason, reason
    assert "make room" in reason
    assert (ad.integer("HoldReasonCode"), ad.integer("HoldReasonSubCode")) == (26, 73)
    case.assert_nothing_left(source=True)
    assert left_in(case.pool.path(SMALL_SCRATCH)) == []
    case.pool.run("root", ["mount", "-o", "remount,size=1g", SMALL_SCRATCH])
    case.as_user("condor_release", str(case.job))
    case.assert_ended_right()


@pytest.mark.representative
@pytest.mark.parametrize("name", ["damaged-there"])
def test_a_disk_that_comes_back_damaged_is_tried_again_then_held(case: Case) -> None:
    ad = case.pool.wait(case.job, timeout_s=TIMEOUT_S, until=(HELD,))
    reason = ad.string("HoldReason") or ""
    assert "did not report in 2 runs" in reason
    # The disk itself is what is complained about.
    assert "file system" in reason, reason
    case.assert_nothing_left(source=True)
    (copy,) = case.pool.routed(case.job)
    assert copy.integer("NumJobStarts") == 2
    case.assert_not_delivered()
    case.as_user("condor_rm", str(case.job))
    case.assert_nothing_left()
    assert case.events("005") == 0, case.log()


@pytest.mark.parametrize("name", ["damaged-here"])
def test_a_disk_damaged_before_finalize_ends_the_job_as_documented(case: Case) -> None:
    case.until_it_happened()
    (folder,) = case.capsules()
    (disk,) = folder.glob("returned/*.vmdk")
    whole = disk.read_bytes()
    with disk.open("r+b") as file:
        file.write(b"?" * (1 << 20))
    case.let_go()
    ad = case.pool.wait(case.job)
    assert ad.integer("ExitCode") == 68
    reason = ad.string("ExitReason") or ""
    assert reason.startswith("vmcapsule: ")
    assert reason in case.note() and f"vmcapsule extract {case.job}" in case.note()
    case.assert_nothing_left(kept=1)
    assert "(return value 68)" in case.log()
    assert case.events("005") == 1, case.log()
    sweep(case.pool)
    assert case.capsules() == [folder]
    # Cut short it must not pass for a disk with zeros at its end.
    disk.write_bytes(whole[: len(whole) - (1 << 20)])
    assert "status 68" in refused(case)
    case.pool.path(f"{case.folder}/log.vmcapsule").unlink()
    case.assert_not_delivered()
    disk.write_bytes(whole)
    assert f"exit code {EXIT_CODE}" in case.as_user(*PROGRAM, "extract", str(case.job))
    case.assert_delivered()
    sweep(case.pool)
    case.assert_nothing_left()


def refused(case: Case) -> str:
    """What 'vmcapsule extract' says of a job whose outputs it cannot deliver."""
    with pytest.raises(ToolError) as caught:
        case.as_user(*PROGRAM, "extract", str(case.job))
    return str(caught.value)


@pytest.mark.parametrize("name", ["read-only"])
def test_outputs_that_cannot_be_delivered_are_kept(case: Case) -> None:
    case.until_it_happened()
    case.as_user("chmod", "555", ".")
    case.let_go()
    ad = case.pool.wait(case.job)
    assert ad.integer("ExitCode") == 74
    reason = ad.string("ExitReason") or ""
    assert reason.startswith("vmcapsule: ") and case.folder in reason
    assert reason in case.note()
    case.assert_nothing_left(kept=1)
    case.as_user("chmod", "755", ".")
    case.assert_not_delivered()
    sweep(case.pool)
    printed = case.as_user(*PROGRAM, "extract", str(case.job))
    assert f"exit code {EXIT_CODE}" in printed
    case.assert_delivered()
    assert case.events("005") == 1, case.log()
    sweep(case.pool)
    case.assert_nothing_left()


@pytest.mark.representative
@pytest.mark.parametrize("name", [point.replace(" ", "-") for point in KILLS])
def test_a_killed_hook_is_made_good(case: Case, name: str) -> None:
    case.until_it_happened()
    case.assert_ended_right(only_gc_knows=name == "cleanup-deleting")


@pytest.mark.parametrize("name", [f"held-{phase}" for phase in PHASES])
def test_a_job_that_was_held_ends_right(case: Case) -> None:
    case.assert_ended_right()


@pytest.mark.usefixtures("cases")
def test_nothing_is_left_of_all_these(pool: Pool) -> None:
    assert_all_gone(pool)


@pytest.mark.representative
def test_the_schedd_killed_while_the_machine_runs(pool: Pool) -> None:
    case = Case(pool, Row("killed-schedd", seconds=5))
    pool.until(lambda: bool(case.machines()), 120, "the machine to start")
    pool.restart("SCHEDD")
    case.assert_ended_right()
    assert_all_gone(pool)


#: In which the router is killed, once for all of them.
WINDOWS = ("finalize begin", "finalize print", "translate begin", "translate print")


@pytest.mark.representative
def test_the_router_killed_while_hooks_and_machines_run(pool: Pool) -> None:
    rows = [Row(f"router-{window.replace(' ', '-')}", f"wait {window}") for window in WINDOWS]
    waiting = [Case(pool, row) for row in rows[:2]]
    for case in waiting:
        case.until_it_happened()
    waiting += [Case(pool, row) for row in rows[2:]]
    running = Case(pool, Row("router-running", seconds=40))
    removed, held = Case(pool, Row("router-removed")), Case(pool, Row("router-held"))
    for case in waiting[2:]:
        case.until_it_happened()
    for case in (running, removed, held):
        pool.until(lambda case=case: bool(case.machines()), 120, "the machines to start")  # type: ignore[misc]
    # It is not to see that the runs have ended before their jobs are removed and held.
    pool.daemons.kill("JOB_ROUTER", signal.SIGSTOP)
    for case in (removed, held):
        pool.until(lambda case=case: is_over(case), 120, "the machines to end")  # type: ignore[misc]
    removed.as_user("condor_rm", str(removed.job))
    held.as_user("condor_hold", str(held.job))
    mark = "the user was here\n"
    pool.put("/home/alice/router-finalize-print/out", mark, owner="alice")
    assert running.machines()
    pool.restart("JOB_ROUTER")
    assert running.machines(), "the machine died with the router"
    for case in waiting:
        case.let_go()
    pool.wait(held.job, until=(HELD,))
    held.assert_nothing_left(source=True)
    held.assert_not_delivered()
    held.as_user("condor_release", str(held.job))
    assert pool.wait(removed.job).integer("JobStatus") == REMOVED
    removed.assert_nothing_left()
    removed.assert_not_delivered()
    for case in (*waiting, running, held):
        written = {"out": mark.encode()} if "finalize-print" in case.row.name else {}
        case.assert_ended_right(also=written)
    assert_all_gone(pool)


def is_over(case: Case) -> bool:
    """Has the run ended, whether the router knows it or not?"""
    return [ad.integer("JobStatus") for ad in case.copies()] == [COMPLETED]
