"""What ten thousand jobs that run cost the access point: a real JobRouter, a made-up queue.

A job is routed to a pool for real, and while it runs both its ads are written ten thousand
times into a job queue of their own (the log of transactions that HTCondor's JobRouter reads,
``ClassAdLog``).  The router adopts these jobs as it does those that it finds after a restart,
and looks after them as ever.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Iterator, Tuple

from bench.place import Place
from bench.results import Measure, Outcome, Target
from tests.pool.pool import RUNNING, Pool, PoolError
from vmcapsule.classad.ads import Ad, quote

_SPOOL = "/var/tmp/bench-spool"
_FILE = "95-running"
#: HTCondor's own default, and how many times the router is to look.
_POLL_S, _POLLS = 10, 6
#: As ``ClassAdLog`` numbers what it notes.
_NEW_AD, _SET, _BEGIN, _END, _HEADER = 101, 103, 105, 106, 107
_FIRST_CLUSTER = 1000
_CONFIG = f"""\
JOB_ROUTER_SCHEDD1_SPOOL = {_SPOOL}
JOB_ROUTER_POLLING_PERIOD = {_POLL_S}
JOB_ROUTER_MAX_JOBS = -1
PERIODIC_EXPR_INTERVAL = 60
UPDATE_INTERVAL = 300
CAPSULE_HOOK_UPDATE_JOB_INFO = {_SPOOL}/update
"""
#: For as long as it is to say how many it has adopted: that it says anything takes time.
_TALKATIVE = "JOB_ROUTER_DEBUG = D_FULLDEBUG\n"
_SUBMIT = """\
executable = /bin/sleep
transfer_executable = false
arguments = 9999
log = log
request_memory = 64
request_disk = 1MB
+WantJobRouter = True
queue
"""
#: Stands in for the hook that is not to be started: counts.
_COUNTING = f"#!/bin/sh\necho >>{_SPOOL}/started\n"


def jobs(place: Place) -> Outcome:
    """The router's CPU time for each look at them, and what it started."""
    if os.geteuid() != 0:
        return Outcome(why_not="a pool needs root")
    count = place.sizes.running
    pool = Pool("trixie", "bench-running")
    pool.start()
    try:
        _install(pool, queue_of(*_one_that_runs(pool), count))
        pool.until(lambda: _adopted(pool) >= count, 300, f"the router to adopt {count:,} jobs")
        pool.configure(_FILE, _CONFIG)
        pool.reconfigure()
        before_s = _cpu_s(pool)
        time.sleep(_POLLS * _POLL_S)
        used_s = _cpu_s(pool) - before_s
        started = len(pool.read(f"{_SPOOL}/started").splitlines())
    finally:
        pool.stop()
    what = f"the JobRouter with {count:,} jobs that run"
    targets = (
        Target("CPU s each time it looks", used_s / _POLLS, 1.0),
        Target("hooks started in a minute", started, 0),
    )
    return Outcome((Measure(what, {}, targets),))


def _one_that_runs(pool: Pool) -> Tuple[Ad, Ad]:
    """The ads of a source and of its routed job, when the router knows that it runs."""
    job = pool.submit("alice", "running", _SUBMIT)
    both = f'ClusterId == {job.cluster} || RoutedFromJobId == "{job}"'

    def is_known() -> bool:
        return [ad.integer("JobStatus") for ad in pool.queue(both)] == [RUNNING, RUNNING]

    pool.until(is_known, 300, "a job to run")
    # What it notes of a start it has noted then.
    time.sleep(3 * _POLL_S)
    source, routed = sorted(pool.queue(both), key=lambda ad: "RoutedFromJobId" in ad)
    return source, routed


def queue_of(source: Ad, routed: Ad, count: int) -> Iterator[str]:
    """The lines of a job queue's log in which these two are ``count`` times."""
    yield f"{_HEADER} 1 CreationTimestamp {int(time.time())}"
    yield f"{_NEW_AD} 0.0 Job Machine"
    yield f"{_SET} 0.0 NextClusterNum {_FIRST_CLUSTER + 2 * count}"
    # {0} and {1} stand for their clusters.
    both = "\n".join([*_ad_of(source, "{0}"), *_ad_of(routed, "{1}")])
    for cluster in range(_FIRST_CLUSTER, _FIRST_CLUSTER + 2 * count, 2):
        # With the blank that stands before what these have not.
        yield f"{_BEGIN} "
        yield both.replace("{0}", str(cluster)).replace("{1}", str(cluster + 1))
        yield f"{_END} "


def _ad_of(ad: Ad, cluster: str) -> Iterator[str]:
    others = {
        "clusterid": cluster,
        "globaljobid": quote(f"bench#{cluster}.0#1"),
        "routedtojobid": quote("{1}.0"),
        "routedfromjobid": quote("{0}.0"),
        "vmcapsulesourcejobid": quote("{0}.0"),
    }
    yield f"{_NEW_AD} {cluster}.0 Job Machine"
    for name in ad.names:
        text = others.get(name.lower(), ad.expr(name))
        yield f"{_SET} {cluster}.0 {name} {text}"


def _install(pool: Pool, lines: Iterator[str]) -> None:
    pool.put(f"{_SPOOL}/job_queue.log", "".join(f"{line}\n" for line in lines), owner="condor")
    pool.put(f"{_SPOOL}/started", "", mode=0o666)
    pool.put(f"{_SPOOL}/update", _COUNTING, mode=0o755)
    pool.configure(_FILE, _CONFIG + _TALKATIVE)
    pool.restart("JOB_ROUTER")


def _adopted(pool: Pool) -> int:
    """How many jobs the router looks after, as it says each time that it looks."""
    text = pool.daemons.log("JOB_ROUTER").rpartition("STARTING UP")[2]
    if "JobRouter failure" in text:
        raise PoolError("the router does not take the jobs that run", pool.logs_text(10))
    counted = re.findall(r"polling state of \((\d+)\) managed jobs", text)
    return int(counted[-1]) if counted else 0


def _cpu_s(pool: Pool) -> float:
    """What the router has used, and whatever it started that is over."""
    pid = pool.daemons.pid("JOB_ROUTER")
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    # utime, stime, cutime, cstime: proc(5).
    return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")
