"""Routed jobs that have a capsule: it is planned, told of in their ad, and packed."""

from __future__ import annotations

from typing import Callable

from vmcapsule.capsule import making, naming, scratch, states
from vmcapsule.capsule.packing import Plan, pack, plan
from vmcapsule.capsule.record import Capsule
from vmcapsule.classad.ads import Ad
from vmcapsule.config import Config
from vmcapsule.job.source import SourceJob
from vmcapsule.router.route import Route
from vmcapsule.router.routed_ad import routed_ad, sizes
from vmcapsule.template.tarball import tarball_of
from vmcapsule.template.template import load


def for_router(
    job: SourceJob, route: Route, ad_template: Ad, config: Config, check: Callable[[Ad], None]
) -> tuple[Ad, Capsule]:
    """Make the ad of a job that is to be routed, and its capsule; ``check`` raises for an ad
    that the router does not take, before anything is packed."""
    # It sends a job that has no run; a person may try one that is running.
    scratch.clear(config.scratch_dir_prefix, job.job_id, job.global_job_id)
    planned = _planned(job, config)
    ad = _planned_ad(planned, route, ad_template)
    check(ad)
    return _packed(planned, route, ad)


def by_hand(
    job: SourceJob, route: Route, ad_template: Ad, config: Config
) -> tuple[Ad, Capsule]:
    """The same for a person: no queue knows of the capsule, and whoever made it removes it."""
    planned = _planned(job, config)
    ad, made = _packed(planned, route, _planned_ad(planned, route, ad_template))
    try:
        states.keep(made.folder)
    except BaseException:
        making.remove(made.folder)
        raise
    return ad, made


def _planned(job: SourceJob, config: Config) -> Plan:
    return plan(job, load(config.template), config, tarball_of(config), naming.ROUTED)


def _planned_ad(planned: Plan, route: Route, ad_template: Ad) -> Ad:
    facts = route.facts(planned.capsule, planned.template, _largest_kib(planned.capsule))
    return routed_ad(planned.job, route, ad_template, facts)


def _packed(planned: Plan, route: Route, ad: Ad) -> tuple[Ad, Capsule]:
    made = pack(planned, route.finish, travels=True)
    try:
        facts = route.facts(made, planned.template, made.data_disk.stat().st_size // 1024)
        return ad.with_(sizes(planned.job, route, facts)), made
    except BaseException:
        making.remove(made.folder)
        raise


def _largest_kib(planned: Capsule) -> int:
    """What the data disk of a capsule takes up at most, before it is known.

    A sparse disk has a table beside what is in it.
    """
    return (planned.data_bytes + planned.data_bytes // 1024 + (1 << 20)) // 1024
