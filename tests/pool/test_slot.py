"""Jobs that are routed as they are and packed in their slots: HTCondor does the rest."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Iterator

import pytest

from tests.pool.jobs import TIMEOUT_S, copy_of, try_now
from tests.pool.packed import RICH, RICH_INPUT, RICH_SUBMIT, assert_rich_ended, in_slot
from tests.pool.plugin import HOME, SCRATCH
from tests.pool.pool import HELD, RUNNING, JobId, Pool
from tests.pool.processes import machines
from vmcapsule.job.source import id_of

pytestmark = pytest.mark.pool
SUBMIT = """\
executable = job.sh
output = out
error = err
log = log
request_memory = 64
+WantJobRouter = true
{more}
queue
"""


@pytest.fixture(scope="module", autouse=True)
def route(pool: Pool) -> Iterator[None]:
    """The pool with the route that is printed where nothing else is asked for."""
    with in_slot(pool):
        yield


def submit(pool: Pool, folder: str, script: str, more: str = "", **files: str) -> JobId:
    job = {"job.sh": script if script.startswith("#!") else f"#!/bin/sh\n{script}\n", **files}
    return pool.submit("alice", folder, SUBMIT.format(more=more), job)


RICH_ENVIRONMENT = "FOO='a b' LD_PRELOAD=/nowhere PATH=/bin:/usr/bin PYTHONHOME=/nowhere"


@pytest.fixture(scope="module")
def rich_job(pool: Pool) -> JobId:
    more = f'{RICH_SUBMIT}environment = "{RICH_ENVIRONMENT}"'
    return submit(pool, "sl-rich", RICH, more, **RICH_INPUT)


@pytest.fixture(scope="module")
def killed_job(pool: Pool) -> JobId:
    return submit(pool, "sl-killed", "echo begun; kill -9 $$")


@pytest.fixture(scope="module")
def own_checkpoint_job(pool: Pool) -> JobId:
    script = "echo line >>kept; test $(wc -l <kept) = 3 && exit 0; exit 85"
    more = "checkpoint_exit_code = 85\ntransfer_checkpoint_files = kept"
    return submit(pool, "sl-checkpoint", script, more)


@pytest.fixture(scope="module")
def held_job(pool: Pool) -> JobId:
    return submit(pool, "sl-held", "exit 5", "on_exit_hold = ExitCode == 5")


@pytest.fixture(scope="module")
def no_program_job(pool: Pool) -> JobId:
    return submit(pool, "sl-no-program", "#!/nowhere/interpreter\n")


@pytest.mark.usefixtures("all_submitted")
@pytest.mark.representative
def test_what_htcondor_does_around_a_job_it_does_around_the_machine(
    pool: Pool, rich_job: JobId
) -> None:
    ad = assert_rich_ended(pool, rich_job, "sl-rich")
    assert ad.integer("NumJobStarts") == 2
    # What the guest measured, and not what QEMU took.
    assert 0 < (ad.number("RemoteUserCpu") or 0) + (ad.number("RemoteSysCpu") or 0) < 5
    assert 0 < (ad.integer("ResidentSetSize") or 0) < 100_000


def test_death_by_signal_is_the_jobs(pool: Pool, killed_job: JobId) -> None:
    ad = pool.wait(killed_job, TIMEOUT_S)
    assert (ad.boolean("ExitBySignal"), ad.integer("ExitSignal")) == (True, 9)
    assert pool.read("/home/alice/sl-killed/out") == "begun\n"


def test_a_job_that_makes_checkpoints_is_started_again_with_them(
    pool: Pool, own_checkpoint_job: JobId
) -> None:
    ad = pool.wait(own_checkpoint_job, TIMEOUT_S)
    assert ad.integer("ExitCode") == 0
    assert pool.read("/home/alice/sl-checkpoint/kept") == "line\n" * 3


def test_a_policy_judges_the_jobs_own_end(pool: Pool, held_job: JobId) -> None:
    pool.wait(held_job, TIMEOUT_S, until=(HELD,))
    (ad,) = pool.queue(held_job)
    assert "OnExitHold expression 'ExitCode == 5'" in (ad.string("HoldReason") or "")


def test_a_program_that_does_not_start_is_a_hold_with_its_reason(
    pool: Pool, no_program_job: JobId
) -> None:
    pool.wait(no_program_job, TIMEOUT_S, until=(HELD,))
    (ad,) = pool.queue(no_program_job)
    assert (ad.integer("HoldReasonCode"), ad.integer("HoldReasonSubCode")) == (6, 2)
    reason = ad.string("HoldReason") or ""
    assert reason.startswith("vmcapsule: ") and reason.endswith("No such file or directory")


CHIRPS = """\
#!/usr/bin/python3
import os, socket
host, port, cookie = open(os.environ["_CONDOR_CHIRP_CONFIG"]).read().split()
with socket.create_connection((host, int(port))) as link, link.makefile("rwb") as both:
    for request in (f"cookie {cookie}", "set_job_attr_delayed ChirpStep 7", "getfile on-ap"):
        both.write(request.encode() + b"\\n")
        both.flush()
        answer = int(both.readline())
        print(answer, both.read(max(answer, 0)).decode(), flush=True)
