"""An execute point's own copies of published templates: which are there, and which may go.

A cache is a folder of the user who runs HTCondor's daemons; jobs read it and write nothing
there.  Each template is in a folder of its likeness, made aside and renamed.  Who boots from
one holds a lock on a file in it meanwhile, for which it need not be writable.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import Iterator, Optional, Sequence

from vmcapsule.errors import TemplateError
from vmcapsule.files import open_regular, read_regular
from vmcapsule.named import NamedTuple
from vmcapsule.template import catalogue
from vmcapsule.template.catalogue import INDEX, INDEX_BYTES_MAX, LIKENESS, Stored
from vmcapsule.template.likeness import likeness
from vmcapsule.template.template import FOLDER, load

#: In a template's folder there: what its files were when they were whole, and the lock.
RECORD, LOCK = "fetched.json", "fetched.lock"
_RECORD_BYTES_MAX = 1 << 20
NEW, _OLD = ".new-", ".old-"
#: How long a job waits for a lock that is in the way, and how often it looks.  Only who
#: removes a template takes it alone, and for no time; a job that did so must stop nobody.
_LOOKS, _LOOK_S = 20, 0.1


class Entry(NamedTuple):
    """A template that is there: its folder (a value for VM_CAPSULE_TEMPLATE), what it takes
    up, and when it was last seen to be used, in seconds since the epoch."""

    folder: Path
    data_bytes: int
    used_s: float

    @property
    def likeness(self) -> str:
        """Which template it is."""
        return self.folder.name


class Plan(NamedTuple):
    """What is to be fetched, what to be removed, and what there is no room for."""

    fetched: tuple[Stored, ...]
    removed: tuple[Entry, ...]
    left_out: tuple[Stored, ...]


def entries(cache: Path) -> list[Entry]:
    """The templates that are there whole, in the order of the store's index.

    Raises OSError for a cache that cannot be read.
    """
    order = {like: number for number, like in enumerate(_listed(cache))}
    found = [entry for entry in map(_entry, _folders(cache)) if entry]
    return sorted(found, key=lambda one: (order.get(one.likeness, len(order)), one.likeness))


def plan(index: Sequence[Stored], there: Sequence[Entry], at_most_bytes: int) -> Plan:
    """What to do so that as much of the index is there as there is room for.

    What is listed earlier goes first, and after all of that what is no longer listed, the
    last used first.
    """
    have = {entry.likeness: entry for entry in there}
    room, kept, fetched, left_out = at_most_bytes, set(), [], []
    for stored in index:
        if stored.data_bytes > room:
            left_out.append(stored)
            continue
        room -= stored.data_bytes
        kept.add(stored.likeness)
        if stored.likeness not in have:
            fetched.append(stored)
    removed = []
    for entry in sorted(there, key=lambda one: one.used_s, reverse=True):
        if entry.likeness in kept:
            continue
        if entry.data_bytes > room:
            removed.append(entry)
        else:
            room -= entry.data_bytes
    stays = have.keys() - {entry.likeness for entry in removed}
    left_out = [stored for stored in left_out if stored.likeness not in stays]
    return Plan(tuple(fetched), tuple(removed), tuple(left_out))


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep a template where it is; one that is in no cache is there to stay anyway.

    Raises `TemplateError` where it has just been removed.
    """
    try:
        fd = open_regular(folder / LOCK)
    except OSError:  # in no cache, or gone: whoever loads it will say so
        yield
        return
    try:
        _hold(fd)
        if not _is_still_there(fd, folder):
            raise TemplateError(f"the template '{folder}' was removed from this machine")
        yield
    finally:
        os.close(fd)


def _hold(fd: int) -> None:
    """Lock a template as one of those who use it, if that can be done in a moment."""
    # On a file system without locks a template in use may go; no job fails for that.
    with contextlib.suppress(OSError):
        for _ in range(_LOOKS):
            if _is_locked(fd, fcntl.LOCK_SH):
                return
            time.sleep(_LOOK_S)


def note_uses(cache: Path) -> None:
    """Remember of the templates that are used now that they were."""
    for entry in entries(cache):
        with _if_free(entry.folder) as is_free:
            if not is_free:
                os.utime(entry.folder / LOCK)


def tidy(cache: Path) -> None:
    """Remove what others left who were stopped, and what is no longer as it was fetched."""
    for path in _all(cache):
        if path.name.startswith((NEW, _OLD)):
            shutil.rmtree(path)
    for folder in _folders(cache):
        if (folder / LOCK).is_file() and _entry(folder) is None:
            remove(folder)


def remove(folder: Path) -> bool:
    """Remove a template that nobody uses; tells whether."""
    with _if_free(folder) as is_free:
        if not is_free:
            return False
        aside = folder.with_name(f"{_OLD}{os.urandom(4).hex()}")
        folder.rename(aside)
    shutil.rmtree(aside)
    return True


def write_record(folder: Path, data_bytes: int) -> None:
    """Note that a template's files are now what they are to be, and make its lock."""
    files = {path.name: _state(path) for path in (folder / FOLDER).iterdir()}
    record = {"format": 1, "data_bytes": data_bytes, "files": files}
    (folder / RECORD).write_text(json.dumps(record))
    (folder / LOCK).touch()
    for name in (RECORD, LOCK):
        (folder / name).chmod(0o644)


def _entry(folder: Path) -> Optional[Entry]:
    """What is in a folder, if it is still what was fetched: by each file's number, size and
    time, and by what the likeness looks at."""
    try:
        record = json.loads(read_regular(folder / RECORD, _RECORD_BYTES_MAX))
        files = {path.name: _state(path) for path in (folder / FOLDER).iterdir()}
        used_s = (folder / LOCK).stat().st_mtime
        is_same = likeness(load(folder)) == folder.name
    except (OSError, ValueError, RecursionError, TemplateError):
        return None
    if not is_same or not isinstance(record, dict) or record.get("files") != files:
        return None
    data_bytes = record.get("data_bytes")
    return Entry(folder, data_bytes, used_s) if isinstance(data_bytes, int) else None


def _state(path: Path) -> list[int]:
    status = path.lstat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _listed(cache: Path) -> list[str]:
    """The store's order, as it was when it was last seen."""
    try:
        index = catalogue.parse(read_regular(cache / INDEX, INDEX_BYTES_MAX))
    except (OSError, TemplateError):
        return []
    return [stored.likeness for stored in index]


def _all(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.is_dir() else []


def _folders(cache: Path) -> list[Path]:
    return [path for path in _all(cache) if LIKENESS.fullmatch(path.name) and path.is_dir()]


@contextlib.contextmanager
def _if_free(folder: Path) -> Iterator[bool]:
    """Hold a template's lock alone if nobody uses it; tells whether."""
    fd = open_regular(folder / LOCK, os.O_RDWR)
    try:
        yield _is_locked(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def _is_locked(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still_there(fd: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), (folder / LOCK).lstat())
    except FileNotFoundError:
        return False
