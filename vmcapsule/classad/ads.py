"""ClassAds read and written: one ad, several, or the two that HTCondor's hooks are sent.

Ads are written in HTCondor's *long form*, one ``Attr = expr`` a line, as ``condor_q -long``,
``condor_submit -dump`` and the JobRouter's hooks have it.  An ad in brackets (*new form*) is
read too, and becomes long form.  An expression that nobody changes is printed as it was
read, character for character: HTCondor's ClassAd library checks and evaluates expressions,
and never writes them.

Bytes that are not UTF-8 are lone surrogates in the text, as ``errors="surrogateescape"``
makes them, and become the same bytes again.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, Final, Iterable, Mapping, Optional, Sequence, Union

from vmcapsule.classad import library
from vmcapsule.classad import text as lex
from vmcapsule.errors import AdError, one_line

#: A name and the text of its expression in long form.
_Item = tuple[str, str]
#: The items of one ad, in order; a name may come more than once.
_Block = list[_Item]

#: What can stand for a value in `Ad.with_`: an expression's text, or a plain value.
Value = Union[str, int, float, bool]

#: It ends at the equals sign, so that an expression of any length is gone through once.
_NAME = re.compile(r"('(?:[^'\\]|\\.)+'|[A-Za-z_][\w.]*)\s*=(?!=|\?=|!=)", re.A | re.S)
_BLANKS = " \t\n\r\f\v"
#: What needs no library to be evaluated.
_WORDS = {"undefined": None, "true": True, "false": False}
#: The line between the two ads that a hook is sent.
SEPARATOR = re.compile(r"^-{3,}[ \t]*\r?$", re.MULTILINE)


class Ad:
    """A ClassAd.  It never changes; `parse_ad` makes one.

    ``attributes`` holds (name, expression in long form) in order.  As in HTCondor, names
    that differ only in case are the same name, and each comes once.
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
        return library.build(self.attributes)

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
        if text is None:
            return None
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        literal: Any = lex.literal_string(text)
        if literal is None:
            literal = lex.literal_integer(text)
        if literal is not None:
            return literal
        return library.evaluate(self._library_ad, name, text)

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
        """Evaluate to an integer; `AdError` for what is no number.

        Of a real the fraction is cut off, as HTCondor does.
        """
        value = self.number(name)
        try:
            return None if value is None else int(value)
        except (OverflowError, ValueError) as error:
            raise self._wrong(name, "an integer", value) from error

    def boolean(self, name: str) -> Optional[bool]:
        """Evaluate to a truth value; any number but 0 is true, `AdError` for all else."""
        value = self._typed(name, "true or false", bool, int, float)
        return None if value is None else bool(value)

    def shown(self, name: str) -> str:
        """Return ``name = expression`` for a message, shortened where it is long."""
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
        """Return an ad with ``changes``, by name: each replaces an attribute or is added.

        A ``str`` is the text of an expression; for a string, `quote` makes that text.
        Numbers and truth values are written as ClassAds write them.  Raises `AdError` for
        text that is no expression.
        """
        made = {name.lower(): (name, _expression(name, text)) for name, text in changes.items()}
        kept = [
            (name, made.pop(name.lower())[1] if name.lower() in made else text)
            for name, text in self.attributes
        ]
        return Ad((*kept, *made.values()))

    def without(self, names: Iterable[str]) -> Ad:
        """Return the ad without the attributes of these names; it need not have them."""
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
    """Read one ad in long or new form; blank lines and comments do not count.

    Raises `AdError` when a line cannot be parsed, with its number and text, and when
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

    ``condor_submit -dump`` prints all attributes of a cluster's first job; of each further
    one only ProcId and what differs.  Such an ad gets the rest from the first.
    """
    return _chain(_blocks(text, 1))


def split_translate(text: str) -> tuple[Optional[Ad], Ad]:
    """Read what TRANSLATE_JOB is sent: the route's ad, a line of dashes, the source ad.

    Where there is a job ad alone, the route is None.
    """
    above, below = _framed(text)
    if below is None:
        return None, _single(above, "a job ad")
    route = _single(above, "a route above the dashes") if above else None
    return route, _single(below, "a job ad below the dashes")


def split_finalize(text: str) -> tuple[Ad, Ad]:
    """Read what JOB_FINALIZE is sent: the source ad, a line of dashes, the routed ad."""
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
    """Make an ad of checked items; of those with the same name the last counts."""
    merged: dict[str, _Item] = {}
    for name, text in items:
        key = name.lower()
        merged[key] = (merged[key][0] if key in merged else name, text)
    return Ad(tuple(merged.values()))


def _chain(blocks: Sequence[_Block]) -> tuple[Ad, ...]:
    """Make the ads of blocks, with what the jobs of a cluster have in common."""
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
        library.check(text)
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
            library.check(expr)
            items.append((name, expr))
    except lex.TextError as error:
        shown = text[start:].split("\n")[line - number]
        raise _bad_line(line, shown, str(error)) from error
    return items, end


def _bad_line(number: int, line: str, reason: str) -> AdError:
    message = f"line {number} of the ad cannot be parsed: '{_shorten(line)}': {reason}"
    return AdError(message, "give one 'Attr = expr' a line")


def _shorten(text: str) -> str:
    return one_line(text, library.QUOTED_CHARS)


def _expression(name: str, value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    text = value.strip()
    try:
        if "\n" in text:
            raise lex.TextError("an expression is one line")
        library.check(text)
    except lex.TextError as error:
        raise AdError(
            f"{name} = {_shorten(text)}: {error}", "give a ClassAd expression"
        ) from error
    return text
