"""The text of ClassAd expressions: its two dialects, its tokens, its simple literals.

*Long form* (hooks, ``condor_q -long``, ``condor_submit -dump``) has one attribute a line;
in its strings a backslash is an ordinary character unless a double quote follows that is
not the last character of the line.  *New form* (an ad in brackets) escapes as C does.
Only text is handled here; what an expression means is for the ClassAd library to say.
"""

from __future__ import annotations

import re
from typing import Iterator, Mapping, Optional

#: Strings, quoted names and comments are passed over whole; brackets and ';' matter.
_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")
      | (?P<name>'(?:[^'\\]|\\.)*')
      | (?P<comment>//[^\n]*|/\*.*?\*/)
      | (?P<bracket>[\[\](){};])
      | (?P<broken>["']|/\*)
      | [^"'/\[\](){};]+
      | /""",
    re.VERBOSE | re.DOTALL,
)
_CLOSES = {"]": "[", ")": "(", "}": "{"}
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\Z")
_ESCAPE = re.compile(r"\\([0-7]{1,3}|.)", re.DOTALL)
_SIMPLE_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
#: A backslash that the long form means as itself.
_PLAIN_BACKSLASH = re.compile(r'\\(?!"(?![\r\n]|\Z))')


class TextError(ValueError):
    """Text that is no ClassAd expression or record; ``str()`` says why."""


def to_new_form(expr: str) -> str:
    """Rewrite a long form expression (one line, stripped) for the new form's parser."""
    return _PLAIN_BACKSLASH.sub(r"\\\\", expr)


def to_long_form(expr: str) -> str:
    """Rewrite a new form expression for one line of long form: no comments, no escapes.

    Raises `TextError` for a string that holds a line break: long form has no way to say it.
    """
    parts = []
    for match in _tokens(expr):
        if match.lastgroup == "string":
            parts.append(quote(_unescape(match.group()[1:-1])))
        elif match.lastgroup == "comment":
            parts.append(" ")
        else:
            parts.append(re.sub(r"\s+", " ", match.group()))
    return "".join(parts).strip()


def quote(value: str) -> str:
    """Write ``value`` as a string of the long form; `TextError` for what it cannot hold."""
    if re.search(r"[\r\n\0]", value):
        raise TextError("a string with a line break or a NUL cannot be written in an ad")
    return '"' + value.replace('"', '\\"') + '"'


def literal_string(expr: str) -> Optional[str]:
    """Return the value of a long form expression that is one string, else None."""
    match = _STRING.fullmatch(to_new_form(expr))
    return _unescape(match.group(1)) if match else None


def literal_integer(expr: str) -> Optional[int]:
    """Return the value of an expression that is one decimal integer, else None."""
    return int(expr) if _NUMBER.match(expr) else None


def check_expression(expr: str) -> None:
    """Check that a new form expression ends where it says: quotes and brackets are closed.

    The ClassAd library takes what stands before a stray ``]`` or ``;`` for the whole.
    """
    if not expr.strip():
        raise TextError("there is no expression after '='")
    open_brackets: list[str] = []
    for match in _tokens(expr):
        if match.lastgroup == "bracket":
            _bracket(match.group(), open_brackets)
    if open_brackets:
        raise TextError(f"'{open_brackets[-1]}' is not closed")


def _bracket(char: str, open_brackets: list[str]) -> None:
    if char == ";":
        if not open_brackets or open_brackets[-1] != "[":
            raise TextError("';' does not belong there")
    elif char not in _CLOSES:
        open_brackets.append(char)
    elif not open_brackets or open_brackets.pop() != _CLOSES[char]:
        raise TextError(f"'{char}' closes nothing")


def record_items(text: str, start: int) -> tuple[list[tuple[int, str]], int]:
    """Split the record whose ``[`` is at ``start`` at its own ``;``.

    Returns (offset, text) of each item that is not empty, without the comments before it,
    and the offset after the ``]``.
    """
    items: list[tuple[int, str]] = []
    open_brackets: list[str] = []
    begin: Optional[int] = None
    for match in _tokens(text, start):
        token = match.group()
        if match.lastgroup == "bracket":
            outermost = len(open_brackets) == 1
            _bracket(token, open_brackets)
            if outermost and token in ";]":
                if begin is not None:
                    items.append((begin, text[begin : match.start()].strip()))
                begin = None
                if not open_brackets:
                    return items, match.end()
                continue
        is_content = match.lastgroup != "comment" and token.strip()
        if is_content and begin is None and match.start() > start:
            begin = match.start() + len(token) - len(token.lstrip())
    raise TextError("the ad's '[' is not closed")


def rename(expr: str, names: Mapping[str, str]) -> str:
    """Write other names for attributes that a long form expression refers to.

    ``names`` are the new names by the old ones in lower case.  Raises `TextError` for what
    is no expression.
    """

    def other(match: re.Match[str]) -> str:
        return names.get(match.group().lower(), match.group())

    parts = [
        match.group() if match.lastgroup else _WORD.sub(other, match.group())
        for match in _tokens(to_new_form(expr))
    ]
    return to_long_form("".join(parts))


def _tokens(text: str, start: int = 0) -> Iterator[re.Match[str]]:
    for match in _TOKEN.finditer(text, start):
        if match.lastgroup == "broken":
            kind = "comment" if match.group() == "/*" else "quote"
            raise TextError(f"a {kind} is not closed: {match.group()}")
        yield match


def _unescape(body: str) -> str:
    """Decode the escapes of the new form; octal ones are bytes of UTF-8."""
    if "\\" not in body:
        return body

    def one(match: re.Match[str]) -> str:
        code = match.group(1)
        if code[0] in "01234567":
            number = int(code, 8)
            if not 0 < number < 256:
                raise TextError(f"'\\{code}' is no character of a string")
            return chr(number) if number < 128 else chr(0xDC00 + number)
        return chr(_SIMPLE_ESCAPES[code]) if code in _SIMPLE_ESCAPES else code

    decoded = _ESCAPE.sub(one, body)
    return decoded.encode(errors="surrogateescape").decode(errors="surrogateescape")


def escape_surrogates(expr: str) -> str:
    """Write bytes that are not UTF-8 (lone surrogates) as octal escapes of the new form."""
    # Most are ASCII; a set of so many characters takes long to compile.
    if expr.isascii():
        return expr
    return re.sub("[\ud800-\udfff]", lambda match: f"\\{ord(match.group()) & 0xFF:03o}", expr)
