"""Files that are seen whole or not at all, also after a power cut.

What is written goes into the page cache first, and a rename can reach the disk before
what it renames.  The policy:

- What takes the place of a last copy is on disk before that copy goes.  A delivery's files
  are flushed before they are renamed, and its folders after that, before the capsule is
  marked as delivered or removed.
- What misleads its readers when it is empty or half (a capsule's record, the list of what
  is left over, a template) is flushed before it gets its name.
- What can be made again (a capsule's data disk) is renamed and not flushed: a job must not
  wait for the disk.  Nor is what HTCondor takes out of a slot: where that machine fails,
  the job runs again elsewhere.

A few files and folders are flushed one by one, since syncfs(2) also waits for what
everybody else has written to that file system.  With many that wait is the shorter one.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Iterable, Iterator, Union

#: So many files and folders are flushed one by one.
FEW = 32
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Unflushed:
    """What one piece of work has written, to be flushed together.

    However many files there are, hardly any system call is made for each.
    """

    def __init__(self) -> None:
        self._count = 0
        #: Descriptors of our own of the first files; the paths of the first folders.
        self._files: list[int] = []
        self._folders: list[str] = []
        #: By device a descriptor of our own of something there.
        self._devices: dict[int, int] = {}

    def file(self, fd: int) -> None:
        """Note a file that is open."""
        self._count += 1
        if self._count <= FEW:
            self._files.append(os.dup(fd))

    def folder(self, path: str) -> None:
        """Note a folder in which something was made or renamed."""
        self._count += 1
        if self._count <= FEW:
            self._folders.append(path)

    def device(self, fd: int) -> None:
        """Note the file system that ``fd`` is of: once for each folder is often enough."""
        number = os.fstat(fd).st_dev
        if number not in self._devices:
            self._devices[number] = os.dup(fd)

    def flush(self) -> None:
        """Wait until what was noted is on disk, and go on noting.

        An OSError says that it may not be.
        """
        try:
            if self._count > FEW:
                self._flush_devices()
                return
            for fd in self._files:
                os.fsync(fd)
            for folder in self._folders:
                try:
                    flush_folder(folder)
                except PermissionError:
                    # Who may write to a folder need not be allowed to read it.
                    self._flush_devices()
        finally:
            self._forget()

    def close(self) -> None:
        """Let go of everything."""
        self._forget()
        _close(self._devices.values())
        self._devices.clear()

    def _flush_devices(self) -> None:
        for fd in self._devices.values():
            _syncfs(fd)

    def _forget(self) -> None:
        self._count = 0
        self._folders.clear()
        _close(self._files)
        self._files.clear()


def _close(fds: Iterable[int]) -> None:
    """Close what has nothing more to say: a flush has told of all that was written."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def flush_folder(folder: Union[str, Path]) -> None:
    """Wait until the names in a folder are on disk."""
    fd = os.open(folder, _FOLDER)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file that replaces what is there; it is whole on disk before it is seen."""
    aside = f"{path.parent}/.{path.name}.{os.urandom(4).hex()}"
    try:
        write_new(aside, data, mode)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    flush_folder(path.parent)


def write_new(path: Union[str, Path], data: bytes, mode: int = 0o600) -> None:
    """Write a new file and wait until its contents are on disk; its name may not be."""
    fd = os.open(path, _NEW_FILE, mode)
    with os.fdopen(fd, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        os.fchmod(fd, mode)
        os.fsync(fd)


def publish(aside: Path, path: Path) -> None:
    """Rename a file or folder that was built aside, when all of it is on disk.

    As with rename(2), a file replaces what is there and a folder does not.
    """
    unflushed = Unflushed()
    try:
        for each in _below(os.fspath(aside)):
            _note(each, unflushed)
        unflushed.flush()
        os.replace(aside, path)
        unflushed.folder(os.fspath(path.parent))
        unflushed.flush()
    finally:
        unflushed.close()


def _note(path: str, unflushed: Unflushed) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        unflushed.file(fd)
        unflushed.device(fd)
    finally:
        os.close(fd)


def _below(path: str) -> Iterator[str]:
    """The path and what is below it, of files and folders."""
    kind = stat.S_IFMT(os.lstat(path).st_mode)
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        yield path
    if kind == stat.S_IFDIR:
        for name in os.listdir(path):
            yield from _below(f"{path}/{name}")


def _syncfs(fd: int) -> None:
    """Flush a file system with syncfs(2), which Python's `os` does not have."""
    try:
        import ctypes  # seldom needed, and slow to import
    except ImportError:  # a Python that was built without it
        os.sync()
        return
    library = ctypes.CDLL(None, use_errno=True)
    if library.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
