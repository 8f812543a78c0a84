"""ClassAds in and out: one ad, several, and the frames that HTCondor's hooks are sent.

The text form is HTCondor's *long form*, one ``Attr = expr`` a line, as ``condor_q -long``,
``condor_submit -dump`` and the JobRouter's hooks write and read it.  An ad in brackets
("new form") is read too and turned into long form.  An expression that nobody touches is
printed as it was read, character for character: the ClassAd library judges and evaluates
expressions here, it never rewrites them.

Text that came from bytes may hold lone surrogates where those were not UTF-8
(``errors="surrogateescape"``); they pass through.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, Final, Iterable, Mapping, Optional, Sequence, Union

from vmcapsule.classad import text as lex
from vmcapsule.errors import AdError, ToolError, one_line

#: A name and the text of its expression, in long form; an ad as it stands in a text.
_Item = tuple[str, str]
_Block = list[_Item]

#: What can stand for a value in `Ad.with_`: an expression's text, or a plain value.
Value = Union[str, int, float, bool]

#: No pattern here looks beyond the equals sign: text of any length is read once.
_NAME = re.compile(r"('(?:[^'\\]|\\.)+'|[A-Za-z_][\w.]*)\s*=(?!=|\?=|!=)", re.A | re.S)
_BLANKS = " \t\n\r\f\v"
_PLAIN_NAME = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
#: The line between the two ads that a hook is sent.
SEPARATOR = re.compile(r"^-{3,}[ \t]*\r?$", re.MULTILINE)
_SIMPLE = frozenset({"true", "false", "undefined"})
_QUOTED_CHARS = 120


class Ad:
    """A ClassAd: attributes with the text of their expressions, names in any case.

    ``attributes`` holds (name, expression in long form) in order, each name once.  Make
    one with `parse_ad`; an `Ad` never changes.
    """

    def __init__(self, attributes: tuple[tuple[str, str], ...] = ()) -> None:
        self.attributes: Final = attributes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ad) and self.attributes == other.attributes

    def __hash__(self) -> int:
        return hash(self.attributes)

    def __repr__(self) -> str:
        return f"Ad({self.attributes!r})"

    @cached_property
    def _by_name(self) -> dict[str, str]:
        return {name.lower(): text for name, text in self.attributes}

    @cached_property
    def _library_ad(self) -> Any:
        return _build(self.attributes)

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes' names, spelled as they were read."""
        return tuple(name for name, _ in self.attributes)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._by_name

    def expr(self, name: str) -> Optional[str]:
        """Return the text of an expression, None when the attribute is absent."""
        return self._by_name.get(name.lower())

    def value(self, name: str) -> Any:
        """Evaluate an attribute within this ad; None when undefined or absent.

        Raises `AdError` when the expression evaluates to ERROR.
        """
        text = self.expr(name)
        if text is None or text.lower() == "undefined":
            return None
        literal: Any = lex.literal_string(text)
        if literal is None:
            literal = lex.literal_integer(text)
        return literal if literal is not None else _evaluate(self._library_ad, name, text)

    def string(self, name: str) -> Optional[str]:
        """Evaluate to a string; `AdError` for any other type."""
        return self._typed(name, "a string", str)  # type: ignore[no-any-return]

    def number(self, name: str) -> Union[int, float, None]:
        """Evaluate to an integer or a real; `AdError` for any other type."""
        value = self._typed(name, "a number", int, float)
        if isinstance(value, bool):
            raise self._wrong(name, "a number", value)
        return value  # type: ignore[no-any-return]

    def integer(self, name: str) -> Optional[int]:
        """Evaluate to an integer, a real cut off as HTCondor does; `AdError` otherwise."""
        value = self.number(name)
        try:
            return None if value is None else int(value)
        except (OverflowError, ValueError) as error:
            raise self._wrong(name, "an integer", value) from error

    def boolean(self, name: str) -> Optional[bool]:
        """Evaluate to a truth value (a number is true unless 0); `AdError` otherwise."""
        value = self._typed(name, "true or false", bool, int, float)
        return None if value is None else bool(value)

    def shown(self, name: str) -> str:
        """Return ``name = expression`` for a message: one line, not too long, printable."""
        return f"{name} = {_shorten(self.expr(name) or 'undefined')}"

    def _typed(self, name: str, kind: str, *types: type) -> Any:
        value = self.value(name)
        if value is not None and not isinstance(value, types):
            raise self._wrong(name, kind, value)
        return value

    def _wrong(self, name: str, kind: str, value: object) -> AdError:
        message = f"{self.shown(name)}: {_shorten(str(value))} is not {kind}"
        return AdError(message, f"give {name} as {kind}")

    def with_(self, changes: Mapping[str, Value]) -> Ad:
        """Return an ad in which ``changes`` replace or follow the attributes.

        A ``str`` is the text of an expression (`quote` makes a string's); plain numbers
        and truth values are written as ClassAds write them.  Raises `AdError` for text
        that is no expression.
        """
        made = {name.lower(): (name, _expression(name, text)) for name, text in changes.items()}
        kept = [
            (name, made.pop(name.lower())[1] if name.lower() in made else text)
            for name, text in self.attributes
        ]
        return Ad((*kept, *made.values()))

    def without(self, names: Iterable[str]) -> Ad:
        """Return the ad without the attributes named, whether it has them or not."""
        dropped = {name.lower() for name in names}
        return Ad(tuple(item for item in self.attributes if item[0].lower() not in dropped))

    def long_form(self) -> str:
        """Return the ad as text, one ``Attr = expr`` a line."""
        return "".join(f"{name} = {text}\n" for name, text in self.attributes)


