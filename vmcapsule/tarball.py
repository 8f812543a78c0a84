"""The HTCondor tarball that is staged for the guest: where it is, and its version."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

from vmcapsule.config import Config
from vmcapsule.errors import ConfigError

PREFIX = "condor-"
KNOB = "VM_CAPSULE_CONDOR_TARBALL"


@dataclass(frozen=True)
class HTCondorTarball:
    """A tarball that unpacks in ``/`` to ``/condor-<version>``."""

    path: Path
    version: str


def tarball_of(config: Config) -> HTCondorTarball:
    """Return the configured tarball; raise `ConfigError` when there is none to use."""
    path = config.condor_tarball
    if path is None:
        raise ConfigError(
            f"there is no HTCondor tarball for the guest ({KNOB} is not set)",
            "build one with 'vmcapsule tarball build', or use 'run --runner direct'",
        )
    if not path.is_file():
        raise ConfigError(f"{KNOB} = {path}: there is no such file", f"correct {KNOB}")
    return HTCondorTarball(path, config.condor_tarball_version or _version_inside(path))


def _version_inside(path: Path) -> str:
    """What the tarball's first folder says, for one whose file name does not."""
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ConfigError(
            f"{KNOB} = {path}: not a tarball: {error}", f"correct {KNOB}"
        ) from error
    top = first.name.lstrip("./").split("/")[0] if first else ""
    if not top.startswith(PREFIX) or top == PREFIX:
        raise ConfigError(
            f"{KNOB} = {path}: it unpacks to '/{top}', not to /condor-<version>",
            "repack it, or set VM_CAPSULE_CONDOR_TARBALL_VERSION",
        )
    return top[len(PREFIX) :]
