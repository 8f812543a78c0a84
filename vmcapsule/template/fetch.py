"""Filling a cache from a store: what is published comes to an execute point by itself."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import http.client
import os
import shutil
import time
import urllib.request
import zlib
from pathlib import Path
from typing import IO, Callable, Iterator

from vmcapsule.atomic import publish, write_file
from vmcapsule.disk.extents import BUFFER_BYTES
from vmcapsule.errors import TemplateError, VmCapsuleError, one_line
from vmcapsule.files import open_regular, read_regular, why_unsafe
from vmcapsule.template import cache as cached
from vmcapsule.template import catalogue
from vmcapsule.template.cache import NEW
from vmcapsule.template.catalogue import INDEX, INDEX_BYTES_MAX, Stored, StoredFile
from vmcapsule.template.likeness import likeness
from vmcapsule.template.template import FOLDER, load

_LOCK = ".lock"
#: For a server that says nothing.
_SILENT_S = 60
_WEB = ("http://", "https://")
#: Of the disk that a cache is on so much is left to whoever else is there.
_SPARED_BYTES = 1 << 30
#: Which template was last found to be wrong, and for how long it is not tried again.
_FAILED, _FAILED_S, _NOTE_BYTES_MAX = "failed", 3600, 4096


class _Wrong(TemplateError):
    """What a store has is not what its index says: it will be no better in ten minutes."""


def fill(cache: Path, store: str, at_most_bytes: int, before: Callable[[], None]) -> list[str]:
    """Fetch what the store has and the cache has not; return what stood in the way, in words.

    ``store`` is a full path or an http or https URL.  ``before`` is called if there is
    something to fetch, which may take long.  Only one at a time fills a cache: another one
    says so at once.
    """
    try:
        with contextlib.suppress(FileExistsError):
            cache.mkdir()
            # Whatever the umask is: jobs are to read it.
            cache.chmod(0o755)
        why = why_unsafe(cache, is_shared=False)
        if why:
            return [f"the folder '{cache}' for templates: {why}"]
        with _alone(cache) as is_free:
            if is_free:
                return _fill(cache, store, at_most_bytes, before)
            return ["another program is fetching templates"]
    except VmCapsuleError as error:
        return [error.message]
    except OSError as error:
        where = error.filename or cache
        return [f"templates are not fetched: '{where}': {error.strerror or error}"]


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[bool]:
    # Jobs, who read the cache, must not hold this lock.
    fd = open_regular(cache / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(fd)


def _fill(cache: Path, store: str, at_most_bytes: int, before: Callable[[], None]) -> list[str]:
    cached.tidy(cache)
    cached.note_uses(cache)
    index = _index(store)
    write_file(cache / INDEX, catalogue.dump(index), 0o644)
    plan = cached.plan(index, cached.entries(cache), at_most_bytes)
    wrong = [
        f"there is no room for the template {stored.likeness} of {stored.data_bytes >> 20} MiB"
        for stored in plan.left_out
    ]
    for entry in plan.removed:
        cached.remove(entry.folder)
    if plan.fetched:
        before()
    for stored in plan.fetched:
        why = _why_not(cache, stored, at_most_bytes) or _fetched(cache, store, stored)
        wrong += [f"the template {stored.likeness}: {why}"] if why else []
    return wrong


def _why_not(cache: Path, stored: Stored, at_most_bytes: int) -> str:
    """Why a template is not to be fetched now, in words; empty if it is."""
    if (cache / stored.likeness).exists():
        return "there is another one in its place here, which is in use or was put there"
    taken = sum(entry.data_bytes for entry in cached.entries(cache))
    if taken + stored.data_bytes > at_most_bytes:
        return "it waits for jobs that use another one"
    if shutil.disk_usage(cache).free - _SPARED_BYTES < stored.data_bytes:
        return f"there is no room for {stored.data_bytes >> 20} MiB on the disk of '{cache}'"
    return _failed(cache, stored)


def _fetched(cache: Path, store: str, stored: Stored) -> str:
    """Fetch a template; return what went wrong, in words."""
    try:
        _fetch(cache, store, stored)
    except _Wrong as error:
        _note_failed(cache, stored, error.message)
        return error.message
    except VmCapsuleError as error:
        return error.message
    except OSError as error:
        return f"'{error.filename or cache}': {error.strerror or error}"
    return ""


def _failed(cache: Path, stored: Stored) -> str:
    """Why this very template could not be used a short while ago, if so.

    Else every machine would fetch it again and again.
    """
    try:
        note = cache / _FAILED
        is_late = time.time() - note.stat().st_mtime > _FAILED_S
        which, _, why = read_regular(note, _NOTE_BYTES_MAX).decode().partition("\n")
    except (OSError, ValueError):
        return ""
    return "" if is_late or which != _digest(stored) else f"{why} (seen within the hour)"


def _note_failed(cache: Path, stored: Stored, why: str) -> None:
    write_file(cache / _FAILED, f"{_digest(stored)}\n{one_line(why)}".encode(), 0o644)


def _digest(stored: Stored) -> str:
    return hashlib.sha256(catalogue.dump([stored])).hexdigest()


def _index(store: str) -> tuple[Stored, ...]:
    with _opened(store, INDEX) as stream:
        data = stream.read(INDEX_BYTES_MAX + 1)
    if len(data) > INDEX_BYTES_MAX:
        raise TemplateError(f"'{store}/{INDEX}' is larger than {INDEX_BYTES_MAX} bytes")
    return catalogue.parse(data)


def _fetch(cache: Path, store: str, stored: Stored) -> None:
    """Fetch one template; nothing is seen of it before it is whole and on disk."""
    aside = cache / f"{NEW}{os.urandom(4).hex()}"
    folder = aside / FOLDER
    folder.mkdir(parents=True)
    try:
        for number, file in enumerate(stored.files):
            with _opened(store, f"{stored.likeness}/{number}.gz") as stream:
                _write(stream, file, folder / file.name)
        if likeness(load(aside)) != stored.likeness:
            raise _Wrong("what the store has under its name is another one")
        for path in (aside, folder):
            path.chmod(0o755)
        cached.write_record(aside, stored.data_bytes)
        publish(aside, cache / stored.likeness)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _write(stream: IO[bytes], file: StoredFile, path: Path) -> None:
    """Write a file with its holes; raises `_Wrong` where it is not what it is to be."""
    digest = hashlib.sha256()
    try:
        with gzip.GzipFile(fileobj=stream) as data, path.open("xb") as target:
            target.truncate(file.size_bytes)
            for start, length in file.extents:
                target.seek(start)
                left = length
                while left > 0:
                    piece = data.read(min(left, BUFFER_BYTES))
                    if not piece:
                        raise EOFError("it is too short")
                    digest.update(piece)
                    target.write(piece)
                    left -= len(piece)
            if data.read(1):
                raise EOFError("it is too long")
            os.fchmod(target.fileno(), 0o644)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _Wrong(f"the store's copy of '{file.name}' is damaged: {error}") from error
    if digest.hexdigest() != file.sha256:
        raise _Wrong(f"the store's copy of '{file.name}' is damaged: its digest differs")


@contextlib.contextmanager
def _opened(store: str, name: str) -> Iterator[IO[bytes]]:
    """A file of the store; raises `TemplateError` that names it where it cannot be read."""
    where = f"{store.rstrip('/')}/{name}"
    try:
        if where.startswith(_WEB):
            with urllib.request.urlopen(where, timeout=_SILENT_S) as answer:
                yield answer
        else:
            with os.fdopen(open_regular(Path(where)), "rb") as file:
                yield file
    except (OSError, http.client.HTTPException, ValueError) as error:
        # Of the network, or of what is written while it is read.
        why = getattr(error, "strerror", None) or error
        raise TemplateError(f"cannot fetch '{where}': {why}") from error
