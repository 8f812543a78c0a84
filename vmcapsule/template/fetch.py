"""Filling a cache from a store: what is published comes to an execute point by itself."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import http.client
import os
import shutil
import urllib.request
import zlib
from pathlib import Path
from typing import IO, Callable, Iterator

from vmcapsule.atomic import publish, write_file
from vmcapsule.disk.extents import BUFFER_BYTES
from vmcapsule.errors import TemplateError, VmCapsuleError
from vmcapsule.files import open_regular, why_unsafe
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


def fill(cache: Path, store: str, at_most_bytes: int, before: Callable[[], None]) -> list[str]:
    """Fetch what the store has and the cache has not; return what stood in the way, in words.

    ``store`` is a full path or an http or https URL.  ``before`` is called if there is
    something to fetch, which may take long.  Only one at a time fills a cache: another one
    returns at once.
    """
    try:
        cache.mkdir(mode=0o755, exist_ok=True)
        why = why_unsafe(cache, is_shared=False)
        if why:
            return [f"the folder '{cache}' for templates: {why}"]
        with _alone(cache) as is_free:
            return _fill(cache, store, at_most_bytes, before) if is_free else []
    except VmCapsuleError as error:
        return [error.message]
    except OSError as error:
        where = error.filename or cache
        return [f"templates are not fetched: '{where}': {error.strerror or error}"]


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[bool]:
    with (cache / _LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


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
    if plan.fetched:
        before()
    for entry in plan.removed:
        cached.remove(entry.folder)
    taken = sum(entry.data_bytes for entry in cached.entries(cache))
    for stored in plan.fetched:
        if taken + stored.data_bytes > at_most_bytes:
            wrong.append(f"the template {stored.likeness} waits for jobs that use another one")
            continue
        try:
            _fetch(cache, store, stored)
            taken += stored.data_bytes
        except VmCapsuleError as error:
            wrong.append(error.message)
    return wrong


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
            raise TemplateError(f"the store's template {stored.likeness} is another one")
        for path in (aside, folder):
            path.chmod(0o755)
        cached.write_record(aside, stored.data_bytes)
        publish(aside, cache / stored.likeness)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _write(stream: IO[bytes], file: StoredFile, path: Path) -> None:
    """Write a file with its holes; raises `TemplateError` where it is not what it is to be."""
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
        raise TemplateError(f"the store's copy of '{file.name}' is damaged: {error}") from error
    if digest.hexdigest() != file.sha256:
        raise TemplateError(f"the store's copy of '{file.name}' is damaged: its digest differs")


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
    except (OSError, http.client.HTTPException) as error:
        # Of the network, or of what is written while it is read.
        why = getattr(error, "strerror", None) or error
        raise TemplateError(f"cannot fetch '{where}': {why}") from error
