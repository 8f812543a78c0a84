"""Templates that execute points fetch by themselves from where they are published."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.pool.jobs import TIMEOUT_S
from tests.pool.plugin import DATA, HOME, wrapped
from tests.pool.pool import RUNNING, JobId, Pool
from tests.pool.processes import STARTER, machines, matching
from vmcapsule.template.cache import LOCK
from vmcapsule.template.likeness import likeness
from vmcapsule.template.template import load

pytestmark = pytest.mark.pool
#: Comes after what installs the plugin.
EXTRA = "90-published"
STORE, CACHE = "/srv/vmcapsule", "/var/lib/condor/vmcapsule"
ARGS = "STARTD_CRON_VMCAPSULE_TEMPLATES_ARGS = templates --from {} --into {} --at-most-gib {}\n"
SHOWN = ("VMCapsuleTemplates", "VMCapsuleTemplatePaths", "VMCapsuleTemplateReason")
SUBMIT = """\
executable = job.sh
output = out
error = err
log = log
request_memory = 64
requirements = HasVMCapsuleWrapper
+WantVMCapsule = true
queue
"""


@pytest.fixture
def fetching(pool: Pool) -> Iterator[Pool]:
    """The pool, whose execute point has no template but what it fetches, and a job wrapper."""
    pool.configure("91-wrapper", wrapped())
    publish = ["env", f"PYTHONPATH={HOME}", "python3", "-m", "vmcapsule"]
    publish += ["template", "publish", STORE]
    pool.run("root", publish, timeout_s=300)
    fetch_from(pool, STORE)
    yield pool
    pool.run("root", ["condor_rm", "-all"], check=False)
    pool.unconfigure(EXTRA)
    pool.unconfigure("91-wrapper")
    pool.reconfigure()
    pool.until(lambda: advertised(pool)[1] == f"{DATA}/templates", 90, "its own template")


def fetch_from(pool: Pool, store: str, at_most_gib: int = 20) -> None:
    pool.configure(EXTRA, ARGS.format(store, CACHE, at_most_gib))
    pool.reconfigure()


def submit(pool: Pool, folder: str, command: str) -> JobId:
    return pool.submit("alice", folder, SUBMIT, {"job.sh": f"#!/bin/sh\n{command}\n"})


def advertised(pool: Pool) -> list[str]:
    """What condor_status shows of the slot, for each of `SHOWN`."""
    done = pool.run("alice", ["condor_status", "-constraint", "SlotID == 1", "-af:t", *SHOWN])
    return done.stdout.decode().split("\n")[0].split("\t")


def test_what_is_published_comes_is_used_and_goes(fetching: Pool) -> None:
    pool = fetching
    like = likeness(load(pool.path(f"{DATA}/templates")))
    copy = pool.path(f"{CACHE}/{like}")
    wanted = [like, f"{CACHE}/{like}", "undefined"]
    pool.until(lambda: advertised(pool) == wanted, TIMEOUT_S, "the template to be fetched")
    # It is the daemons' user's, and nobody else writes there.
    assert copy.stat().st_uid == pool.path("/var/lib/condor").stat().st_uid
    touch = ["touch", f"{CACHE}/{like}/condor_vm_capsule/system.vmdk"]
    assert pool.run("alice", touch, check=False).returncode != 0

    short = submit(pool, "published", "hostname")
    assert pool.wait(short, TIMEOUT_S).integer("ExitCode") == 0
    assert pool.read("/home/alice/published/out") == "capsule\n"

    long = submit(pool, "published-long", "exec sleep 1000")
    pool.wait(long, TIMEOUT_S, until={RUNNING})
    pool.until(lambda: bool(machines(pool)), TIMEOUT_S, "its machine to run")
    # There is no room for the template any more; while it is used, it stays.
    before_s = (copy / LOCK).stat().st_mtime
    fetch_from(pool, STORE, at_most_gib=0)
    pool.until(lambda: (copy / LOCK).stat().st_mtime > before_s, 90, "the use to be noted")
    assert copy.is_dir()
    pool.run("alice", ["condor_rm", str(long)])
    pool.until(lambda: not matching(pool, STARTER), TIMEOUT_S, "its starter to end")
    fetch_from(pool, f"{STORE}/", at_most_gib=0)
    reason = f"there is no room for the template {like}"
    pool.until(
        lambda: advertised(pool)[0] == "" and reason in advertised(pool)[2], 90, "it to go"
    )
    assert not copy.exists()
