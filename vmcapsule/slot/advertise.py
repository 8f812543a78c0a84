"""How a program of the startd's cron says something: attributes in ClassAd syntax, by lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Sequence

from vmcapsule.errors import one_line

#: The end of an ad.  The startd tells the collector at once.
UPDATE = "- update:true"
_CHARS_MAX = 400


def literal(value: object) -> str:
    """A ClassAd literal: a string in printable ASCII and of bounded length, or as it is."""
    if value is None:
        return "undefined"
    if isinstance(value, bool):
        return str(value).lower()
    text = one_line(str(value), _CHARS_MAX).translate({ord('"'): "'", ord("\\"): "/"})
    return '"' + text.encode("ascii", "replace").decode() + '"'


def paths(files: Sequence[Path]) -> str:
    """Paths as a list in an ad, undefined where one cannot stand in it."""
    texts = [str(path) for path in files]
    plain = all(re.fullmatch(r'[^"\\,\x00-\x1f\x7f-\U0010ffff]+', text) for text in texts)
    return f'"{",".join(texts)}"' if plain else "undefined"
