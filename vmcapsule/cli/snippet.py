"""The configuration that makes vmcapsule a plugin of an access point's JobRouter."""

from __future__ import annotations

import shlex
import string
from pathlib import Path
from typing import Optional

from vmcapsule.config import Config
from vmcapsule.errors import ConfigError
from vmcapsule.resources import resource
from vmcapsule.router.route import InSlot
from vmcapsule.router.routes import read_ad_template, route_of

#: The route that is printed, and what its jobs are where nobody chose.
_ROUTE, _AD_TEMPLATE = "capsule", "slot"
#: MaxJobs and MaxIdleJobs of routes: whose capsules take room in scratch, and whose do not.
_PACKED_HERE, _PACKED_THERE = (1000, 100), (100_000, 500)


def router_snippet(config: Config) -> str:
    """The whole snippet for this installation, with what ``config`` says of it.

    Raises `ConfigError` where capsules are made here and there is no HTCondor tarball to
    name, and for an ad template of which no route can be made.
    """
    text = resource("templates/router.config").read_text(encoding="utf-8")
    ad_template = _ad_template(config)
    route = route_of(read_ad_template(ad_template))
    in_slot = isinstance(route, InSlot)
    max_jobs, max_idle_jobs = _PACKED_THERE if in_slot else _PACKED_HERE
    values = {
        "route": _ROUTE,
        "classad": _name(ad_template),
        "universe": route.universe_name,
        "template": str(config.template),
        "tarball": _tarball(config, is_needed=not in_slot),
        "max_jobs": str(max_jobs),
        "max_idle_jobs": str(max_idle_jobs),
        "scratch": str(config.scratch_dir_prefix),
        "hooks": str(resource("hooks/translate").parent),
    }
    # '$(NAME)' is HTCondor's and stays.
    return string.Template(text.replace("$(", "$$(")).substitute(values)


def _tarball(config: Config, *, is_needed: bool) -> str:
    """The line that names what goes into capsules, where there is one."""
    if config.condor_tarball is None and not is_needed:
        return ""
    if config.condor_tarball is None:
        raise ConfigError(
            "there is no HTCondor tarball for the guest (VM_CAPSULE_CONDOR_TARBALL)",
            "build one with 'vmcapsule tarball build' first",
        )
    return f"VM_CAPSULE_CONDOR_TARBALL = {config.condor_tarball}\n"


def _shipped(name: str) -> Path:
    return resource(f"templates/{name}.classad")


def _name(ad_template: Path) -> str:
    """As the knob names it: one of ours by its name alone, so that it moves as we do."""
    is_ours = ad_template.parent == _shipped(_AD_TEMPLATE).parent
    return ad_template.stem if is_ours else str(ad_template)


def execute_snippet(config: Config, program: Path, wrapper: Optional[Path]) -> str:
    """The snippet for execute points, where the file ``program`` probes the machine.

    With what the VM universe needs there, where the ad template makes jobs of it, and with
    the job wrapper there, if there is one.
    """
    route = route_of(read_ad_template(_ad_template(config)))
    parts = ["execute", *([f"execute-{route.execute}"] if route.execute else [])]
    parts += ["execute-wrapper"] if wrapper else []
    text = "".join(resource(f"templates/{name}.config").read_text("utf-8") for name in parts)
    values = {
        "program": str(program),
        "template": str(config.template),
        "fetched": _fetched(config),
        "vm_type": route.vm_type,
        "wrapper": str(wrapper),
    }
    return string.Template(text.replace("$(", "$$(")).substitute(values)


def _fetched(config: Config) -> str:
    """How execute points' program is told where templates are published, if they are."""
    if config.template_store is None:
        return ""
    room = f"--at-most-gib {config.template_cache_gib}"
    return f"--from {config.template_store} --into {config.template_cache} {room} "


class _Shell(string.Template):
    """A shell script to fill in: '$' is its own."""

    delimiter = "%"


def job_wrapper(config: Config, program: Path) -> str:
    """The text of execute points' USER_JOB_WRAPPER, where the program is ``program``."""
    options = {
        "--network": config.network,
        "--require-kvm": config.require_kvm,
        f"--timeout={config.timeout_s}": config.timeout_s is not None,
        f"--memory-overhead-mib={config.memory_overhead_mib}": True,
    }
    values = {
        "program": shlex.quote(str(program)),
        "options": "".join(f" {option}" for option, given in options.items() if given),
    }
    text = resource("templates/job-wrapper.sh").read_text(encoding="utf-8")
    return _Shell(text).substitute(values)


def _ad_template(config: Config) -> Path:
    return config.chosen_template_of(_ROUTE) or _shipped(_AD_TEMPLATE)
