"""How a job asks for a capsule, where its capsule may run, and on whose account.

No guest is booted: the jobs are for machines that the pool does not have, but for one that
runs natively.
"""

from __future__ import annotations

import re
from typing import Iterator

import pytest

from tests.pool.pool import HELD, JobId, Pool
from vmcapsule.classad.ads import Ad
from vmcapsule.errors import ConfigError

pytestmark = pytest.mark.pool
TIMEOUT_S = 90
SUBMIT = """\
executable = job.sh
output = out
log = log
request_memory = 64
{more}
queue
"""
ROUTED = "WantJobRouter = true"
JOB = {"job.sh": "#!/bin/sh\necho done\n"}
#: A limit of 0, so that nothing that counts for it ever runs.
LIMIT = "NOTHING_LIMIT = 0\n"


@pytest.fixture(autouse=True)
def nothing_left(pool: Pool) -> Iterator[None]:
    yield
    pool.run("root", ["condor_rm", "-all"], check=False)
    pool.until(lambda: not pool.queue(), TIMEOUT_S, "the queue to be empty")


def submit(pool: Pool, folder: str, *more: str) -> JobId:
    return pool.submit("alice", folder, SUBMIT.format(more="\n".join(more)), JOB)


def turned_away(pool: Pool, job: JobId) -> Ad:
    """The routed copy of a job, when a negotiator has found no machine for it."""

    def copies() -> list[Ad]:
        return [ad for ad in pool.routed(job) if "LastRejMatchReason" in ad]

    pool.until(lambda: bool(copies()), TIMEOUT_S, f"the copy of {job} to match no machine")
    (copy,) = copies()
    assert copy.integer("JobStatus") == 1
    return copy


@pytest.mark.parametrize(
    "how", ["WantJobRouter = true", "wantjobrouter=True", "+WantJobRouter = True"]
)
def test_a_job_asks_for_a_capsule_with_a_plus_or_without(pool: Pool, how: str) -> None:
    files = {"job.sub": SUBMIT.format(more=f"{how}\nrequest_memory = 100000"), **JOB}
    for name, text in files.items():
        pool.put(f"/home/alice/asks/{name}", text, mode=0o755, owner="alice")
    done = pool.run("alice", ["condor_submit", "-terse", "job.sub"], cwd="/home/alice/asks")
    assert b"unused" not in done.stderr
    job = JobId(int(done.stdout.split(b".")[0]))
    pool.until(lambda: bool(pool.routed(job)), TIMEOUT_S, "the job to be routed")


def test_a_job_that_says_no_runs_as_it_is(pool: Pool) -> None:
    job = submit(pool, "says-no", "WantJobRouter = false")
    assert pool.wait(job).integer("ExitCode") == 0
    assert pool.routed(job) == ()


def test_what_is_no_yes_or_no_is_refused_at_once(pool: Pool) -> None:
    for name, text in {"job.sub": SUBMIT.format(more="WantJobRouter = 1 +"), **JOB}.items():
        pool.put(f"/home/alice/odd/{name}", text, mode=0o755, owner="alice")
    argv = ["condor_submit", "job.sub"]
    done = pool.run("alice", argv, cwd="/home/alice/odd", check=False)
    assert done.returncode != 0
    assert b"wantjobrouter=1 + is invalid" in done.stderr.lower(), done.stderr


@pytest.mark.parametrize(
    "requirements", ['Machine == "absent.example.org"', "HasNoSuchThing", "ProcId == 7"]
)
def test_a_capsule_runs_only_where_its_job_may(pool: Pool, requirements: str) -> None:
    copy = turned_away(pool, submit(pool, "absent", ROUTED, f"requirements = {requirements}"))
    assert "VmCapsuleInSlot" in copy and "VmCapsuleHoldReason" not in copy, "it was translated"


@pytest.fixture
def limit(pool: Pool) -> Iterator[None]:
    pool.configure("99-limit", LIMIT)
    pool.reconfigure()
    yield
    pool.unconfigure("99-limit")
    pool.reconfigure()


@pytest.mark.usefixtures("limit")
def test_a_routed_job_counts_for_its_sources_group_and_limits(pool: Pool) -> None:
    job = submit(
        pool,
        "accounted",
        ROUTED,
        "accounting_group = group_physics",
        "accounting_group_user = carol",
        "concurrency_limits = nothing",
    )
    copy = turned_away(pool, job)
    assert "concurrency limit" in (copy.string("LastRejMatchReason") or "").lower()
    argv = ["condor_status", "-submitters", "-af", "Name"]
    pool.until(
        lambda: b"group_physics.carol@" in pool.run("root", argv).stdout,
        TIMEOUT_S,
        "the group to be a submitter",
    )


@pytest.mark.parametrize(
    ("template", "universe", "said"),
    [
        ("vmware", "VANILLA", ["TargetUniverse = 5", "JobUniverse = 13", "UNIVERSE VM"]),
        ("slot", "VM", ["TargetUniverse = 13", "JobUniverse = 5", "UNIVERSE VANILLA"]),
    ],
)
def test_a_route_that_does_not_fit_its_ad_template_holds_its_jobs(
    pool: Pool, template: str, universe: str, said: list[str]
) -> None:
    route = pool.read("/etc/condor/config.d/50-vmcapsule")
    found = re.search(r"^JOB_ROUTER_ROUTE_capsule @=end\n.*?^@end$", route, re.M | re.S)
    assert found
    pool.configure(
        "99-unfit",
        f"VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE = {template}\n"
        + re.sub(
            r"UNIVERSE \w+", f"UNIVERSE {universe}", found[0].replace("REQUIREMENTS", "R#")
        ).replace("R#", "REQUIREMENTS")
        + "\n",
    )
    pool.reconfigure()
    try:
        ad = pool.wait(submit(pool, "unfit", ROUTED), until=(HELD,))
    finally:
        pool.unconfigure("99-unfit")
        pool.reconfigure()
    reason = ad.string("HoldReason") or ""
    assert [
        word for word in [*said, "'capsule'", f"{template}.classad"] if word not in reason
    ] == []
    assert ad.integer("HoldReasonSubCode") == ConfigError.exit_status
