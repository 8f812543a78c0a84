"""Files put where they belong: all of them together, or none.

A file is written under a temporary name beside its place, a new folder as a whole under
such a name, and all are renamed when all are there.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

_NOT_SEEN = "", False
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Obstacle(Exception):
    """Something is in a file's way, over which HTCondor would not write."""


class Drafts:
    """Places that are being filled.

    Temporary names are made of ``token`` and the number that each place comes with: what a
    killed process left goes when the same is done again with the same token.  A place is
    an absolute path.  What the system answers is raised as it is.
    """

    def __init__(self, token: str) -> None:
        self._prefix = f".vmcapsule-{token}-"
        #: What is renamed in the end, and to what.
        self._made: list[tuple[str, str]] = []
        #: By a folder's place: where its files are written, and whether it is a new one.
        self._folders: dict[str, tuple[str, bool]] = {}
        #: By where a folder's files are written: what is taken from the modes they ask for.
        self._masks: dict[str, int] = {}
        self._umask = os.umask(0o077)
        os.umask(self._umask)

    def folder(self, place: str, number: int, mode: int) -> None:
        """Make a folder where there is none; its owner keeps the right to write to it."""
        where, is_new = self._folder(place, number)
        if is_new:
            os.chmod(where, (mode & 0o777) | 0o700)

    def file(self, place: str, number: int, mode: int) -> int:
        """Open a new file that is to come to ``place``, for writing; return its descriptor.

        Its folder is made if need be.  A link that is there is followed, as HTCondor does.
        Raises `Obstacle` for a folder or device there, or a file that is closed to the
        user's own writing.
        """
        above, name = os.path.split(place)
        folder, is_new = self._folders.get(above) or self._folder(above, number)
        if self._folders.get(place, _NOT_SEEN)[1]:
            raise Obstacle(f"'{place}' is a folder")
        if is_new:
            return self._open(folder, name, mode)
        # Mostly nothing is there, and of thousands of files each is asked after once.
        is_there = os.path.lexists(place)
        if is_there:
            place = os.path.realpath(place)
            above = os.path.dirname(place)
        draft = f"{self._prefix}{number}"
        in_the_way = obstacle(place) if is_there else ""
        if in_the_way:
            _remove(f"{above}/{draft}")
            raise Obstacle(f"'{place}' {in_the_way}")
        self._made.append((f"{above}/{draft}", place))
        return self._open(above, draft, mode)

    def put(self) -> None:
        """Rename everything to its place; an OSError names that.

        Another delivery may have made a folder meanwhile: then what is in ours goes there.
        """
        pending = self._made[::-1]
        emptied = []
        while pending:
            draft, place = pending.pop()
            try:
                os.replace(draft, place)
            except OSError as error:
                if not (os.path.isdir(draft) and os.path.isdir(place)):
                    error.filename = place
                    raise
                emptied.append(draft)
                names = os.listdir(draft)
                pending.extend((f"{draft}/{name}", f"{place}/{name}") for name in names)
        for folder in reversed(emptied):
            os.rmdir(folder)

    def undo(self) -> None:
        """Remove everything, also what a killed process left in the folders that were seen.

        What cannot be removed must not hide why this is done, and stays.
        """
        parents = {os.path.dirname(draft) for draft, _ in self._made}
        parents.update(folder for folder, is_new in self._folders.values() if not is_new)
        for parent in parents:
            with contextlib.suppress(OSError):
                for name in os.listdir(parent):
                    if name.startswith(self._prefix):
                        _remove(f"{parent}/{name}")

    def _folder(self, place: str, number: int) -> tuple[str, bool]:
        """Where the files of the folder at ``place`` are written; it is made if need be."""
        missing = []
        above = place
        while above not in self._folders:
            if os.path.isdir(above):
                self._folders[above] = above, False
                # A killed process may have begun one where somebody has made one since.
                with contextlib.suppress(OSError):
                    _remove(f"{os.path.dirname(above)}/{self._prefix}{number}")
                break
            if os.path.lexists(above):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), above)
            missing.append(above)
            above = os.path.dirname(above)
        for new in reversed(missing):
            self._folders[new] = self._new_folder(new, number), True
        return self._folders[place]

    def _new_folder(self, place: str, number: int) -> str:
        above, name = os.path.split(place)
        parent, is_new = self._folders[above]
        made = f"{parent}/{name}"
        if not is_new:
            made = f"{parent}/{self._prefix}{number}"
            self._made.append((made, place))
            _remove(made)
        os.mkdir(made)
        # The mode that HTCondor gives to folders that it makes for a remapped output.
        os.chmod(made, 0o700)
        return made

    def _open(self, folder: str, name: str, mode: int) -> int:
        path = f"{folder}/{name}"
        try:
            fd = os.open(path, _NEW_FILE, mode & 0o777)
        except FileExistsError:
            # What a killed process left is never written into.
            _remove(path)
            fd = os.open(path, _NEW_FILE, mode & 0o777)
        if folder not in self._masks:
            self._masks[folder] = 0o777 if _has_default_acl(folder) else self._umask
        if mode & self._masks[folder]:
            os.fchmod(fd, mode & 0o777)
        return fd


def _has_default_acl(folder: str) -> bool:
    """Whether an access control list, and not the umask, says which modes files get there."""
    try:
        return "system.posix_acl_default" in os.listxattr(folder)
    except OSError:
        return False


def _remove(path: str) -> None:
    """Remove what is there, if anything: a file, or a folder with all that is in it."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        import shutil  # seldom needed, and slow to import

        shutil.rmtree(path)


def obstacle(place: str) -> str:
    """Why HTCondor, which opens what is there for writing, would not write a file there."""
    there = Path(place)
    if there.is_dir():
        return "is a folder"
    if not there.exists():
        return ""
    if not there.is_file():
        return "is no regular file"
    return "" if os.access(place, os.W_OK) else "is closed to writing"
