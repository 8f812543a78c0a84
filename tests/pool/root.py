"""The Debian root that every pool of a suite stands on: built once, never written to."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from vmcapsule.errors import ToolError
from vmcapsule.images.guest_root import debian_packages
from vmcapsule.process import find, run

#: Debian's 'condor' brings its Python modules.
PACKAGES = (
    "condor",
    "python3",
    "qemu-system-x86",
    "qemu-utils",
    "iproute2",
    "procps",
    "ca-certificates",
    "util-linux",
    "mount",
)
OPTIONS = (
    # Packages come from signed archives; there is no time for documentation.
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)
#: Debian's moving suite, under both its names: now and then it cannot be installed.
MOVING = ("unstable", "sid")
#: A mirror that stands still has a Release file that is only "valid until" last week, and
#: a moving suite's is dated so.  What is signed is checked as ever; this is a root for
#: tests, where an old package is better than none.
MOVING_OPTIONS = ('--aptopt=Acquire::Check-Valid-Until "false"',)
USERS = ("alice", "bob")
#: Outside of what the host's accounts use, so that no file inside is a host user's.
FIRST_UID = 60101
_DIGEST = "etc/vmcapsule-pool.digest"


class SuiteUnavailable(ToolError):
    """The moving suite cannot be installed today: nothing that we could mend."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a suite's folder: building and starting take turns."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_current(folder: Path, suite: str) -> bool:
    """Is ``folder``/root there, made by today's recipe, and as it was made?"""
    digest = folder / "root" / _DIGEST
    if not digest.is_file() or digest.read_text() != _digest(suite):
        return False
    # Somebody may have given the whole cache to its user.
    return digest.stat().st_uid == 0


def build_root(folder: Path, suite: str) -> None:
    """Build ``folder``/root aside and put it in place; the caller holds the lock.

    Raises `ToolError` with the end of mmdebstrap's output when the suite cannot be had,
    as `SuiteUnavailable` when it is one that moves.
    """
    find("mmdebstrap")
    aside = folder / "root.new"
    for leftover in (aside, folder / "root.old"):
        if leftover.exists():
            shutil.rmtree(leftover)
    try:
        debian_packages(aside, suite=suite, packages=PACKAGES, options=_options(suite))
    except ToolError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if suite not in MOVING:
            raise
        message = f"Debian's suite '{suite}' cannot be installed today: {error.message}"
        raise SuiteUnavailable(message, "try again later, or use another suite") from error
    for uid, user in enumerate(USERS, FIRST_UID):
        run(
            ["chroot", aside, "useradd", "-m", "-s", "/bin/bash", "-u", str(uid), user],
            timeout_s=60,
        )
        (aside / "home" / user).chmod(0o755)
    if not (aside / "usr/sbin/condor_master").exists():
        raise ToolError(f"the suite '{suite}' has no HTCondor", "use another suite")
    (aside / _DIGEST).write_text(_digest(suite))
    if (folder / "root").exists():
        (folder / "root").rename(folder / "root.old")
    aside.rename(folder / "root")
    if (folder / "root.old").exists():
        shutil.rmtree(folder / "root.old")


def _options(suite: str) -> tuple[str, ...]:
    """What mmdebstrap is told beside the packages."""
    return (*OPTIONS, *(MOVING_OPTIONS if suite in MOVING else ()))


def _digest(suite: str) -> str:
    """A name for the recipe: another recipe gives another."""
    recipe = repr((suite, PACKAGES, _options(suite), USERS, FIRST_UID))
    return hashlib.sha256(recipe.encode()).hexdigest()
