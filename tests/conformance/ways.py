"""The ways a case is run: one table, with the native one first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Protocol, Sequence

from tests.conformance.alone import Alone
from tests.conformance.cases import Case
from tests.conformance.outcome import Outcomes
from tests.conformance.queued import (
    InSlots,
    OnLibvirt,
    Queued,
    Routed,
    Wrapped,
)
from tests.pool.pool import Pool
from tests.pool.root import WITH_LIBVIRT

NATIVE = "native"


class Runner(Protocol):
    """What runs cases one way."""

    def run(self, cases: Sequence[Case]) -> Outcomes:
        """Run the cases; return what became of each, by name."""


@dataclass(frozen=True)
class Way:
    """A way: what it is, for people, and what runs cases so in a pool.

    ``root`` ends the name of the suite on whose root that pool has to stand, where that is
    another than all other ways' (`tests.pool.root`).
    """

    about: str
    runner: Callable[[Pool, str], Runner]
    root: str = ""


#: Another kind of routed job is another line here.
WAYS: Dict[str, Way] = {
    NATIVE: Way("HTCondor without vmcapsule: the reference", Queued),
    "slot": Way(
        "routed as it is, and packed in its vanilla slot, where QEMU boots it",
        lambda pool, way: InSlots(pool, way, "slot"),
    ),
    "wrapper": Way(
        "packed in its vanilla slot by the job wrapper of its execute point, without a router",
        Wrapped,
    ),
    "vmware": Way(
        "routed into a VMware job of HTCondor's VM universe, which our vm-gahp boots by QEMU",
        lambda pool, way: Routed(pool, way, "vmware"),
    ),
    "kvm": Way(
        "routed into a KVM job of HTCondor's VM universe, which its vm-gahp has libvirt boot",
        lambda pool, way: OnLibvirt(pool, way, "kvm"),
        root=WITH_LIBVIRT,
    ),
    "run": Way(
        "`vmcapsule run`: on one machine, under a personal HTCondor in the guest",
        lambda pool, way: Alone(pool, way, "condor"),
    ),
    "direct": Way(
        "`vmcapsule run --runner direct`: without HTCondor in the guest",
        lambda pool, way: Alone(pool, way, "direct"),
    ),
}
#: Those that are compared with the native one.
COMPARED = tuple(way for way in WAYS if way != NATIVE)