"""


@pytest.fixture(scope="module")
def chirp_job(pool: Pool) -> JobId:
    return submit(pool, "sl-chirp", CHIRPS, "want_io_proxy = true", **{"on-ap": "its file\n"})


@pytest.fixture(scope="module")
def less_chirp_job(pool: Pool) -> JobId:
    return submit(pool, "sl-less", CHIRPS, **{"on-ap": "its file\n"})


@pytest.mark.representative
def test_a_job_talks_to_its_starter_by_chirp(
    pool: Pool, chirp_job: JobId, less_chirp_job: JobId
) -> None:
    for job, folder, last in (
        (chirp_job, "sl-chirp", "9 its file\n\n"),
        # As natively: it has not asked for files.
        (less_chirp_job, "sl-less", "-8 \n"),
    ):
        ad = pool.wait(job, TIMEOUT_S)
        assert (ad.integer("ExitCode"), ad.integer("ChirpStep")) == (0, 7)
        assert pool.read(f"/home/alice/{folder}/out") == f"0 \n0 \n{last}"


SAVES = """\
test -e state && exec cat state
trap 'echo saved >state; exit 1' TERM
echo begun
while :; do sleep 0.2; done
"""
EVICTABLE = """\
when_to_transfer_output = ON_EXIT_OR_EVICT
transfer_output_files = state
stream_output = true
"""


@pytest.mark.representative
def test_a_job_that_is_evicted_saves_what_it_has_and_goes_on_with_it(pool: Pool) -> None:
    job = submit(pool, "sl-evicted", SAVES, EVICTABLE)
    wait_until_printed(pool, "sl-evicted", "begun\n")
    pool.run("alice", ["condor_vacate_job", str(id_of(copy_of(pool, job)))])
    ad = pool.wait(job, TIMEOUT_S)
    assert (ad.integer("ExitCode"), ad.integer("NumJobStarts")) == (0, 2)
    assert pool.read("/home/alice/sl-evicted/out").endswith("saved\n")


def test_what_a_running_job_has_printed_can_be_looked_at(pool: Pool) -> None:
    job = submit(pool, "sl-tail", "echo begun; sleep 600")
    seen: list[bytes] = []

    def is_seen() -> bool:
        seen[:] = [
            pool.run("alice", ["condor_tail", str(id_of(copy))], check=False).stdout
            for copy in pool.routed(job)
        ]
        return seen == [b"begun\n"]

    pool.until(is_seen, TIMEOUT_S, "condor_tail to show what the job has printed")
    pool.run("alice", ["condor_rm", str(job)])


@pytest.mark.representative
def test_who_logs_in_to_a_jobs_slot_is_in_its_machine(pool: Pool) -> None:
    job = submit(pool, "sl-ssh", "echo begun; sleep 600", "stream_output = true")
    wait_until_printed(pool, "sl-ssh", "begun\n")
    typed = "hostname; pwd; ls -a; exit\n"
    argv = ["condor_ssh_to_job", "-auto-retry", str(id_of(copy_of(pool, job)))]
    shown = pool.run("alice", argv, stdin=typed, timeout_s=TIMEOUT_S).stdout.decode().split()
    assert "capsule" in shown and "_condor_stdout" in shown
    # What HTCondor and our program have in the slot the job does not have.
    assert not {name for name in shown if name.startswith((".vmcapsule", ".docker", ".condor"))}
    pool.run("alice", ["condor_rm", str(job)])


def wait_until_printed(pool: Pool, folder: str, text: str) -> None:
    out = pool.path(f"/home/alice/{folder}/out")
    pool.until(lambda: out.is_file() and out.read_text() == text, TIMEOUT_S, f"{text!r}")


HUNGRY = """\
#!/usr/bin/python3
import time
kept = bytearray(100 << 20)
print("begun", flush=True)
time.sleep(600)
"""


@pytest.fixture
def metric(pool: Pool) -> Iterator[None]:
    """The execute point configured as the documentation has it."""
    page = (Path(__file__).resolve().parents[2] / "docs/routes.md").read_text()
    found = re.search(r"^    (MEMORY_USAGE_METRIC = .*)$", page, re.MULTILINE)
    assert found
    pool.configure("90-metric", found[1] + "\nSHADOW_QUEUE_UPDATE_INTERVAL = 2\n")
    pool.reconfigure()
    yield
    pool.unconfigure("90-metric")
    pool.reconfigure()


@pytest.mark.usefixtures("metric")
def test_condor_q_shows_the_memory_that_a_running_job_uses(pool: Pool) -> None:
    job = submit(pool, "sl-hungry", HUNGRY, "request_memory = 200\nstream_output = true")
    wait_until_printed(pool, "sl-hungry", "begun\n")
    used: list[int] = []

    def is_told() -> bool:
        (ad,) = pool.routed(job)
        used[:] = [ad.integer("MemoryUsage") or 0]
        return "ChirpVmCapsuleResidentSetSize" in ad

    pool.until(is_told, TIMEOUT_S, "the job's usage to be in its ad")
    # And not its machine's, which has been given more than that.
    assert 100 <= used[0] < 180
    pool.run("alice", ["condor_rm", str(job)])


TICKS = "n=0; while [ $n -lt 60 ]; do n=$((n + 1)); echo $n; sleep 0.5; done"


@pytest.mark.representative
def test_a_job_that_is_suspended_stands_still_in_its_machine(pool: Pool) -> None:
    job = submit(pool, "sl-still", TICKS, "stream_output = true")
    out = pool.path("/home/alice/sl-still/out")
    pool.until(lambda: out.is_file() and out.read_text() != "", TIMEOUT_S, "the job to print")
    routed = str(id_of(copy_of(pool, job)))
    pool.run("alice", ["condor_suspend", routed])

    def states() -> set[str]:
        """Those of its machine's process, one letter (man 5 proc)."""
        texts = [Path(f"/proc/{pid}/stat").read_text() for pid in machines(pool)]
        return {text.rpartition(")")[2].split()[0] for text in texts}

    pool.until(lambda: states() == {"T"}, TIMEOUT_S, "its machine to stand still")
    before = out.read_text()
    time.sleep(3)
    assert out.read_text() == before
    pool.run("alice", ["condor_continue", routed])
    assert pool.wait(job, TIMEOUT_S).integer("ExitCode") == 0
    assert out.read_text() == "".join(f"{n}\n" for n in range(1, 61))


