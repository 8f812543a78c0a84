"""The little languages inside a job ad's strings: arguments, environment, remaps, lists.

Read as HTCondor's shadow and starter read them (``condor_utils``: ``condor_arglist``,
``env``, ``filename_tools``).  *V2* is the quoted form of ``Arguments`` and
``Environment``: blanks separate, single quotes group, a doubled quote within quotes is
one.  *V1* is the older form of ``Args`` and ``Env``.  Each function raises `ValueError`
with the reason for text that HTCondor would not take either.
"""

from __future__ import annotations

import re
from typing import Iterable

_BLANKS = " \t\n\r"
_V1_DELIMITERS = "!#$%&*+,-/:;<>?@^`|~\x1f"
_WORD = r"[^ \t\n\r']+|'(?:[^']|'')*'|(?P<open>')|(?P<blank>[ \t\n\r]+)"
_URL = r"[A-Za-z][A-Za-z0-9+.-]*://"

#: What stands for the job's folder, which only the starter knows (`contract`), and for itself.
_MATCH_MACROS = {"condorscratchdir": "#CoNdOrScRaTcHdIr#", "dollardollar": "$$"}
_MATCH_MACRO = r"(?i)\$\$\((condorscratchdir|dollardollar)\)"


def expand_match_macros(text: str) -> str:
    """Expand the ``$$()`` that mean the same on every machine, as the schedd does.

    An execute point calls its CondorScratchDir by a mark that the starter replaces in the
    job's environment.
    """
    if "$$(" not in text:
        return text
    return re.sub(_MATCH_MACRO, lambda match: _MATCH_MACROS[match[1].lower()], text)


def has_match_macro(text: str) -> bool:
    """Whether there is a ``$$()`` that `expand_match_macros` cannot expand."""
    return "$$(" in text and "$$(" in re.sub(_MATCH_MACRO, "", text)


def split_v2(text: str) -> tuple[str, ...]:
    """Split V2 text into its words."""
    words: list[str] = []
    word: list[str] = []
    for match in re.finditer(_WORD, text):
        if match.group("open"):
            raise ValueError(f"unbalanced quote: {text[match.start() :]}")
        if match.group("blank"):
            if word:
                words.append("".join(word))
            word = []
        elif match.group().startswith("'"):
            word.append(match.group()[1:-1].replace("''", "'"))
        else:
            word.append(match.group())
    return (*words, "".join(word)) if word else tuple(words)


def join_v2(words: Iterable[str]) -> str:
    """Write words as V2 text, the inverse of `split_v2`."""
    return " ".join(_quote_v2(word) for word in words)


def _quote_v2(word: str) -> str:
    if word and not re.search(r"[\s']", word):
        return word
    return "'" + word.replace("'", "''") + "'"


def split_v1(text: str) -> tuple[str, ...]:
    """Split V1 arguments: blanks separate, nothing quotes."""
    return tuple(word for word in re.split(f"[{_BLANKS}]+", text) if word)


def environment_v2(text: str) -> dict[str, str]:
    """Read V2 text of ``name=value`` words; the last of two with the same name wins."""
    return _environment(split_v2(text))


def environment_v1(text: str, delimiter: str = "") -> dict[str, str]:
    """Read ``name=value`` entries that ``delimiter`` (by default ``;``) or newlines separate.

    Text that begins with another permitted delimiter names that one instead.
    """
    mark = delimiter[:1] or ";"
    if text[:1] and text[0] in _V1_DELIMITERS:
        mark, text = text[0], text[1:]
    elif text.startswith(mark):
        text = text[1:]
    entries = (entry.lstrip(_BLANKS) for entry in re.split(f"[{re.escape(mark)}\n]", text))
    return _environment(entry for entry in entries if entry)


def _environment(entries: Iterable[str]) -> dict[str, str]:
    variables = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals:
            raise ValueError(f"no '=' after the environment variable '{entry}'")
        if not name:
            raise ValueError(f"no name before '=' in '{entry}'")
        variables[name] = value
    return variables


def split_list(text: str) -> tuple[str, ...]:
    """Split a list of files at its commas; blanks around a name do not count."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def remaps(text: str) -> tuple[tuple[str, str], ...]:
    r"""Read ``name = path; name = path``: (name in the sandbox, path) in order.

    ``\=`` in a name and ``\;`` in a path stand for the character; blanks around both are
    cut off.  A field without ``=`` is passed over, as HTCondor does.
    """
    pairs = []
    text = re.sub(r"[\t\n]", "", text)
    begin, equals = 0, _bare(text, "=", 0)
    while equals >= 0:
        field_end = text.find(";", begin, equals)
        if field_end >= 0:
            begin = field_end + 1
            continue
        end = _bare(text, ";", equals + 1)
        end = end if end >= 0 else len(text)
        name = text[begin:equals].replace("\\=", "=").strip()
        pairs.append((name, text[equals + 1 : end].replace("\\;", ";").strip()))
        begin, equals = end + 1, _bare(text, "=", end + 1)
    return tuple(pairs)


def _bare(text: str, delimiter: str, start: int) -> int:
    """Where the first ``delimiter`` from ``start`` on is that no backslash precedes, or -1."""
    at = text.find(delimiter, start)
    while at > start and text[at - 1] == "\\":
        at = text.find(delimiter, at + 1)
    return at


def is_url(name: str) -> bool:
    """Is this an URL to HTCondor's file transfer, not a path?"""
    return "://" in name and re.match(_URL, name) is not None
