"""A place in a user's folder: what is in the way there, and what may become of it."""

from __future__ import annotations

import contextlib
import os
import stat


class Obstacle(Exception):
    """Something is in the way of an output, over which HTCondor would not write."""


class Stuck(Exception):
    """What was begun cannot be taken back, so nothing of all may be put in place."""


def exchange(draft: str, place: str) -> None:
    """Rename a folder to where something else is; that goes, or stays if this fails."""
    if os.path.isdir(place):
        os.replace(draft, place)
        return
    # Not under the name of a draft, which whoever comes next may remove.
    aside = f"{os.path.dirname(draft)}/.before{os.path.basename(draft)}"
    with contextlib.suppress(FileNotFoundError):
        os.replace(place, aside)
    try:
        os.replace(draft, place)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.replace(aside, place)
        raise
    with contextlib.suppress(OSError):
        os.unlink(aside)


def has_default_acl(folder: str) -> bool:
    """Whether an access control list, and not the umask, says which modes files get there."""
    try:
        return "system.posix_acl_default" in os.listxattr(folder)
    except OSError:
        return False


def take_back(path: str) -> None:
    """Remove what was begun, or raise `Stuck`."""
    try:
        remove(path)
    except OSError as error:
        raise Stuck(why(path, error)) from error


def remove(path: str) -> None:
    """Remove what is there, if anything: a file, or a folder with all that is in it."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        import shutil  # seldom needed, and slow to import

        shutil.rmtree(path)


def why(place: str, error: BaseException) -> str:
    """What keeps an output from its place, in a few words that name the place."""
    if isinstance(error, OSError):
        return f"'{place}': {error.strerror or error}"
    return str(error)


def obstacle(place: str) -> str:
    """Why HTCondor, which opens what is there for writing, would not write a file there."""
    try:
        mode = os.stat(place).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"cannot be looked at: {error.strerror}"
    if stat.S_ISDIR(mode):
        return "is a folder"
    if not stat.S_ISREG(mode):
        return "is no regular file"
    return "" if os.access(place, os.W_OK) else "is closed to writing"
