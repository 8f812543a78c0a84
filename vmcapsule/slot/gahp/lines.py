"""The lines of a conversation with a starter: words parted by blanks.

A backslash keeps what follows it in its word (``condor_vm-gahp/vmgahp_common.cpp`` and the
starter's ``vm_gahp_server.cpp``).  Lines end in a newline; carriage returns mean nothing.
"""

from __future__ import annotations

import re

#: The longest line that a starter sends has a job's list of inputs.
LINE_BYTES_MAX = 4 << 20
_ESCAPED = re.compile(r"[\\ \r\n]")


def words(line: str) -> list[str]:
    """Part a line that came; there is always one word, be it empty."""
    found, kept = [""], False
    for char in line:
        if kept:
            found[-1] += char
            kept = False
        elif char == "\\":
            kept = True
        elif char in " \t":
            found.append("")
        elif char not in "\r\n":
            found[-1] += char
    return found


def sentence(*parts: str) -> str:
    """A line that says ``parts``, one word each, without its end."""
    return " ".join(_ESCAPED.sub(r"\\\g<0>", part) for part in parts)


class Lines:
    """Bytes that come in pieces, made lines; one that is too long comes cut."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """Take what was read; return the lines that are whole now, without their ends."""
        *whole, rest = data.split(b"\n")
        lines = []
        for piece in whole:
            self._add(piece)
            lines.append(self._begun.decode("utf-8", "surrogateescape").rstrip("\r"))
            self._begun.clear()
        self._add(rest)
        return lines

    def _add(self, piece: bytes) -> None:
        self._begun += piece[: LINE_BYTES_MAX - len(self._begun)]
