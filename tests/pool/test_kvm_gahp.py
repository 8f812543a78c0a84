"""KVM jobs of HTCondor's VM universe through our own vm-gahp: no libvirt, no vm-gahp of its."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.pool.jobs import TIMEOUT_S, assert_killed, copy_of, submit
from tests.pool.own_gahp import advertised, assert_all_gone, completions, vm_route
from tests.pool.pool import Pool

pytestmark = pytest.mark.pool


@pytest.fixture(scope="module", autouse=True)
def route(pool: Pool) -> Iterator[None]:
    """The pool with the route of such jobs."""
    with vm_route(pool, "kvm-gahp"):
        yield


def test_jobs_end_as_natively(pool: Pool) -> None:
    assert advertised(pool)[1] == "kvm" and advertised(pool)[3].startswith("qemu ")
    retried = submit(pool, "kg-retried", "echo $(whoami); exit 7", "max_retries = 1\nqueue")
    killed = submit(pool, "kg-killed", "kill -9 $$")
    assert_killed(pool, "kg-killed", killed, TIMEOUT_S)
    ad = pool.wait(retried, TIMEOUT_S)
    assert (ad.integer("ExitCode"), completions(pool, retried)) == (7, 2)
    assert pool.read("/home/alice/kg-retried/out") == "alice\n"
    copy = copy_of(pool, retried)
    assert (copy.integer("JobUniverse"), copy.string("JobVMType")) == (13, "kvm")
    assert_all_gone(pool)