def quote(value: str) -> str:
    """Write ``value`` as a ClassAd string; `AdError` for a line break or NUL in it."""
    try:
        return lex.quote(value)
    except lex.TextError as error:
        raise AdError(f"{value!r}: {error}", "take it out") from error


def parse_ad(text: str) -> Ad:
    """Read one ad in long or new form; blank lines and comments are passed over.

    Raises `AdError` with the number and text of a line that cannot be parsed, and when
    ``text`` holds more than one ad.
    """
    blocks = _blocks(text, 1)
    seen: set[str] = set()
    for block in blocks:
        names = {name.lower() for name, _ in block}
        if seen & names:
            again = f"'{min(seen & names)}' comes again after a blank line"
            raise AdError(f"there is more than one ad: {again}", "give one ad")
        seen |= names
    return _ad(item for block in blocks for item in block)


def split_many(text: str) -> tuple[Ad, ...]:
    """Read ads that blank lines separate, as ``condor_q -long`` prints them.

    ``condor_submit -dump`` prints only what differs for all but the first job of a
    cluster: an ad without ClusterId is laid over the last one that has it.
    """
    return _chain(_blocks(text, 1))


def split_translate(text: str) -> tuple[Optional[Ad], Ad]:
    """Read TRANSLATE_JOB's input: the route, a line of dashes, the source ad.

    A job ad alone is taken as well; the route is then None.
    """
    above, below = _framed(text)
    if below is None:
        return None, _single(above, "a job ad")
    route = _single(above, "a route above the dashes") if above else None
    return route, _single(below, "a job ad below the dashes")


def split_finalize(text: str) -> tuple[Ad, Ad]:
    """Read JOB_FINALIZE's input: the source ad, a line of dashes, the routed ad."""
    above, below = _framed(text)
    if below is None:
        remedy = "give the source ad, a line '------', the routed ad"
        raise AdError("there is no line of dashes between two ads", remedy)
    source = _single(above, "a source ad above the dashes")
    return source, _single(below, "a routed ad below the dashes")


def _framed(text: str) -> tuple[list[_Block], Optional[list[_Block]]]:
    """What is above and below a line of nothing but dashes; None: there is no such line."""
    match = SEPARATOR.search(text)
    if match is None:
        return _blocks(text, 1), None
    rest = text[match.end() :]
    extra = SEPARATOR.search(rest)
    if extra:
        line = text.count("\n", 0, match.end() + extra.start()) + 1
        raise AdError(f"line {line}: a second line of dashes", "give two ads at most")
    below = _blocks(rest, text.count("\n", 0, match.start()) + 1)
    return _blocks(text[: match.start()], 1), below


def _single(blocks: Sequence[_Block], what: str) -> Ad:
    if len(blocks) != 1:
        raise AdError(f"expected {what}, found {len(blocks) or 'no'} ads", "give one")
    return _ad(blocks[0])


def _ad(items: Iterable[_Item]) -> Ad:
    """Make an ad of checked items; of two with the same name the last wins."""
    merged: dict[str, _Item] = {}
    for name, text in items:
        key = name.lower()
        merged[key] = (merged[key][0] if key in merged else name, text)
    return Ad(tuple(merged.values()))


def _chain(blocks: Sequence[_Block]) -> tuple[Ad, ...]:
    ads: list[Ad] = []
    cluster: Optional[_Block] = None
    for block in blocks:
        names = {name.lower() for name, _ in block}
        if "clusterid" in names:
            cluster = block
        elif "procid" in names and cluster is not None:
            block = [*cluster, *block]
        ads.append(_ad(block))
    return tuple(ads)


