"""Which files come out of a job's sandbox, and where they belong.

The rules are HTCondor's file transfer's (``FileTransfer::ExpandFileTransferList``,
``filename_remap_find`` in its sources).
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterable, Mapping, Optional

from vmcapsule import contract
from vmcapsule.errors import DeliveryError

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
    keep = job.preserve_relative_paths
    items = (*(job.transfer_output or ()), *job.failure_outputs)
    rules: list[_Rule] = [partial(_core, f"core.{job.job_id}")]
    if job.transfer_output is None:
        # A folder is there only because a failure file is in it.
        around = tuple(job.failure_outputs) if not keep else ()
        rules.append(partial(_top, around))
    return (*rules, *(_item_rule(item, keep) for item in items))


def _core(name: str, path: str) -> Optional[str]:
    return path if path == name else None


def _top(listed: tuple[str, ...], path: str) -> Optional[str]:
    """The default is the top level; a guest that sends more was not asked to."""
    if "/" in path or any(item.startswith(path + "/") for item in listed):
        return None
    return path


def _item_rule(item: str, keep: bool) -> _Rule:
    """The rule of one item of a list of outputs; ``keep``: with its relative path."""
    base = os.path.normpath(item.rstrip("/") or ".")
    if base == ".":
        return lambda path: path
    if keep:
        return partial(_kept, base)
    if item.endswith(("/", "/.")):
        return partial(_inside, base + "/")
    return partial(_moved, base, os.path.basename(base))


def _kept(base: str, path: str) -> Optional[str]:
    """The item, what is below it, and the folders that it lies in."""
    related = path == base or path.startswith(base + "/") or base.startswith(path + "/")
    return path if related else None


def _inside(folder: str, path: str) -> Optional[str]:
    return path[len(folder) :] if path.startswith(folder) else None


def _moved(base: str, top: str, path: str) -> Optional[str]:
    if path == base or path.startswith(base + "/"):
        return top + path[len(base) :]
    return None


def _plain(place: str) -> str:
    """A user's spelling of a place as ours is: one place is to have one name."""
    folder, name = os.path.split(os.fspath(Path(place)))
    return os.path.join(os.path.realpath(folder) if ".." in folder else folder, name)


def wanted_outputs(job: SourceJob) -> tuple[str, ...]:
    """The outputs that ``job`` must leave, each once; () where it need not leave any."""
    items = (os.path.normpath(item.rstrip("/") or ".") for item in job.transfer_output or ())
    return tuple(dict.fromkeys(item for item in items if item != "."))


def _remap(remaps: Mapping[str, str], name: str) -> str:
    """Apply ``transfer_output_remaps``: the whole name first, else its folder's.

    What a rule gives is looked up again, without what was below the folder.
    """
    if not remaps:
        return name
    top, below = name, ""
    for _ in range(REMAPS_MAX):
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
