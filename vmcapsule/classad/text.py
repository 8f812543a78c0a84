"""The text of ClassAd expressions in HTCondor's two forms: tokens, brackets, plain literals.

*Long form* (hooks, ``condor_q -long``, ``condor_submit -dump``) has one attribute a line.  In
its strings a backslash is an ordinary character, unless a double quote follows which is not
the last character of the line.  *New form* (an ad in brackets) has the escapes of C.
What an expression means is for the ClassAd library to say (`vmcapsule.classad.library`).
"""

from __future__ import annotations

import re
from typing import Iterator, Mapping, Optional

#: A string, a quoted name or a comment is one token, whatever is in it.
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
#: But not the question mark of ``=?=``.
_ALTERNATIVE = r"\|\||(?<!=)\?"
_CLOSES = {"]": "[", ")": "(", "}": "{"}
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
#: A name with what is selected of it: MY.Name, TARGET.Name, or Name and of a record a field.
_REFERENCE = re.compile(
    r"(?<![\w.])(?P<scope>MY\s*\.\s*)?(?P<name>[A-Z_]\w*)(?:\s*\.\s*\w+)*", re.ASCII | re.I
)
#: As many a number surely has that the library can hold.
_DIGITS_MAX = 18
_ESCAPE = r"(?s)\\([0-7]{1,3}|.)"
_SIMPLE_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
#: A backslash that is an ordinary character in long form.
_PLAIN_BACKSLASH = r'\\(?!"(?![\r\n]|\Z))'


class TextError(ValueError):
    """Text that is no ClassAd expression or record; ``str()`` says why."""


def to_new_form(expr: str) -> str:
    """Write an expression of the long form, one line without blanks around it, in new form."""
    if "\\" not in expr:
        return expr
    return re.sub(_PLAIN_BACKSLASH, r"\\\\", expr)


def to_long_form(expr: str) -> str:
    """Write an expression of the new form on one line of long form, without its comments.

    Raises `TextError` for a string with a line break in it, which long form cannot say.
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
    """Write ``value`` as a string of the long form; `TextError` for what that cannot hold."""
    if "\n" in value or "\r" in value or "\0" in value:
        raise TextError("a string with a line break or a NUL cannot be written in an ad")
    return '"' + value.replace('"', '\\"') + '"'


def literal_string(expr: str) -> Optional[str]:
    """Return the value of an expression of the long form that is just a string, or None."""
    match = _STRING.fullmatch(to_new_form(expr))
    return _unescape(match.group(1)) if match else None


def literal_integer(expr: str) -> Optional[int]:
    """Return the value of an expression that is just a decimal integer, or None."""
    digits = expr.removeprefix("-")
    is_plain = digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX
    return int(expr) if is_plain and (digits == "0" or digits[0] != "0") else None


def check_expression(expr: str) -> None:
    """Raise `TextError` where an expression of the new form has a stray bracket or ``;``.

    The ClassAd library would read as far as that and take it for the whole expression.
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
    """Split a record in new form, whose ``[`` is at ``start``, into its items.

    Returns (offset, text) of each item, without the comments before it, and the offset
    after the ``]``.  Raises `TextError` where a bracket or quote is not closed.
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
    """Give attributes of its own ad that a long form expression refers to another name.

    ``names`` has the new name for each old one in lower case; TARGET's attributes keep
    theirs.  Raises `TextError` where a quote is not closed.
    """

    def other(match: re.Match[str]) -> str:
        new = names.get(match["name"].lower())
        if new is None:
            return match.group()
        begin, end = (place - match.start() for place in match.span("name"))
        return match.group()[:begin] + new + match.group()[end:]

    parts = [
        match.group() if match.lastgroup else _REFERENCE.sub(other, match.group())
        for match in _tokens(to_new_form(expr))
    ]
    return to_long_form("".join(parts))


def references(expr: str) -> set[str]:
    """The names, in lower case, that may be attributes of a long form expression's own ad.

    Names of functions and keywords are among them.  Raises `TextError` as `rename` does.
    """
    plain = (m.group() for m in _tokens(to_new_form(expr)) if m.lastgroup is None)
    return {found["name"].lower() for part in plain for found in _REFERENCE.finditer(part)}


def has_alternative(expr: str, start: int) -> bool:
    """Is there an ``||`` or a ``?`` beside what begins at ``start``?

    Up to where the bracket around that closes, and not in brackets that open later.
    """
    depth = 0
    for match in _tokens(expr, start):
        token = match.group()
        if match.lastgroup == "bracket":
            depth += -1 if token in _CLOSES else 1
            if depth < 0:
                return False
        elif not match.lastgroup and depth == 0 and re.search(_ALTERNATIVE, token):
            return True
    return False


def _tokens(text: str, start: int = 0) -> Iterator[re.Match[str]]:
    for match in _TOKEN.finditer(text, start):
        if match.lastgroup == "broken":
            kind = "comment" if match.group() == "/*" else "quote"
            raise TextError(f"a {kind} is not closed: {match.group()}")
        yield match


def _unescape(body: str) -> str:
    """Decode the escapes of the new form; an octal one stands for a byte of UTF-8."""
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

    decoded = re.sub(_ESCAPE, one, body)
    return decoded.encode(errors="surrogateescape").decode(errors="surrogateescape")


def escape_surrogates(expr: str) -> str:
    """Write bytes that are not UTF-8 (lone surrogates here) as octal escapes of new form."""
    # Most are ASCII; a set of so many characters takes long to compile.
    if expr.isascii():
        return expr
    return re.sub("[\ud800-\udfff]", lambda match: f"\\{ord(match.group()) & 0xFF:03o}", expr)
