"""KVM jobs of HTCondor's VM universe through our own vm-gahp: no libvirt, no vm-gahp of its."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.pool.jobs import submit
from tests.pool.pool import Pool
from tests.pool.test_vmware import TIMEOUT_S, advertised, runs, wait_until_quiet

pytestmark = pytest.mark.pool


@pytest.fixture(scope="module", autouse=True)
def route(pool: Pool) -> Iterator[None]:
    """The pool with the route of such jobs, and after it again with its own."""
    pool.install_plugin({"CONDOR_CLASSAD_TEMPLATE": "kvm-gahp"})
    pool.restart("MASTER")
    pool.until(lambda: advertised(pool)[0] == "true", 90, "the startd to have VMs")
    yield
    pool.run("root", ["condor_rm", "-all"], check=False)
    pool.until(lambda: not pool.queue(), 90, "the queue to be empty")
    pool.install_plugin()
    pool.restart("MASTER")


def test_jobs_end_as_natively(pool: Pool) -> None:
    assert advertised(pool)[1] == "kvm" and advertised(pool)[3].startswith("qemu ")
    retried = submit(pool, "kg-retried", "echo $(whoami); exit 7", "max_retries = 1\nqueue")
    killed = submit(pool, "kg-killed", "kill -9 $$")
    ad = pool.wait(killed, TIMEOUT_S)
    assert (ad.boolean("ExitBySignal"), ad.integer("ExitSignal")) == (True, 9)
    ad = pool.wait(retried, TIMEOUT_S)
    assert (ad.integer("ExitCode"), runs(pool, retried)) == (7, 2)
    assert pool.read("/home/alice/kg-retried/out") == "alice\n"
    (copy,) = pool.routed(retried)
    assert (copy.integer("JobUniverse"), copy.string("JobVMType")) == (13, "kvm")
    wait_until_quiet(pool)
