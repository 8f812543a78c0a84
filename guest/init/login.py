"""The job's user."""

import os
import pwd
import re

from init.files import append_line, to_bytes
from init.report import Failure

MYPY = False
if MYPY:
    from typing import Optional


def lookup(name: str) -> "Optional[pwd.struct_passwd]":
    try:
        return pwd.getpwnam(name)
    except (KeyError, ValueError):  # not there; or not ASCII, which Python 3.6 cannot ask for
        return None


def choose_login(wanted: "Optional[str]", home: str) -> pwd.struct_passwd:
    """The wanted login when it is an ordinary user's or can be made; else nobody."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    name = wanted or ""
    if re.fullmatch(r"[A-Za-z_][\w.-]{0,31}", name, re.ASCII) and lookup(name) is None:
        add_login(name, home, 1000)
    entry = lookup(name)
    if entry is None or not 1000 <= entry.pw_uid < 65534:
        entry = lookup("nobody")
    if entry is None:
        raise Failure("user", "this machine has no login 'nobody'")
    return entry


def add_login(name: str, home: str, lowest: int, etc: str = "/etc") -> None:
    """Append a login, and a group of its own, with one free number from ``lowest`` on."""
    tables = {}
    for table in ("passwd", "group"):
        with open(os.path.join(etc, table), "rb") as stream:
            tables[table] = [line.split(b":") for line in stream]
    taken = {fields[2] for rows in tables.values() for fields in rows if len(fields) > 2}
    number = next(n for n in range(lowest, 60000) if b"%d" % n not in taken)
    if os.path.exists(os.path.join(etc, "shadow")):
        append_line(os.path.join(etc, "shadow"), f"{name}:*:19000::::::")
    if to_bytes(name) not in [fields[0] for fields in tables["group"]]:
        append_line(os.path.join(etc, "group"), f"{name}:x:{number}:")
    append_line(os.path.join(etc, "passwd"), f"{name}:x:{number}:{number}::{home}:/bin/sh")
