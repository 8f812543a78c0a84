"""Files put where they belong: each of them whole, or not at all.

A file is written under a temporary name beside its place, a new folder as a whole under
such a name, and all are renamed when all are there.  What cannot be put in place is told,
and does not keep the others from theirs.

Two outputs of one place end as with HTCondor (``FileTransfer::DoDownload``): the later
one wins, also a folder over a file, but a file is not written over a folder.
"""

from __future__ import annotations

import contextlib
import os
from typing import Mapping, Optional, Sequence

from vmcapsule.atomic import Unflushed
from vmcapsule.transfer.places import (
    Obstacle,
    exchange,
    has_default_acl,
    obstacle,
    remove,
    take_back,
    why,
)

_NOT_SEEN = "", False
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
#: The mode that HTCondor gives to folders that it makes for a remapped output.
_IMPLIED = 0o700


class Drafts:
    """Places that are being filled.

    Temporary names are made of ``token`` and the number that each place comes with: what a
    killed process left goes when the same is done again with the same token.  A place is
    an absolute path.  Where a call ends with `Obstacle`, or what the system answers, that
    file or folder will not come to its place, and all others can.
    """

    def __init__(self, token: str) -> None:
        self._prefix = f".vmcapsule-{token}-"
        #: By its place what is renamed to there in the end.
        self._made: dict[str, str] = {}
        #: By a place to which a link led, the link.
        self._links: dict[str, str] = {}
        #: By a folder's place: where its files are written, and whether it is a new one.
        self._folders: dict[str, tuple[str, bool]] = {}
        #: Places of folders that cannot be made.
        self._closed: set[str] = set()
        #: Places of new folders where something else is that goes when they come.
        self._taken: set[str] = set()
        #: By where a folder's files are written: what is taken from the modes they ask for.
        self._masks: dict[str, int] = {}
        #: The file that was begun last: its place, and where it is written.
        self._last = "", ""
        self._unflushed = Unflushed()
        self._umask = os.umask(0o077)
        os.umask(self._umask)

    def folder(self, place: str, number: int, mode: int) -> None:
        """Make a folder where there is none; its owner keeps the right to write to it.

        It takes the place of anything else that is there, as with HTCondor.
        """
        mode = (mode & 0o777) | 0o700
        known = place in self._folders
        try:
            where, is_new = self._folder(place, number, mode)
        except (Obstacle, OSError):
            # What is in it, or would not come because of it, must not come without it.
            self._closed.add(place)
            raise
        self._closed.discard(place)
        if known and is_new:
            os.chmod(where, mode)

    def file(self, place: str, number: int, mode: int) -> int:
        """Open a new file that is to come to ``place``, for writing; return its descriptor.

        Its folder is made if need be.  A link that is there is followed, as HTCondor does.
        Raises `Obstacle` for a folder or device there, or a file that is closed to the
        user's own writing.
        """
        above, name = os.path.split(place)
        folder, is_new = self._folders.get(above) or self._folder(above, number)
        self._check_no_folder(place)
        if is_new:
            return self._open(f"{folder}/{name}", place, mode)
        # Mostly nothing is there, and of thousands of files each is asked after once.
        is_there = os.path.lexists(place)
        target = os.path.realpath(place) if is_there else place
        self._check_no_folder(target)
        draft = f"{os.path.dirname(target)}/{self._prefix}{number}"
        in_the_way = obstacle(target) if is_there else ""
        if in_the_way:
            remove(draft)
            raise Obstacle(f"'{target}' {in_the_way}")
        fd = self._open(draft, target, mode)
        self._forget(target)
        self._made[target] = draft
        if target != place:
            self._links[target] = place
        return fd

    def _check_no_folder(self, place: str) -> None:
        if place in self._closed or self._folders.get(place, _NOT_SEEN)[1]:
            raise Obstacle(f"'{place}' is a folder")

    def drop(self) -> None:
        """Give up the file that was begun last.  Raises `Stuck`."""
        place, draft = self._last
        self._made.pop(place, None)
        take_back(draft)

    def put(self) -> Mapping[str, str]:
        """Rename everything to its place; say of what cannot come there why.

        A place is named as it was asked for; what is in a folder that cannot come there
        does not come either.  Another delivery may have made a folder meanwhile: then what
        is in ours goes there.  Everything that was put is on disk in the end; an OSError
        says that it may not be.
        """
        self._unflushed.flush()
        failed: dict[str, str] = {}
        merged, changed = False, set()
        pending = [(draft, place) for place, draft in reversed(self._made.items())]
        while pending:
            draft, place = pending.pop()
            try:
                inner = self._rename(draft, place)
            except (Obstacle, OSError) as error:
                failed[self._links.get(place, place)] = why(place, error)
                continue
            if inner is None:
                changed.add(os.path.dirname(place))
            else:
                merged = True
                pending.extend((f"{draft}/{name}", f"{place}/{name}") for name in inner)
        for folder in changed:
            self._unflushed.folder(folder)
        self._unflushed.flush()
        if failed or merged:
            self.clear()
        return failed

    def clear(self) -> None:
        """Remove what is not in its place, of a killed process, too, in folders that were seen.

        What cannot be removed must not hide why this is done, and stays.
        """
        parents = {os.path.dirname(draft) for draft in (*self._made.values(), self._last[1])}
        parents.update(folder for folder, is_new in self._folders.values() if not is_new)
        for parent in parents:
            with contextlib.suppress(OSError):
                for name in os.listdir(parent):
                    if name.startswith(self._prefix):
                        remove(f"{parent}/{name}")

    def close(self) -> None:
        """Let go of what is open."""
        self._unflushed.close()

    def _rename(self, draft: str, place: str) -> Optional[Sequence[str]]:
        """Rename one thing; of a folder that is there, too, return what is yet to go in."""
        try:
            if place in self._taken:
                exchange(draft, place)
                return None
            if place not in self._made and not os.path.isdir(draft):
                # In a folder that somebody made meanwhile nobody has looked yet.
                in_the_way = obstacle(place)
                if in_the_way:
                    raise Obstacle(f"'{place}' {in_the_way}")
            os.replace(draft, place)
            return None
        except OSError:
            if not (os.path.isdir(draft) and os.path.isdir(place)):
                raise
            return os.listdir(draft)

    def _folder(self, place: str, number: int, mode: int = 0) -> tuple[str, bool]:
        """Where the files of the folder at ``place`` are written; it is made if need be.

        With a mode it is an output of its own, without one it only has to be there.
        """
        missing = []
        above = place
        while above not in self._folders:
            takes_it = bool(mode) and above == place
            if above in self._closed and not takes_it:
                raise Obstacle(f"'{above}' is not there")
            if os.path.isdir(above):
                self._folders[above] = above, False
                # A killed process may have begun one where somebody has made one since.
                with contextlib.suppress(OSError):
                    remove(f"{os.path.dirname(above)}/{self._prefix}{number}")
                break
            if not takes_it and (above in self._made or os.path.lexists(above)):
                raise Obstacle(f"'{above}' is no folder")
            missing.append(above)
            above = os.path.dirname(above)
        for new in reversed(missing):
            made = self._new_folder(new, number, mode if new == place else 0)
            self._folders[new] = made, True
        return self._folders[place]

    def _new_folder(self, place: str, number: int, mode: int) -> str:
        above, name = os.path.split(place)
        parent, is_new = self._folders[above]
        made = f"{parent}/{name}" if is_new else f"{parent}/{self._prefix}{number}"
        try:
            os.mkdir(made)
        except FileExistsError:
            # An earlier output's file, or what a killed process left.
            if is_new and not mode:
                raise Obstacle(f"'{place}' is no folder") from None
            remove(made)
            os.mkdir(made)
        try:
            os.chmod(made, mode or _IMPLIED)
            if not is_new:
                self._note_device(made)
        except OSError:
            with contextlib.suppress(OSError):
                os.rmdir(made)
            raise
        self._unflushed.folder(made)
        if not is_new:
            self._forget(place)
            self._made[place] = made
            if os.path.lexists(place):
                self._taken.add(place)
        return made

    def _open(self, path: str, place: str, mode: int) -> int:
        try:
            fd = os.open(path, _NEW_FILE, mode & 0o777)
        except FileExistsError:
            # What a killed process left is never written into.
            remove(path)
            fd = os.open(path, _NEW_FILE, mode & 0o777)
        self._last = place, path
        try:
            folder = os.path.dirname(path)
            if folder not in self._masks:
                self._unflushed.device(fd)
                self._masks[folder] = 0o777 if has_default_acl(folder) else self._umask
            if mode & self._masks[folder]:
                os.fchmod(fd, mode & 0o777)
            self._unflushed.file(fd)
        except BaseException:
            try:
                os.close(fd)
            finally:
                take_back(path)
            raise
        return fd

    def _note_device(self, folder: str) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._unflushed.device(fd)
        finally:
            os.close(fd)

    def _forget(self, place: str) -> None:
        """Remove the draft of a file whose place another output takes."""
        draft = self._made.pop(place, None)
        if draft is not None:
            with contextlib.suppress(OSError):
                remove(draft)
