"""Attributes for the job's ad, told to HTCondor's starter from inside a slot.

Chirp's *delayed updates* need nothing asked for by the job: the starter keeps them and
sends them to the shadow with its next report, the job's exit at the latest, where they
are in the job's ad before ``OnExitHold`` and ``OnExitRemove`` are evaluated.  Others need
``WantRemoteUpdates`` or ``WantIOProxy`` in the job's ad, and are in the queue when the
starter has answered: so that they are there, too, when no end of the job's is reported.
Lines of text over a local connection; the file ``.chirp.config`` says where, and holds a
cookie (``condor_starter.V6.1/io_proxy_handler.cpp``).
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Mapping, Union

from vmcapsule.errors import ToolError
from vmcapsule.named import NamedTuple

#: The starter answers at once, unless it is in the middle of something: one that has started
#: a VM sleeps for half a minute.
TIMEOUT_S = 60.0
#: A line may have 1,024 bytes, the expression in it 993; blanks count twice in the line.
TEXT_CHARS_MAX = 450
Value = Union[int, float, str]
_CONTACT = re.compile(r"\[?([0-9A-Fa-f:.]+)\]? ([0-9]{1,5}) ([!-~]+)\s*\Z")
_CONTACT_BYTES_MAX = 1024
_ANSWER_BYTES_MAX = 64


class Contact(NamedTuple):
    """Where a starter's proxy listens, and what opens it."""

    host: str
    port: int
    cookie: str


def set_delayed(changes: Mapping[str, Value], contact: Path) -> None:
    """Have the job's ad get ``changes`` with the starter's next report.

    Names must begin with ``Chirp``.  A text is cut to `TEXT_CHARS_MAX` characters; what is
    not printable ASCII in it, a double quote or a backslash is replaced.  ``contact`` is
    the file ``.chirp.config``.  Raises `ToolError` where the starter does not take them,
    as where an administrator has switched chirp off.
    """
    _tell("set_job_attr_delayed", changes, contact)


def set_now(changes: Mapping[str, Value], contact: Path) -> None:
    """Have the job's ad get ``changes`` at once; the rest is as with `set_delayed`."""
    _tell("set_job_attr", changes, contact)


def _tell(request: str, changes: Mapping[str, Value], contact: Path) -> None:
    proxy = read_contact(contact)
    try:
        with socket.create_connection((proxy.host, proxy.port), timeout=TIMEOUT_S) as link:
            _say(link, f"cookie {proxy.cookie}")
            for name, value in changes.items():
                _say(link, update_line(request, name, value))
    except OSError as error:
        raise ToolError(f"HTCondor's starter does not answer: {error}") from error


def read_contact(contact: Path) -> Contact:
    """Read what a starter has written into ``.chirp.config``; raises `ToolError`."""
    try:
        with contact.open("rb") as file:
            text = file.read(_CONTACT_BYTES_MAX).decode("ascii", errors="replace")
    except OSError as error:
        raise ToolError(f"there is no chirp here: '{contact}': {error.strerror}") from error
    match = _CONTACT.match(text)
    if match is None:
        raise ToolError(f"'{contact}' does not say where the starter listens: {text[:40]!r}")
    return Contact(match.group(1), int(match.group(2)), match.group(3))


def update_line(request: str, name: str, value: Value) -> str:
    """The request that sets one attribute: a ClassAd literal as one word of the protocol."""
    word = f"{value:.6f}" if isinstance(value, float) else str(value)
    if isinstance(value, str):
        plain = value.translate({ord('"'): "'", ord("\\"): "/"})[:TEXT_CHARS_MAX]
        safe = "".join(char if " " <= char <= "~" else "?" for char in plain)
        # A backslash keeps what follows, a blank too, in the word.
        word = '"' + safe.replace(" ", "\\ ") + '"'
    return f"{request} {name} {word}"


def _say(link: socket.socket, line: str) -> None:
    link.sendall(line.encode("ascii") + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        more = link.recv(_ANSWER_BYTES_MAX)
        if not more or len(answer) > _ANSWER_BYTES_MAX:
            raise ToolError("HTCondor's starter broke the connection off")
        answer += more
    if answer.strip() != b"0":
        word = line.split(" ", 1)[0]
        raise ToolError(f"HTCondor's starter refused '{word}': {answer.strip()!r}")
