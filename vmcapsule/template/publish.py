"""Putting a template into a store, from where execute points fetch it."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import os
import shutil
import zlib
from pathlib import Path
from typing import Callable, Iterator, Sequence

from vmcapsule.atomic import publish, write_file
from vmcapsule.disk.extents import BUFFER_BYTES, Extent, data_extents, open_image, read_at
from vmcapsule.errors import SpaceError, TemplateError
from vmcapsule.files import open_regular
from vmcapsule.template import catalogue
from vmcapsule.template.catalogue import INDEX, Stored, StoredFile
from vmcapsule.template.likeness import files_of, likeness
from vmcapsule.template.template import Template

_LOCK, _ASIDE = ".lock", ".new-"
#: gzip's own format, as zlib calls it, and a level that is done in seconds.
_GZIP, _LEVEL = 31, 6


def add(
    template: Template, store: Path, say: Callable[[str], None], *, only: bool = False
) -> Stored:
    """Publish a template, before those that are there; with ``only`` these are withdrawn.

    The index is replaced when the files are whole on disk, and before a withdrawn one's go.
    Raises `TemplateError` for a template that cannot be read or published, and `SpaceError`
    for a store that cannot be written.
    """
    try:
        with _alone(store):
            like = likeness(template)
            there = _index(store)
            found = [stored for stored in there if stored.likeness == like]
            if found and _is_whole(found[0], store):
                made = found[0]
            else:
                made = _add_files(template, like, store, say)
            others = [] if only else [stored for stored in there if stored.likeness != like]
            write_file(store / INDEX, _dumped([made, *others]), 0o644)
            _remove(store, [stored for stored in there if stored not in (made, *others)], like)
            return made
    except OSError as error:
        raise SpaceError(
            f"cannot publish to '{store}': {error.strerror or error}",
            "name a folder that you may write to, with room for a template",
        ) from error


@contextlib.contextmanager
def _alone(store: Path) -> Iterator[None]:
    if not store.is_dir():
        store.mkdir(parents=True)
        # Whatever the umask is: others are to read it.
        store.chmod(0o755)
    # Who only reads the store must not hold its lock.
    fd = open_regular(store / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _index(store: Path) -> tuple[Stored, ...]:
    path = store / INDEX
    try:
        return catalogue.parse(path.read_bytes()) if path.exists() else ()
    except TemplateError as error:
        error.remedy = f"remove '{path}', and publish what is to be there again"
        raise


def _dumped(index: Sequence[Stored]) -> bytes:
    """The index as it is written; `TemplateError` where nobody would read it."""
    data = catalogue.dump(index)
    if len(data) > catalogue.INDEX_BYTES_MAX:
        raise TemplateError(
            f"an index of {len(index)} templates would be {len(data)} bytes long, more than is "
            "read",
            "withdraw other templates with --only",
        )
    catalogue.parse(data)
    return data


def _is_whole(stored: Stored, store: Path) -> bool:
    """Whether a template's files in the store still are what the index says."""
    for number, file in enumerate(stored.files):
        digest = hashlib.sha256()
        try:
            with gzip.open(store / stored.likeness / f"{number}.gz") as data:
                while piece := data.read(BUFFER_BYTES):
                    digest.update(piece)
        except (OSError, EOFError, zlib.error):
            return False
        if digest.hexdigest() != file.sha256:
            return False
    return True


def _remove(store: Path, withdrawn: Sequence[Stored], like: str) -> None:
    """Remove what is no longer in the index, and what never came so far."""
    folders = [store / stored.likeness for stored in withdrawn if stored.likeness != like]
    for folder in [*folders, *store.glob(f"{_ASIDE}*")]:
        if folder.is_dir():
            shutil.rmtree(folder)


def _add_files(
    template: Template, like: str, store: Path, say: Callable[[str], None]
) -> Stored:
    aside = store / f"{_ASIDE}{os.urandom(4).hex()}"
    aside.mkdir(mode=0o755)
    try:
        files = []
        for number, path in enumerate(files_of(template)):
            say(f"publishing {path.name}")
            files.append(_add_file(path, aside / f"{number}.gz"))
        if likeness(template) != like:
            raise TemplateError(
                f"the template in '{template.folder}' was changed while it was published",
                "publish it again",
            )
        aside.chmod(0o755)
        target = store / like
        if target.exists():  # damaged, or of an index that was lost
            shutil.rmtree(target)
        publish(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return Stored(like, tuple(files))


def _add_file(path: Path, target: Path) -> StoredFile:
    digest = hashlib.sha256()
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP)
    fd = open_image(path, os.O_RDONLY)
    try:
        size_bytes = os.fstat(fd).st_size
        extents = _extents(fd, size_bytes)
        with target.open("xb") as file:
            for piece in _pieces(fd, extents):
                digest.update(piece)
                file.write(packer.compress(piece))
            file.write(packer.flush())
            os.fchmod(file.fileno(), 0o644)
    finally:
        os.close(fd)
    return StoredFile(path.name, size_bytes, extents, digest.hexdigest())


def _extents(fd: int, size_bytes: int) -> tuple[Extent, ...]:
    """A file's runs of data; of one with very many holes all from the first to the last."""
    found = tuple(data_extents(fd, size_bytes))
    if len(found) <= catalogue.EXTENTS_MAX:
        return found
    start, last = found[0].offset_bytes, found[-1]
    return (Extent(start, last.offset_bytes + last.length_bytes - start),)


def _pieces(fd: int, extents: tuple[Extent, ...]) -> Iterator[bytes]:
    for start, length in extents:
        for at in range(start, start + length, BUFFER_BYTES):
            yield read_at(fd, at, min(BUFFER_BYTES, start + length - at))
