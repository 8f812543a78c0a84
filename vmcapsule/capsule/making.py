"""A capsule's folder: built aside and published by rename, removed by rename."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator, Union

from vmcapsule.atomic import flush_folder
from vmcapsule.capsule.states import locked
from vmcapsule.errors import SpaceError


@contextlib.contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """A private folder to build in; renamed to ``folder`` when the block ends well.

    Its lock is held meanwhile.  When the block does not end well, everything built is
    removed.  A full disk raises `SpaceError`.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}")
        aside.mkdir(mode=0o700)
        try:
            with locked(aside):
                yield aside
                # Its record and ad are on disk, and its data disk can be made again.
                flush_folder(aside)
                aside.rename(folder)
        except BaseException:
            with contextlib.suppress(OSError):
                _remove_tree(aside)
            raise
    except (OSError, SpaceError) as error:
        raise space_error(folder.parent, error) from error


def space_error(folder: Path, error: Union[OSError, SpaceError]) -> SpaceError:
    """The error for scratch that cannot be written."""
    reason = error.message if isinstance(error, SpaceError) else error.strerror or error
    return SpaceError(
        f"cannot build a capsule under '{folder}': {reason}",
        "make room or permit writing there, or set VM_CAPSULE_SCRATCH_DIR_PREFIX elsewhere",
    )


def remove(folder: Path) -> None:
    """Delete a capsule's folder; it is first renamed, so that no half of it is seen.

    One that is gone already is no error: others may be sweeping, too.
    """
    doomed = folder
    with contextlib.suppress(FileNotFoundError):
        if not folder.name.startswith("."):
            doomed = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.gone")
            folder.rename(doomed)
        _remove_tree(doomed)


def _remove_tree(folder: Path) -> None:
    import shutil  # seldom needed, and slow to import

    try:
        shutil.rmtree(folder)
    except PermissionError:
        # A folder of ours that we may not look into, such as one that came back.
        for here, inside, _ in os.walk(folder):
            for name in inside:
                path = Path(here, name)
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(folder)
