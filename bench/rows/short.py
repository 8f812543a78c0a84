"""A short job in a pool with HTCondor's default intervals: what its user waits for.

Natively and by each route that a pool of Debian's can have; one job at a time, as the events
in its own log tell, to the second.  Nearly all of it is HTCondor's own waiting.
"""

from __future__ import annotations

import contextlib
import os
import re
from datetime import datetime
from typing import Dict, Iterator, List, NamedTuple

from bench.measure import Run
from bench.place import Place
from bench.results import Measure, Outcome
from tests.pool.kvm.libvirt import running_libvirt
from tests.pool.plugin import wrapped
from tests.pool.pool import Pool, PoolError
from tests.pool.root import WITH_LIBVIRT

NATIVE = "native"
#: The ad templates whose routes run jobs here.
ROUTES = ("slot", "vmware")
#: The way without a router.
WRAPPER = "wrapper"
#: The one for which the pool has to have libvirt.
KVM = "kvm"
_WANTED = "+WantJobRouter = True"
_WRAPPED = "requirements = HasVMCapsuleWrapper\n+WantVMCapsule = true"
#: What a startd has to say before a route's first job, so that none waits for its programs.
_NEEDED = {KVM: "HasVM", "slot": "VMCapsuleTemplates =!= undefined"}
LIMIT_S = 600

#: HTCondor's own defaults, where the pool's are short, for tests.
_CONFIG = """\
NEGOTIATOR_INTERVAL = 60
NEGOTIATOR_MIN_INTERVAL = 5
NEGOTIATOR_CYCLE_DELAY = 20
SCHEDD_INTERVAL = 300
SCHEDD_MIN_INTERVAL = 5
JOB_ROUTER_POLLING_PERIOD = 10
PERIODIC_EXPR_INTERVAL = 60
UPDATE_INTERVAL = 300
"""
_SUBMIT = """\
executable = /bin/true
transfer_executable = false
log = log
request_memory = 64
request_disk = 1MB
{more}
queue
"""
#: Events as job logs number them.
_SUBMITTED, _EXECUTING, _TERMINATED = 0, 1, 5
_EVENT = re.compile(
    r"^(\d{3}) \(\d+\.\d+\.\d+\) (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", re.MULTILINE
)


class Waits(NamedTuple):
    """Seconds between a job's events."""

    starting_s: float
    running_s: float


def jobs(place: Place) -> Outcome:
    """Some jobs each way, each when the one before has left the queue."""
    if os.geteuid() != 0:
        return Outcome(why_not="a pool needs root")
    waits: Dict[str, List[Waits]] = {}
    with _running("trixie") as pool:
        for route in ROUTES:
            _take(pool, route)
            if route == ROUTES[0]:
                waits[NATIVE] = _some(place, pool, NATIVE, "")
            waits[route] = _some(place, pool, route, _WANTED)
        pool.configure("61-wrapper", wrapped())
        pool.reconfigure()
        waits[WRAPPER] = _some(place, pool, WRAPPER, _WRAPPED)
    with _running("trixie" + WITH_LIBVIRT) as pool, running_libvirt(pool):
        _take(pool, KVM)
        waits[KVM] = _some(place, pool, KVM, _WANTED)
    return outcome(waits)


@contextlib.contextmanager
def _running(suite: str) -> Iterator[Pool]:
    pool = Pool(suite, "bench-short")
    pool.start()
    try:
        pool.configure("60-bench", _CONFIG)
        yield pool
    finally:
        pool.stop()


def _take(pool: Pool, route: str) -> None:
    """Have the pool run the jobs of a route."""
    pool.install_plugin({"CONDOR_CLASSAD_TEMPLATE": route})
    pool.restart("MASTER")
    if route in _NEEDED:
        argv = ["condor_status", "-constraint", _NEEDED[route], "-af", "Name"]
        what = f"the startd to advertise what {route} needs"
        pool.until(lambda: bool(pool.run("root", argv).stdout), 90, what)


def _some(place: Place, pool: Pool, way: str, more: str) -> List[Waits]:
    place.say(f"short jobs: {way}")
    return [_one(pool, f"{way}-{number}", more) for number in range(place.sizes.short_jobs)]


def _one(pool: Pool, folder: str, more: str) -> Waits:
    job = pool.submit("alice", folder, _SUBMIT.format(more=more))
    code = pool.wait(job, LIMIT_S).integer("ExitCode")
    if code != 0:
        raise PoolError(f"a short job ended with exit code {code}", pool.logs_text(10))
    return read_waits(pool.read(f"/home/alice/{folder}/log"))


def read_waits(log: str) -> Waits:
    """What a job's log says of its one run.  Raises `PoolError` where an event is missing."""
    at = {int(number): datetime.fromisoformat(when) for number, when in _EVENT.findall(log)}
    missing = {_SUBMITTED, _EXECUTING, _TERMINATED} - set(at)
    if missing:
        raise PoolError(f"a short job's log has no event {min(missing):03}")
    return Waits(
        (at[_EXECUTING] - at[_SUBMITTED]).total_seconds(),
        (at[_TERMINATED] - at[_EXECUTING]).total_seconds(),
    )


def outcome(waits: Dict[str, List[Waits]]) -> Outcome:
    """What is to be said of them; there is no target, since HTCondor's waiting is its own."""
    parts = {
        "from submitted to executing": lambda one: one.starting_s,
        "from executing to terminated": lambda one: one.running_s,
        "as a whole": sum,
    }
    return Outcome(
        tuple(
            Measure(
                f"a short job {part}",
                {way: tuple(Run(of(one)) for one in some) for way, some in waits.items()},
            )
            for part, of in parts.items()
        )
    )
