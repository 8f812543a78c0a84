"""The HTCondor tarball for the guest: where it is, its version, and who holds it already."""

from __future__ import annotations

from pathlib import Path

from vmcapsule.config import Config
from vmcapsule.errors import ConfigError
from vmcapsule.named import NamedTuple
from vmcapsule.template.template import CONDOR, Template

PREFIX = "condor-"
KNOB = "VM_CAPSULE_CONDOR_TARBALL"


class HTCondorTarball(NamedTuple):
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


def described(tarball: HTCondorTarball) -> dict[str, object]:
    """What the record of a template says of the HTCondor unpacked in it: this tarball's."""
    status = tarball.path.stat()
    return {
        "version": tarball.version,
        "sha256": _sha256(tarball.path),
        "size_bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
    }


def is_in(template: Template, tarball: HTCondorTarball) -> bool:
    """Whether a template holds this very HTCondor, unpacked: told by the tarball's digest.

    A file of the size and time that the template's builder noted is taken for the one that
    it read, so that a job's hook need not read tens of megabytes.
    """
    held = template.record.get(CONDOR)
    if not isinstance(held, dict) or held.get("version") != tarball.version:
        return False
    status = tarball.path.stat()
    if held.get("size_bytes") != status.st_size:
        return False
    return held.get("modified_ns") == status.st_mtime_ns or held.get("sha256") == _sha256(
        tarball.path
    )


def _sha256(path: Path) -> str:
    import hashlib  # seldom needed, and slow to import

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _version_inside(path: Path) -> str:
    """What the tarball's first folder says, for one whose file name does not."""
    import tarfile  # likewise

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
