"""Expressions of one ad that are evaluated in another, and still mean what they meant."""

from __future__ import annotations

from typing import Callable, Iterable, Mapping

from vmcapsule.classad.text import references, rename


def carried(
    attributes: Iterable[tuple[str, str]],
    expressions: Mapping[str, str],
    prefix: str,
    stays: Callable[[str], bool],
) -> dict[str, str]:
    """Return ``expressions`` for another ad, and with them what they refer to.

    Each of their ad's ``attributes`` (name, expression) that one refers to goes along as
    ``prefix`` and its name, and so does what that refers to in turn, but for names which
    ``stays`` says that the other ad has itself.
    """
    known = {
        name.lower(): (prefix + name, text) for name, text in attributes if not stays(name)
    }
    names = {lower: new for lower, (new, _) in known.items()}
    done: dict[str, str] = {}
    waiting = list(expressions.items())
    while waiting:
        name, text = waiting.pop()
        if name not in done:
            done[name] = rename(text, names)
            waiting += [known[lower] for lower in sorted(references(text) & known.keys())]
    return done
