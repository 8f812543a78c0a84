"""Real users: what root may and others may not shows only to those whom it binds."""

from __future__ import annotations

import contextlib
import importlib
import os
import pwd
from pathlib import Path
from typing import Iterator

#: Of no file on any machine; in the password file of all.
NOBODY = 65534


def another(than: int = NOBODY) -> pwd.struct_passwd:
    """An account that is neither root's nor ``than``'s."""
    return next(user for user in pwd.getpwall() if user.pw_uid not in (0, than))


@contextlib.contextmanager
def acting_as(uid: int = NOBODY) -> Iterator[None]:
    """Be the user ``uid`` and nobody else, where root runs the tests; else stay who one is.

    All of the process is, with the kernel's word for it.  What is imported meanwhile must
    be readable for all, which a virtual environment in root's home is not: the one module
    that the package imports late almost everywhere is imported before.
    """
    if os.geteuid() != 0:
        yield
        return
    importlib.import_module("classad2")
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(uid, uid, 0)
    os.setresuid(uid, uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


def give(folder: Path, uid: int = NOBODY) -> None:
    """Make ``folder`` and all in it that user's, where root runs the tests, and reachable."""
    if os.geteuid() != 0:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)
    open_way(folder)


def open_way(folder: Path) -> None:
    """Let everybody through the folders above ``folder``, which pytest made for root alone."""
    for above in folder.parents:
        if above.stat().st_uid == os.geteuid():
            above.chmod(above.stat().st_mode | 0o011)
