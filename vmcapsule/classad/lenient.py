"""What can be told of a job whose ad cannot be parsed: enough to hold it, or to end it.

Nothing here raises, whatever the text is.  Of all its lines those count that give a plain
literal to one of a few attributes.
"""

from __future__ import annotations

import re
from typing import Mapping, Optional

from vmcapsule.classad import text as lex
from vmcapsule.classad.ads import SEPARATOR, Ad

#: A string that is longer does not count; no path is.
VALUE_CHARS_MAX = 4096
_KINDS: Mapping[str, type] = {
    "ClusterId": int,
    "ProcId": int,
    "Owner": str,
    "Iwd": str,
    "UserLog": str,
    "UserLogUseXML": bool,
    "DAGManNodesLog": str,
    "SUBMIT_Iwd": str,
    "VmCapsuleDir": str,
    "VmCapsuleSourceJobId": str,
}
_LINE = (
    rf"(?aim)^[ \t]*({'|'.join(_KINDS)})[ \t]*="
    rf"([^\n]{{1,{VALUE_CHARS_MAX + 100}}})$"
)
_CONTROL = r"[\x00-\x1f\x7f]"


def frame(text: str) -> tuple[str, Optional[str]]:
    """What is above the first line of dashes, and below it; None: there is no such line."""
    match = SEPARATOR.search(text)
    return (text, None) if match is None else (text[: match.start()], text[match.end() :])


def told(text: str) -> Ad:
    """An ad of the few attributes that can be made out in ``text``.

    Each has the type that HTCondor gives it, so that asking for its value never raises.  Of
    several lines for one of them the last counts.  Strings hold no control characters, but
    may hold bytes that are not UTF-8.
    """
    found: dict[str, tuple[str, str]] = {}
    names = {name.lower(): name for name in _KINDS}
    for match in re.finditer(_LINE, text):
        name, expr = names[match[1].lower()], match[2].strip(" \t\r\f\v")
        if _is_literal(expr, _KINDS[name]):
            found[name] = (name, expr)
    return Ad(tuple(found.values()))


def _is_literal(expr: str, kind: type) -> bool:
    if kind is bool:
        return expr.lower() in ("true", "false")
    if kind is int:
        return lex.literal_integer(expr) is not None
    try:
        value = lex.literal_string(expr)
    except lex.TextError:
        return False
    return (
        value is not None and len(value) <= VALUE_CHARS_MAX and not re.search(_CONTROL, value)
    )
