"""Which files come out of a job's sandbox, and where they belong.

The rules are HTCondor's file transfer's (``FileTransfer::ExpandFileTransferList``,
``filename_remap_find`` in its sources).
"""

from __future__ import annotations

import os
from bisect import bisect_left
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterable, Iterator, Mapping, Optional, Sequence

from vmcapsule import contract
from vmcapsule.errors import DeliveryError
from vmcapsule.transfer.index import PATH_BYTES_MAX

if TYPE_CHECKING:
    from vmcapsule.job.source import SourceJob

#: As many times a name is remapped before HTCondor calls it a cycle.
REMAPS_MAX = 128

#: A rule of which files are returned: to a path of the index, the name that it has then.
_Rule = Callable[[str], Optional[str]]


class Destinations:
    """Where the paths of an index belong on the host, as a job's description says."""

    def __init__(self, job: SourceJob) -> None:
        self._iwd = os.fspath(job.iwd)
        self._remaps = dict(reversed(job.output_remaps))
        self._streams = {contract.STDOUT: job.stdout, contract.STDERR: job.stderr}
        self._rules = _rules(job)

    def place(self, path: str) -> Optional[str]:
        """The place of a returned path, remaps applied; None for one not asked for.

        (The parents of a listed output, say.)
        """
        stream = self._streams.get(path)
        name = stream or self.returned_name(path)
        if not name:
            return None
        place = os.path.join(self._iwd, _remap(self._remaps, name))
        return _plain(place) if stream or self._remaps else place

    def returned_name(self, path: str) -> Optional[str]:
        """The name of a returned path in the job's folder, before remaps."""
        for rule in self._rules:
            name = rule(path)
            if name:
                return name
        return None

    def spooled_names(self, paths: Iterable[str]) -> tuple[str, ...]:
        """What of the returned ``paths`` lies at the top of the job's folder, remaps aside.

        So HTCondor lists it in SpooledOutputFiles, of which condor_transfer_data fetches a
        spooled job's outputs: a folder alone stands for what is in it, and the streams are
        not in the list (``FileTransfer::DoUpload``).
        """
        names = (
            None if self._streams.get(path) else self.returned_name(path) for path in paths
        )
        return tuple(dict.fromkeys(name.partition("/")[0] for name in names if name))


def _rules(job: SourceJob) -> tuple[_Rule, ...]:
    """The first rule that gives a name for a path gives its."""
    items = (*(job.transfer_output or ()), *job.failure_outputs)
    rules: list[_Rule] = [partial(_core, f"core.{job.job_id}")]
    if job.transfer_output is None:
        # A folder is there only because a failure file is in it.
        around = () if job.preserve_relative_paths else job.failure_outputs
        rules.append(partial(_top, sorted(around)))
    if job.preserve_relative_paths:
        return (*rules, partial(_kept, sorted({_base(item) for item in items})))
    return (*rules, partial(_first, _by_base(items)))


def _core(name: str, path: str) -> Optional[str]:
    return path if path == name else None


def _top(listed: Sequence[str], path: str) -> Optional[str]:
    """The default is the top level; a guest that sends more was not asked to."""
    return None if "/" in path or _is_above(path, listed) else path


def _kept(bases: Sequence[str], path: str) -> Optional[str]:
    """Listed items, what is below them, and the folders that they lie in."""
    is_listed = any(_has(bases, above) for above in _upward(path))
    return path if is_listed or _is_above(path, bases) else None


def _first(rules: Mapping[str, Sequence[tuple[int, _Rule]]], path: str) -> Optional[str]:
    """The name that the first item gives which is, or is above, the path."""
    found = sorted(
        ((number, rule) for above in _upward(path) for number, rule in rules.get(above, ())),
        key=itemgetter(0),
    )
    return next(filter(None, (rule(path) for _, rule in found)), None)


def _by_base(items: Iterable[str]) -> dict[str, list[tuple[int, _Rule]]]:
    """The rule of each item, with its number in the list, by the path that it speaks of.

    There may be as many items as outputs: each path is to meet but a few.
    """
    rules: dict[tuple[str, bool], tuple[int, _Rule]] = {}
    for number, item in enumerate(items):
        base, inside = _base(item), item.endswith(("/", "/."))
        rule: _Rule = partial(_moved, base, os.path.basename(base))
        if base == ".":
            rule = str
        elif inside:
            rule = partial(_inside, base + "/")
        # The first of equals gives the name.
        rules.setdefault((base, inside), (number, rule))
    by_base: dict[str, list[tuple[int, _Rule]]] = {}
    for (base, _), numbered in rules.items():
        by_base.setdefault(base, []).append(numbered)
    return by_base


def _base(item: str) -> str:
    """The path that an item of a list of outputs speaks of; "." for all there is."""
    return os.path.normpath(item.rstrip("/") or ".")


def _upward(path: str) -> Iterator[str]:
    """A path, the folders that it lies in, and "." for the outermost."""
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield "."


def _has(ordered: Sequence[str], path: str) -> bool:
    at = bisect_left(ordered, path)
    return ordered[at : at + 1] == [path]


def _is_above(path: str, ordered: Sequence[str]) -> bool:
    """Whether one of ``ordered`` lies below ``path``."""
    at = bisect_left(ordered, path + "/")
    return at < len(ordered) and ordered[at].startswith(path + "/")


def _inside(folder: str, path: str) -> Optional[str]:
    return path[len(folder) :] if path.startswith(folder) else None


def _moved(base: str, top: str, path: str) -> str:
    return top + path[len(base) :]


def _plain(place: str) -> str:
    """A user's spelling of a place as ours is: one place is to have one name."""
    folder, name = os.path.split(os.fspath(Path(place)))
    return os.path.join(os.path.realpath(folder) if ".." in folder else folder, name)


def wanted_outputs(job: SourceJob) -> tuple[str, ...]:
    """The outputs that ``job`` must leave, each once; () where it need not leave any."""
    items = (_base(item) for item in job.transfer_output or ())
    return tuple(dict.fromkeys(item for item in items if item != "."))


def _remap(remaps: Mapping[str, str], name: str) -> str:
    """Apply ``transfer_output_remaps``: the whole name first, else its folder's.

    What a rule gives is looked up again, without what was below the folder.
    """
    if not remaps:
        return name
    top, below = name, ""
    for _ in range(REMAPS_MAX):
        if len(top) > PATH_BYTES_MAX:
            return top + below  # the system will say no
        folder = top
        while folder and folder not in remaps:
            folder = folder.rpartition("/")[0]
        if not folder:
            return top + below
        top, below = remaps[folder], top[len(folder) :] + below
    raise DeliveryError(
        f"transfer_output_remaps maps '{name:.200}' in a cycle",
        "take the cycle out of the remaps",
    )
