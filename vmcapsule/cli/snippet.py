"""The configuration that makes vmcapsule a plugin of an access point's JobRouter."""

from __future__ import annotations

import string
from pathlib import Path

from vmcapsule.config import Config
from vmcapsule.errors import ConfigError
from vmcapsule.resources import resource


def router_snippet(config: Config) -> str:
    """The whole snippet for this installation, with what ``config`` says of it.

    Raises `ConfigError` when there is no HTCondor tarball to name.
    """
    if config.condor_tarball is None:
        raise ConfigError(
            "there is no HTCondor tarball for the guest (VM_CAPSULE_CONDOR_TARBALL)",
            "build one with 'vmcapsule tarball build' first",
        )
    text = resource("templates/router.config").read_text(encoding="utf-8")
    values = {
        "template": str(config.template),
        "tarball": str(config.condor_tarball),
        "scratch": str(config.scratch_dir_prefix),
        "hooks": str(resource("hooks/translate").parent),
    }
    # '$(NAME)' is HTCondor's and stays.
    return string.Template(text.replace("$(", "$$(")).substitute(values)


def execute_snippet(program: Path) -> str:
    """The snippet for execute points, where the file ``program`` probes the machine."""
    text = resource("templates/execute.config").read_text(encoding="utf-8")
    return string.Template(text.replace("$(", "$$(")).substitute({"program": str(program)})
