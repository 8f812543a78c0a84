"""Which templates does this execute point have?  What its startd asks, and advertises.

Runs from the startd's cron as the user who runs HTCondor's daemons, as `probe` does.  Where
templates are published somewhere it fetches them first.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn, Sequence

from vmcapsule.errors import UsageError, VmCapsuleError
from vmcapsule.named import NamedTuple
from vmcapsule.slot.advertise import UPDATE, literal, paths
from vmcapsule.slot.starter import TEMPLATE_PATHS, TEMPLATE_REASON, TEMPLATES
from vmcapsule.template.cache import entries
from vmcapsule.template.fetch import fill
from vmcapsule.template.likeness import likeness
from vmcapsule.template.template import load

#: More of them no attribute is to name.
_COUNT_MAX = 100


class Found(NamedTuple):
    """(likeness, folder) of each template that is here, and what is wrong with others."""

    templates: tuple[tuple[str, Path], ...]
    wrong: tuple[str, ...] = ()


def main(arguments: Sequence[str]) -> int:
    """Print what there is as attributes, once more after it has fetched; return 0."""
    try:
        args = parser().parse_args(arguments)
    except UsageError as error:
        print("\n".join(lines(Found((), (str(error),)))), flush=True)
        return 0

    def say(wrong: Sequence[str] = ()) -> None:
        print("\n".join(lines(look(args.folders, args.into), wrong)), flush=True)

    say()
    if args.source:
        # That may take long, or for ever, and what is here can be used meanwhile.
        say(fill(args.into, args.source, args.at_most_gib << 30, say))
    return 0


def look(folders: Sequence[Path], cache: Path) -> Found:
    """Which templates are in ``folders``, and then in the cache; each once."""
    found: dict[str, Path] = {}
    wrong: list[str] = []
    for folder in folders:
        try:
            # One that is not there is no fault: the others may do.
            if folder.is_dir():
                found.setdefault(likeness(load(folder)), folder.absolute())
        except VmCapsuleError as error:
            wrong.append(error.message)
        except OSError as error:
            wrong.append(f"'{error.filename or folder}': {error.strerror}")
    try:
        for entry in entries(cache):
            found.setdefault(entry.likeness, entry.folder.absolute())
    except OSError as error:
        wrong.append(f"'{error.filename or cache}': {error.strerror}")
    return Found(tuple(found.items())[:_COUNT_MAX], tuple(wrong))


def lines(found: Found, wrong: Sequence[str] = ()) -> list[str]:
    """The attributes in ClassAd syntax, each on every run: none is left from an earlier."""
    reasons = [*found.wrong, *wrong]
    return [
        f'{TEMPLATES} = "{",".join(like for like, _ in found.templates)}"',
        f"{TEMPLATE_PATHS} = {paths([folder for _, folder in found.templates])}",
        f"{TEMPLATE_REASON} = {literal('; '.join(reasons) or None)}",
        UPDATE,
    ]


class _Parser(argparse.ArgumentParser):
    """Nobody reads its usage: what is wrong is told to the machine's ad."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(
            f"the startd's configuration of vmcapsule: {message}",
            "write it and the program with the same vmcapsule",
        )


def parser() -> argparse.ArgumentParser:
    """What the startd's configuration says."""
    made = _Parser(prog="vmcapsule templates")
    made.add_argument("--from", dest="source", metavar="STORE")
    made.add_argument("--into", type=Path, metavar="CACHE", default=Path("/nonexistent"))
    made.add_argument("--at-most-gib", type=int, metavar="GIB", default=20)
    made.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    return made
