"""All kinds of routed jobs, and which of them an ad template makes."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Union, cast

from vmcapsule.classad.ads import Ad, parse_ad
from vmcapsule.errors import AdError, ConfigError
from vmcapsule.router.route import IN_SLOT, OWN_GAHP, InSlot, Route, kind

#: By JobUniverse, JobVMType and mark of an ad template the module whose ROUTE it makes.
#: Another kind of routed job is another line here.  A hook imports the one that it needs.
MODULES = {
    (5, "", IN_SLOT): "slot",
    (13, "vmware", ""): "vmware",
    (13, "kvm", ""): "kvm",
    (13, "kvm", OWN_GAHP): "kvm_gahp",
}
_KNOB = "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE"


def read_ad_template(path: Path) -> Ad:
    """Read an ad template; `ConfigError` for one that cannot be read."""
    try:
        return parse_ad(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"{_KNOB}: cannot read '{path}': {reason}", f"correct {_KNOB}"
        ) from error
    except AdError as error:
        raise ConfigError(
            f"{_KNOB}: '{path}': {error.message}", "make it with 'condor_submit -dump'"
        ) from error


def route_of(template: Ad) -> Union[Route, InSlot]:
    """What an ad template makes, told by its own JobUniverse, JobVMType and mark.

    Raises `ConfigError` for a kind that is not known.
    """
    try:
        universe, vm_type = template.integer("JobUniverse"), template.string("JobVMType") or ""
        marks = [name for name in (OWN_GAHP, IN_SLOT) if template.boolean(name) is True]
    except AdError as error:
        raise ConfigError(
            f"{_KNOB}: {error.message}", f"correct the ad that {_KNOB} names"
        ) from error
    if universe is None:
        raise ConfigError(
            f"{_KNOB}: the ad has no JobUniverse", "make it with 'condor_submit -dump'"
        )
    mark = " ".join(marks)
    module = MODULES.get((universe, vm_type.lower(), mark))
    if module is not None:
        made = import_module(f"vmcapsule.router.{module}").ROUTE
        return cast("Union[Route, InSlot]", made)
    known = "; or ".join(kind(*one) for one in MODULES)
    raise ConfigError(
        f"{_KNOB}: no capsule can be made for an ad with {kind(universe, vm_type, mark)}",
        f"use one with {known}",
    )


def check_fits(route: Union[Route, InSlot], file: Path, asked: Ad) -> None:
    """Raise `ConfigError` where the JobRouter makes another kind of job of what we print.

    It puts its own route's universe, of which ``asked`` tells, in place of the one that the
    ad template ``file`` has.
    """
    universe = asked.integer("TargetUniverse")
    if universe in (None, route.universe):
        return
    name = asked.string("Name") or "?"
    raise ConfigError(
        f"the JobRouter's route '{name}' has TargetUniverse = {universe}, its ad template "
        f"'{file}' JobUniverse = {route.universe}",
        f"write 'UNIVERSE {route.universe_name}' into JOB_ROUTER_ROUTE_{name}, or name another "
        f"ad template in {_KNOB}",
    )
