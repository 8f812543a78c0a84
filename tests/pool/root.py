"""The Debian root that every pool of a suite stands on: built once, never written to."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List

from tests.pool.daemons import LOGS
from tests.pool.space import account_in
from vmcapsule.errors import ToolError
from vmcapsule.images.guest_root import debian_packages
from vmcapsule.process import find, run

#: Debian's packages, each with a file that is there when it was installed and set up.
#: 'condor' brings its Python modules.
PACKAGES = {
    "condor": "usr/sbin/condor_master",
    "python3": "usr/bin/python3",
    "qemu-system-x86": "usr/bin/qemu-system-x86_64",
    "qemu-utils": "usr/bin/qemu-img",
    "iproute2": "usr/bin/ip",
    "openssh-client": "usr/bin/ssh",
    "openssh-server": "usr/sbin/sshd",
    "procps": "usr/bin/ps",
    "ca-certificates": "etc/ssl/certs/ca-certificates.crt",
    "util-linux": "usr/bin/setpriv",
    "mount": "usr/bin/mount",
}
#: A suite of which the name ends so stands for that suite with `LIBVIRT_PACKAGES` beside.
WITH_LIBVIRT = "-kvm"
LIBVIRT_PACKAGES = {
    "condor-vm-gahp": "usr/sbin/condor_vm-gahp",
    "libvirt-daemon": "usr/sbin/libvirtd",
    "libvirt-daemon-log": "usr/sbin/virtlogd",
    "libvirt-daemon-system": "var/lib/libvirt/qemu",
    "libvirt-clients": "usr/bin/virsh",
}
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
_CONDOR = "condor"
#: What a root takes, and its packages while it is built.
_ROOM_BYTES = 1 << 30
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


def packages(suite: str) -> Dict[str, str]:
    """The packages of a suite's root, each with what is there when it is set up."""
    return {**PACKAGES, **(LIBVIRT_PACKAGES if suite.endswith(WITH_LIBVIRT) else {})}


def _debians(suite: str) -> str:
    """The suite as Debian calls it."""
    return suite.removesuffix(WITH_LIBVIRT)


def is_current(folder: Path, suite: str) -> bool:
    """Is ``folder``/root there, made by today's recipe, whole, and as it was made?"""
    digest = folder / "root" / _DIGEST
    if not digest.is_file() or digest.read_text() != _digest(suite):
        return False
    # Somebody may have given the whole cache to its user.
    return digest.stat().st_uid == 0 and not lacking(folder / "root", suite)


def lacking(root: Path, suite: str) -> List[str]:
    """What a pool would miss in ``root``, as paths in it and accounts; none: it is whole.

    HTCondor's master ends at once where it cannot write the log, whose folder is made by a
    script of Debian's package, if that finds the right one.
    """
    lacks = [f"/{path}" for path in packages(suite).values() if not (root / path).exists()]
    accounts = {user: account_in(root, user) for user in (_CONDOR, *USERS)}
    lacks += [f"the user '{user}'" for user, account in accounts.items() if account is None]
    log = root / LOGS.lstrip("/")
    condor = accounts[_CONDOR]
    if not log.is_dir() or condor is None or log.stat().st_uid != condor[0]:
        lacks.append(f"{LOGS}, owned by {_CONDOR}")
    return lacks


def build_root(folder: Path, suite: str) -> None:
    """Build ``folder``/root aside and put it in place; the caller holds the lock.

    Raises `ToolError` with the end of mmdebstrap's output when the suite cannot be had,
    as `SuiteUnavailable` when it is one that moves; and for a root that is not whole,
    which is not put in place.
    """
    find("mmdebstrap")
    aside = folder / "root.new"
    for leftover in (aside, folder / "root.old"):
        if leftover.exists():
            shutil.rmtree(leftover)
    free = shutil.disk_usage(folder).free
    if free < _ROOM_BYTES:
        message = f"{folder} has {free >> 20} MiB free, a pool's root may take more"
        raise ToolError(message, f"free {_ROOM_BYTES >> 20} MiB there")
    try:
        debian_packages(
            aside, suite=_debians(suite), packages=[*packages(suite)], options=_options(suite)
        )
    except ToolError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if _debians(suite) not in MOVING:
            raise
        message = f"Debian's suite '{suite}' cannot be installed today: {error.message}"
        raise SuiteUnavailable(message, "try again later, or use another suite") from error
    _complete(aside)
    lacks = lacking(aside, suite)
    if lacks:
        shutil.rmtree(aside)
        message = f"Debian's suite '{suite}' was installed without {', '.join(lacks)}"
        raise ToolError(message, "try again, or use another suite")
    (aside / _DIGEST).write_text(_digest(suite))
    if (folder / "root").exists():
        (folder / "root").rename(folder / "root.old")
    aside.rename(folder / "root")
    if (folder / "root.old").exists():
        shutil.rmtree(folder / "root.old")


def _complete(root: Path) -> None:
    """Add the users, and what HTCondor needs before it starts."""
    for uid, user in enumerate(USERS, FIRST_UID):
        run(
            ["chroot", root, "useradd", "-m", "-s", "/bin/bash", "-u", str(uid), user],
            timeout_s=60,
        )
        (root / "home" / user).chmod(0o755)
    condor = account_in(root, _CONDOR)
    if condor is not None:
        log = root / LOGS.lstrip("/")
        log.mkdir(parents=True, exist_ok=True)
        os.chown(log, *condor)


def _options(suite: str) -> tuple[str, ...]:
    """What mmdebstrap is told beside the packages."""
    return (*OPTIONS, *(MOVING_OPTIONS if _debians(suite) in MOVING else ()))


def _digest(suite: str) -> str:
    """A name for the recipe: another recipe gives another."""
    recipe = repr((suite, tuple(packages(suite)), _options(suite), USERS, FIRST_UID))
    return hashlib.sha256(recipe.encode()).hexdigest()
