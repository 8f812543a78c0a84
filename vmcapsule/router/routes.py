"""All kinds of routed jobs, and which of them an ad template makes."""

from __future__ import annotations

from vmcapsule.classad.ads import Ad
from vmcapsule.errors import AdError, ConfigError
from vmcapsule.router import qemu, vmware
from vmcapsule.router.route import Route, kind

#: Another kind of routed job is another line here.
ROUTES = (qemu.ROUTE, vmware.ROUTE)
_KNOB = "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE"


def route_of(template: Ad) -> Route:
    """What an ad template makes, told by its own JobUniverse and JobVMType.

    Raises `ConfigError` for a kind that is not known.
    """
    try:
        universe, vm_type = template.integer("JobUniverse"), template.string("JobVMType") or ""
    except AdError as error:
        raise ConfigError(
            f"{_KNOB}: {error.message}", f"correct the ad that {_KNOB} names"
        ) from error
    if universe is None:
        raise ConfigError(
            f"{_KNOB}: the ad has no JobUniverse", "make it with 'condor_submit -dump'"
        )
    for route in ROUTES:
        if (route.universe, route.vm_type) == (universe, vm_type.lower()):
            return route
    known = "; or ".join(kind(route.universe, route.vm_type) for route in ROUTES)
    raise ConfigError(
        f"{_KNOB}: no capsule can be made for an ad with {kind(universe, vm_type)}",
        f"use one with {known}",
    )