def test_a_machine_that_is_lost_is_no_end_of_the_job(pool: Pool) -> None:
    # Not submitted with the others: it would have ended before its machine is looked for.
    job = submit(pool, "sl-lost", "sleep 20; echo ended; exit 3", "max_retries = 1")
    kill_machine(pool, job)
    try_now(pool, job)
    ad = pool.wait(job, TIMEOUT_S)
    assert ad.integer("ExitCode") == 3
    # Nor a try of its user's, who has two.
    assert copy_of(pool, job).integer("NumJobCompletions") == 2
    assert pool.read("/home/alice/sl-lost/out") == "ended\n"


def test_a_machine_that_is_lost_thrice_is_a_hold_with_its_reason(pool: Pool) -> None:
    job = submit(pool, "sl-vain", "sleep 300")
    for _ in range(2):
        kill_machine(pool, job)
        try_now(pool, job)
    kill_machine(pool, job)
    pool.wait(job, TIMEOUT_S, until=(HELD,))
    (ad,) = pool.queue(job)
    reason = ad.string("HoldReason") or ""
    assert reason.startswith("vmcapsule: the guest did not report in 3 runs; the last was on ")
    assert ad.integer("HoldReasonSubCode") == 76


def kill_machine(pool: Pool, job: JobId) -> None:
    def is_running() -> bool:
        return any(ad.integer("JobStatus") == RUNNING for ad in pool.routed(job))

    pool.until(is_running, TIMEOUT_S, "the job to run")
    pool.until(lambda: bool(machines(pool)), TIMEOUT_S, "its machine to run")
    for pid in machines(pool):
        os.kill(pid, signal.SIGKILL)
    pool.until(lambda: not machines(pool), TIMEOUT_S, "its machine to be gone")
    pool.until(lambda: not is_running(), TIMEOUT_S, "the run to be over")


#: Stands in front of the hook, and notes of which status the routed job was.
COUNTED = f"""\
#!/bin/sh
ad=$(cat)
printf '%s\\n' "$ad" | sed -n 's/^JobStatus = //p' >>/var/tmp/polls
printf '%s\\n' "$ad" | {HOME}/hooks/update
"""


def test_no_hook_asks_for_news_of_a_job_that_runs(pool: Pool) -> None:
    pool.put("/usr/local/libexec/counted", COUNTED, mode=0o755)
    pool.put("/var/tmp/polls", "", mode=0o666)
    pool.configure("90-counted", "CAPSULE_HOOK_UPDATE_JOB_INFO = /usr/local/libexec/counted\n")
    pool.reconfigure()
    try:
        job = submit(pool, "sl-quiet", "sleep 30")
        assert pool.wait(job, TIMEOUT_S).integer("ExitCode") == 0
    finally:
        pool.unconfigure("90-counted")
        pool.reconfigure()
    # The router looks every two seconds; what it has seen runs is not asked for again.
    polls = pool.read("/var/tmp/polls").split()
    assert polls and polls.count(str(RUNNING)) <= 2


def test_nothing_is_left_and_nothing_was_ever_made_on_the_access_point(pool: Pool) -> None:
    assert machines(pool) == []
    left = [path.name for path in pool.space.path(SCRATCH).iterdir()]
    assert [name for name in left if not name.startswith("events-")] == []
