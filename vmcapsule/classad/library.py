"""HTCondor's ClassAd library, the judge of what is an expression and of what it evaluates to.

It is imported when the first expression needs it, which takes tens of milliseconds: plain
literals do without.
"""

from __future__ import annotations

import re
from typing import Any, Iterable

from vmcapsule.classad import text as lex
from vmcapsule.errors import AdError, ToolError, one_line

#: So much of an expression is quoted in a message.
QUOTED_CHARS = 120
_MY = r"(?ai)\bMY\s*\."
_WORDS = frozenset({"true", "false", "undefined"})


def check(expr: str) -> None:
    """Raise `TextError` unless ``expr`` is one whole expression in long form."""
    if expr.lower() in _WORDS or lex.literal_integer(expr) is not None:
        return
    if "\0" in expr:
        raise lex.TextError("it holds a NUL character")
    new = lex.to_new_form(expr)
    lex.check_expression(new)
    if lex.literal_string(expr) is not None:
        return
    library = _library()
    try:
        library.ExprTree(lex.escape_surrogates(new) + "\n")
    except _errors(library) as error:
        raise lex.TextError("it is no ClassAd expression") from error


def build(attributes: Iterable[tuple[str, str]]) -> Any:
    """Make the library's own ad of (name, expression in long form), all in one parse."""
    parts = []
    for name, expr in attributes:
        plain = (name.isascii() and name.isidentifier()) or name.startswith("'")
        key = name if plain and name.lower() not in _WORDS else f"'{name}'"
        parts.append(f"{key} = {lex.escape_surrogates(lex.to_new_form(expr))}\n")
    library, whole = _library(), "[" + ";".join(parts) + "]"
    if re.search(_MY, whole):
        # The library knows the scope MY only once it has parsed an ad in long form, which
        # takes ten milliseconds the first time.
        library.parseOne("A = 1\n")
    return library.ClassAd(whole)


def evaluate(library_ad: Any, name: str, expr: str) -> Any:
    """Evaluate an attribute of an ad that `build` made; None when it is undefined.

    ``expr`` is its text, for messages.  Raises `AdError` when it evaluates to ERROR.
    """
    library = _library()
    shown = f"{name} = {one_line(expr, QUOTED_CHARS)}"
    try:
        value = library_ad.eval(name.strip("'"))
    except _errors(library) as error:
        raise AdError(f"{shown}: cannot be evaluated ({error})") from error
    if not isinstance(value, library.Value):
        return value
    if value is library.Value.Error:
        raise AdError(f"{shown}: evaluates to ERROR", f"correct {name}")
    return None


def _errors(library: Any) -> tuple[type[Exception], ...]:
    """What the library raises for what it cannot parse or evaluate.

    HTCondor 23's has no error class of its own yet and raises Python's.
    """
    own = getattr(library, "ClassAdException", RuntimeError)
    return (own, ValueError, TypeError, KeyError, SyntaxError, RuntimeError)


def _library() -> Any:
    """HTCondor's module of version 2, or where that is not installed, of version 1."""
    try:
        import classad2 as library
    except ImportError:
        try:
            import classad as library
        except ImportError as error:
            raise ToolError(
                "HTCondor's Python module 'classad2' is not installed",
                "install the Python package 'htcondor' (on Debian: python3-htcondor)",
            ) from error
        if not hasattr(library, "ExprTree"):
            remedy = "remove it and install the Python package 'htcondor'"
            raise ToolError("the Python package 'classad' is not HTCondor's", remedy) from None
    return library
