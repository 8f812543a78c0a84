"""A pool whose execute point has libvirt, with the route of KVM jobs."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.pool.conftest import running
from tests.pool.kvm.libvirt import Libvirt, running_libvirt
from tests.pool.pool import Pool
from tests.pool.root import WITH_LIBVIRT

#: So many machines wait more than they work.
MORE = "NUM_CPUS = 8\nMEMORY = 16384\n"


@pytest.fixture(scope="session")
def pool(request: pytest.FixtureRequest, suite: str) -> Iterator[Pool]:
    """A pool with the plugin installed, on a root with libvirt."""
    with running(request.config, suite + WITH_LIBVIRT) as made:
        yield made


@pytest.fixture(scope="session", autouse=True)
def libvirt(pool: Pool) -> Iterator[Libvirt]:
    """libvirt runs, and HTCondor was restarted with what is printed for the route."""
    with running_libvirt(pool) as daemons:
        pool.install_plugin({"CONDOR_CLASSAD_TEMPLATE": "kvm"})
        pool.configure("60-more", MORE)
        pool.restart("MASTER")
        pool.until(lambda: has_vms(pool), 90, "the startd to have VMs")
        yield daemons


def has_vms(pool: Pool) -> bool:
    argv = ["condor_status", "-constraint", "SlotID == 1", "-af", "HasVM"]
    return pool.run("alice", argv).stdout.split()[:1] == [b"true"]