def _blocks(text: str, first_line: int) -> list[_Block]:
    """Split text into the checked (name, expression) pairs of each ad in it."""
    blocks: list[_Block] = []
    current: _Block = []
    position, number = 0, first_line
    while position < len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        line = text[position:end].strip(" \t\r\f\v")
        if not current and line.startswith("["):
            start = text.index("[", position)
            items, end = _record(text, start, number)
            blocks.append(items)
            number += text.count("\n", start, end)
            position = end
            continue
        if not line and current:
            blocks.append(current)
            current = []
        elif line and not _is_remark(line):
            current.append(_line_item(line, number))
        position, number = end + 1, number + 1
    return [block for block in [*blocks, current] if block]


def _is_remark(line: str) -> bool:
    """Comments, and the line naming the schedd that condor_q puts above its ads."""
    return line.startswith(("#", "//", "-- "))


def _line_item(line: str, number: int) -> _Item:
    try:
        name, text = _name_and_text(line)
        _check(text)
    except lex.TextError as error:
        raise _bad_line(number, line, str(error)) from error
    return name, text


def _name_and_text(line: str) -> _Item:
    match = _NAME.match(line)
    if match is None:
        raise lex.TextError("it is not 'Attr = expr'")
    return match.group(1), line[match.end() :].strip(_BLANKS)


def _record(text: str, start: int, number: int) -> tuple[_Block, int]:
    """Read a new form ad; return its items in long form and the offset after it."""
    line, counted, items = number, start, []
    try:
        pieces, end = lex.record_items(text, start)
        for offset, body in pieces:
            line += text.count("\n", counted, offset)
            counted = offset
            name, expr = _name_and_text(body)
            expr = lex.to_long_form(expr)
            _check(expr)
            items.append((name, expr))
    except lex.TextError as error:
        shown = text[start:].split("\n")[line - number]
        raise _bad_line(line, shown, str(error)) from error
    return items, end


def _bad_line(number: int, line: str, reason: str) -> AdError:
    message = f"line {number} of the ad cannot be parsed: '{_shorten(line)}': {reason}"
    return AdError(message, "give one 'Attr = expr' a line")


def _shorten(text: str) -> str:
    return one_line(text, _QUOTED_CHARS)


def _expression(name: str, value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    text = value.strip()
    try:
        if "\n" in text:
            raise lex.TextError("an expression is one line")
        _check(text)
    except lex.TextError as error:
        raise AdError(
            f"{name} = {_shorten(text)}: {error}", "give a ClassAd expression"
        ) from error
    return text


def _check(text: str) -> None:
    """Raise `TextError` unless long form ``text`` is one whole expression."""
    if text.lower() in _SIMPLE or lex.literal_integer(text) is not None:
        return
    if "\0" in text:
        raise lex.TextError("it holds a NUL character")
    new = lex.to_new_form(text)
    lex.check_expression(new)
    if lex.literal_string(text) is not None:
        return
    library = _library()
    try:
        library.ExprTree(lex.escape_surrogates(new) + "\n")
    except _errors(library) as error:
        raise lex.TextError("it is no ClassAd expression") from error


def _errors(library: Any) -> tuple[type[Exception], ...]:
    """What the library raises for what it cannot parse or evaluate.

    Its own error class came after HTCondor 23, whose library raises Python's.
    """
    own = getattr(library, "ClassAdException", RuntimeError)
    return (own, ValueError, TypeError, KeyError, SyntaxError, RuntimeError)


def _build(attributes: Iterable[_Item]) -> Any:
    """Hand an ad to the ClassAd library, all attributes in one parse."""
    parts = []
    for name, text in attributes:
        plain = _PLAIN_NAME.match(name) or name.startswith("'")
        key = name if plain and name.lower() not in _SIMPLE else f"'{name}'"
        parts.append(f"{key} = {lex.escape_surrogates(lex.to_new_form(text))}\n")
    return _library().ClassAd("[" + ";".join(parts) + "]")


def _evaluate(library_ad: Any, name: str, text: str) -> Any:
    library = _library()
    try:
        value = library_ad.eval(name.strip("'"))
    except _errors(library) as error:
        raise AdError(f"{name} = {_shorten(text)}: cannot be evaluated ({error})") from error
    if not isinstance(value, library.Value):
        return value
    if value is library.Value.Error:
        raise AdError(f"{name} = {_shorten(text)}: evaluates to ERROR", f"correct {name}")
    return None


def _library() -> Any:
    """The ClassAd library: HTCondor's version 2 module, else version 1's.

    Imported when it is first needed, since that takes tens of milliseconds.
    """
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
