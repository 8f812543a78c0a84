"""A capsule: the folder made for one job, and what it is booted from.

The folder is built aside and published by rename, so that a capsule that is there is
whole.  Its record says where its disks are; the system disk and the kernel may lie in
the template (read only, under a throw-away layer) or in the capsule itself.

Whoever builds, runs or delivers a capsule holds the lock in its folder, which ends with
the process: what nobody holds can be swept up when nothing else needs it either.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Optional, Union, get_args, get_type_hints

from vmcapsule.errors import SpaceError, TooLarge, UsageError

RECORD = "capsule.json"
CONSOLE = "console.log"
SOURCE_AD = "source.ad"
LOCK = "lock"
#: Empty files that say what became of the outputs.
DELIVERING = "delivering"
DELIVERED = "delivered"
#: What of the outputs is still to be delivered when others are: paths of the index, as JSON.
LEFT_OVER = "left-over.json"
#: An empty file: the user wants to keep this capsule.
KEPT = "kept"
#: The folder in which a data disk comes back from an execute point.
RETURNED = "returned"
#: A folder with an empty file, or folder, for each output that the job was to leave and did
#: leave: of one that is not there HTCondor's file transfer tells, and holds the job, by
#: itself.  On the access point it has likes of what is in the way of such outputs.
WANTED = "wanted"
#: By what the program on the execute point dies when the guest did not report.  Linux
#: defines SIGSTKFLT and never sends it.
UNREPORTED_SIGNAL = 16
FORMAT = 1
RECORD_BYTES_MAX = 1 << 16


class Capsule(NamedTuple):
    """A capsule on this machine.  Paths are absolute."""

    folder: Path
    data_disk: Path
    system_disk: Path
    #: How large the data disk is, as its guest sees it.
    data_bytes: int
    cpus: int
    memory_mib: int
    vmx: Optional[Path] = None
    kernel: Optional[Path] = None
    initrd: Optional[Path] = None
    cmdline: str = ""
    #: Where the data partition was told to start, or None: found from its table.
    part_offset_bytes: Optional[int] = None
    job_id: Optional[str] = None
    global_job_id: Optional[str] = None
    network: bool = False
    #: What the job is to leave, by sandbox-relative path, separated by commas.
    wanted_outputs: str = ""

    @property
    def console(self) -> Path:
        """Where the guest's console output is kept."""
        return self.folder / CONSOLE

    @property
    def returned_disk(self) -> Path:
        """The data disk to take outputs from: what came back, else what lies here."""
        returned = self.folder / RETURNED / self.data_disk.name
        return returned if returned.exists() else self.data_disk

    @property
    def is_delivered(self) -> bool:
        """Whether the outputs are where they belong; before that nothing may delete it."""
        return self.has(DELIVERED)

    def has(self, mark: str) -> bool:
        """Whether the capsule bears a mark, such as `DELIVERED`."""
        return (self.folder / mark).exists()

    def mark(self, mark: str) -> None:
        """Put a mark on the capsule."""
        (self.folder / mark).touch()

    def unmark(self, mark: str) -> None:
        """Take a mark off."""
        (self.folder / mark).unlink(missing_ok=True)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a capsule's lock, waiting for whoever has it."""
    fd = _take_lock(folder, wait=True)
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def held_if_free(folder: Path) -> Iterator[bool]:
    """Hold a capsule's lock if nobody else does; tells whether."""
    try:
        fd = _take_lock(folder, wait=False)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(fd)


def _take_lock(folder: Path, *, wait: bool) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(folder / LOCK, flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


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
            with held(aside):
                yield aside
                aside.rename(folder)
        except BaseException:
            _remove_tree(aside, ignore_errors=True)
            raise
    except TooLarge:
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


def save(capsule: Capsule, folder: Path) -> None:
    """Write the capsule's record into ``folder``, where it is being built."""
    record: dict[str, Any] = {"format": FORMAT}
    for key, value in capsule._asdict().items():
        if isinstance(value, Path):
            inside = value.is_relative_to(capsule.folder)
            value = str(value.relative_to(capsule.folder) if inside else value)
        record[key] = value
    del record["folder"]
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def save_source_ad(text: str, folder: Path) -> None:
    """Keep the source ad in ``folder``; it may hold bytes that are not UTF-8."""
    (folder / SOURCE_AD).write_bytes(text.encode(errors="surrogateescape"))


def source_ad(capsule: Capsule) -> str:
    """The source ad that the capsule was made from, as text."""
    try:
        data = (capsule.folder / SOURCE_AD).read_bytes()
    except OSError as error:
        raise UsageError(
            f"the capsule '{capsule.folder}' has no {SOURCE_AD}: {error.strerror}",
            "only capsules made for a job can be delivered",
        ) from error
    return data.decode(errors="surrogateescape")


def load(folder: Path) -> Capsule:
    """Read a capsule's record; raise `UsageError` where ``folder`` holds none."""
    path = folder.absolute() / RECORD
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(RECORD_BYTES_MAX))
        if record.pop("format") != FORMAT:
            raise ValueError("of another version")
        known = {name: _checked(record[name], name, kinds) for name, kinds in _kinds().items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not a record: {error}"
        raise UsageError(
            f"'{folder}' is no capsule: {RECORD}: {reason}",
            "give the folder that 'vmcapsule translate' or 'vmcapsule run --keep' made",
        ) from error
    for name in ("data_disk", "system_disk", "vmx", "kernel", "initrd"):
        if known[name] is not None:
            known[name] = path.parent / known[name]
    return Capsule(folder=path.parent, **known)


def _kinds() -> dict[str, tuple[type, ...]]:
    """What the record may hold under each name: a path is a string there."""
    hints = get_type_hints(Capsule)
    del hints["folder"]
    kinds = {name: get_args(hint) or (hint,) for name, hint in hints.items()}
    return {name: tuple(str if k is Path else k for k in ks) for name, ks in kinds.items()}


def _checked(value: Any, name: str, kinds: tuple[type, ...]) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{name} is {value!r:.40}")
    return value


def remove(folder: Path) -> None:
    """Delete a capsule's folder; it is first renamed, so that no half of it is seen.

    One that is gone already is no error: others may be sweeping, too.
    """
    doomed = folder.with_name(f".{folder.name.lstrip('.')}.{os.getpid()}.gone")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(doomed)
        _remove_tree(doomed)


def _remove_tree(folder: Path, ignore_errors: bool = False) -> None:
    import shutil  # seldom needed, and slow to import

    shutil.rmtree(folder, ignore_errors)
