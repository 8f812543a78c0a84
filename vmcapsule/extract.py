"""Returned data disk to outputs and exit record.  The guest had root there: trust nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from pathlib import Path
from typing import Any, Callable, Collection, Iterator, Mapping, NamedTuple, Optional, Sequence

from vmcapsule import contract
from vmcapsule.disk.extents import copy_range, image_bytes
from vmcapsule.disk.fat import FatVolume
from vmcapsule.disk.fat_table import RUNS_MAX
from vmcapsule.disk.partition import locate_fat
from vmcapsule.disk.vmdk import raw_view, read_vmdk
from vmcapsule.drafts import Drafts, Obstacle
from vmcapsule.entries import FOLDER, LINK, Entries, Entry
from vmcapsule.errors import DeliveryError, DiskError, ExecFailed, GuestError, SpaceError
from vmcapsule.index import parse_index
from vmcapsule.pack import Pieces

SIGNAL_MAX = 64

PlaceOf = Callable[[str], Optional[str]]


class JobExit(NamedTuple):
    """How the job ended, as the guest's exit record says."""

    runner: str
    exit_code: Optional[int]
    exit_signal: Optional[int]
    core_dumped: bool
    started_at_s: float
    ended_at_s: float
    user_cpu_s: float
    system_cpu_s: float
    max_rss_kib: int
    #: 0: not known.
    image_size_kib: int
    disk_usage_kib: int
    missing_outputs: tuple[str, ...]
    #: What it left and HTCondor does not send, with the errno that tells why.
    unsent_outputs: tuple[tuple[str, int], ...]
    phases_s: Mapping[str, float]
    guest: Mapping[str, str]
    #: How many entries the index of the outputs has, as the guest says.
    entries: int

    @property
    def status(self) -> int:
        """As a shell reports it: the exit code, or 128 + the signal."""
        return 128 + self.exit_signal if self.exit_signal is not None else self.exit_code or 0


class DataDisk(NamedTuple):
    """A data disk opened for reading: its image and the vfat file system in it."""

    fd: int
    volume: FatVolume


class PackedFiles(NamedTuple):
    """The entries of an index, and where its packs lie in the disk's image."""

    entries: Entries
    packs: tuple[Pieces, ...]


@contextlib.contextmanager
def opened(
    data_disk: Path,
    offset_bytes: Optional[int],
    scratch: Path,
    capacity_bytes: Optional[int] = None,
) -> Iterator[DataDisk]:
    """Open a data disk of any vmdk form for reading.

    One that claims more than ``capacity_bytes``, with which it left, is refused with
    `DiskError`: reading it could fill the host's.  A slot hands back a smaller one.
    """
    claimed = read_vmdk(data_disk).capacity_bytes
    if capacity_bytes is not None and claimed > capacity_bytes:
        raise DiskError(
            f"the returned disk '{data_disk}' claims {claimed} bytes, it left with "
            f"{capacity_bytes}",
            "something between here and the guest replaced it; run the job again",
        )
    with raw_view(data_disk, scratch) as raw:
        offset = locate_fat(raw.fd, raw.size_bytes, offset_bytes)
        yield DataDisk(raw.fd, FatVolume.open(raw.fd, offset))


def read_record(disk: DataDisk) -> Optional[dict[str, Any]]:
    """Return the exit record as the guest wrote it, or None when there is none."""
    if disk.volume.lookup(contract.EXIT_RECORD) is None:
        return None
    data = disk.volume.read(contract.EXIT_RECORD, contract.EXIT_RECORD_BYTES_MAX)
    try:
        record = json.loads(data)
        if not isinstance(record, dict):
            raise ValueError("it is not an object")
        if record["format"] != contract.FORMAT:
            raise ValueError(f"its format is {record['format']!r:.20}")
    except (ValueError, KeyError, RecursionError) as error:
        raise _unreadable(error) from error
    return record


def _unreadable(error: Exception) -> GuestError:
    return GuestError(
        f"the guest's exit record cannot be used: {type(error).__name__}: {error}",
        "run the job again; if it recurs, check the template's init script",
    )


def read_exit(disk: DataDisk) -> JobExit:
    """Return how the job ended.

    Raises `GuestError` when the guest left no record, or one that says it failed.
    Silence is never taken for success.
    """
    record = read_record(disk)
    if record is None:
        raise GuestError(
            "the guest left no exit record: it ended before the job did",
            "look at its console with --keep, and check the template "
            "with 'vmcapsule template check'",
        )
    try:
        if record["state"] == "failed":
            failure = record["failure"]
            stage, message = _word(failure["stage"]), _word(failure["message"])
            if stage == "exec" and failure.get("errno") is not None:
                raise ExecFailed(
                    f"the job's program could not be started: {message}",
                    "see that it is a program, and that the template has the interpreter "
                    "that a script names in its first line",
                    _errno(failure["errno"]),
                )
            raise GuestError(
                f"the guest could not run the job ({stage}): {message}",
                "'vmcapsule inspect' shows the guest's log of a capsule kept with --keep",
            )
        if record["state"] != "exited":
            raise ValueError(f"its state is {record['state']!r:.20}")
        return _job_exit(record)
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise _unreadable(error) from error


def as_reported(path: str) -> str:
    """How a path appears in `JobExit`."""
    return _word(path)


def _word(value: object, limit: int = 500) -> str:
    """One printable line from a hostile string."""
    line = " ".join(str(value).split())
    return "".join(c if c.isprintable() else "?" for c in line)[:limit]


def _job_exit(record: Mapping[str, Any]) -> JobExit:
    code, signal = record["exit_code"], record["exit_signal"]
    if (code is None) == (signal is None):
        raise ValueError("it has not exactly one of exit code and signal")
    _check_int("exit_code", code, 0, 255)
    _check_int("exit_signal", signal, 1, SIGNAL_MAX)
    missing = record.get("missing_outputs", [])
    unsent = record.get("unsent_outputs", [])
    return JobExit(
        runner=_word(record["runner"], 20),
        exit_code=code,
        exit_signal=signal,
        core_dumped=record.get("core_dumped") is True,
        started_at_s=_number(record["started_at_s"]),
        ended_at_s=_number(record["ended_at_s"]),
        user_cpu_s=_number(record["user_cpu_s"]),
        system_cpu_s=_number(record["system_cpu_s"]),
        max_rss_kib=int(_number(record["max_rss_kib"])),
        image_size_kib=int(_number(record.get("image_size_kib", 0))),
        disk_usage_kib=int(_number(record.get("disk_usage_kib", 0))),
        missing_outputs=tuple(as_reported(path) for path in missing),
        unsent_outputs=tuple((as_reported(path), _errno(why)) for path, why in unsent),
        phases_s={_word(k, 40): _number(v) for k, v in record.get("phases", {}).items()},
        guest={_word(k, 40): _word(v) for k, v in record.get("guest", {}).items()},
        entries=int(_number(record["outputs"]["entries"])),
    )


def _check_int(name: str, value: object, least: int, most: int) -> None:
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise ValueError(f"its {name} is {value!r:.20}")


def _errno(value: Any) -> int:
    if value not in errno.errorcode:
        raise ValueError(f"{value!r:.20} is no errno")
    return int(value)


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"{value!r:.20} is not a number")
    if not math.isfinite(value) or not 0 <= value < 1e15:
        raise ValueError(f"{value!r:.20} is out of range")
    return float(value)


def read_index(disk: DataDisk, index: str, pack_pattern: str) -> PackedFiles:
    """Read and check an index and find its packs.  Raises `DiskError`."""
    packs: list[Pieces] = []
    sizes: list[int] = []
    room = image_bytes(disk.fd)
    for number in range(contract.PACKS_MAX):
        file = disk.volume.lookup(pack_pattern % number)
        if file is None or file.is_folder:
            break
        packs.append(Pieces(file.extents))
        sizes.append(file.size_bytes)
        if sum(len(pack.extents) for pack in packs) > RUNS_MAX:
            raise DiskError(
                f"the packs on the data disk are in more than {RUNS_MAX} pieces",
                "the guest wrote them; nothing of them was used",
            )
        if sum(sizes) > room:
            # Packs that share clusters could claim far more than the disk holds.
            raise DiskError(
                f"the packs on the data disk claim more than its {room} bytes",
                "the guest wrote them; nothing of them was used",
            )
    if disk.volume.lookup(index) is None:
        raise DiskError(
            f"the data disk has no '{index}'", "it was damaged, or not written by vmcapsule"
        )
    entries = parse_index(disk.volume.read(index, contract.INDEX_BYTES_MAX), sizes)
    return PackedFiles(entries, tuple(packs))


def read_outputs(disk: DataDisk, job_exit: Optional[JobExit] = None) -> PackedFiles:
    """What the guest sends back; `DiskError` where it is not what its record says."""
    outputs = read_index(disk, contract.OUTPUT_INDEX, contract.OUTPUT_PACK)
    # A list that was cut at the end of a line is a list, too.
    if job_exit is not None and len(outputs.entries) != job_exit.entries:
        raise DiskError(
            f"the data disk lists {len(outputs.entries)} outputs, the guest's record speaks "
            f"of {job_exit.entries}",
            "it was damaged on its way; look at it with 'vmcapsule inspect'",
        )
    return outputs


class Delivered(NamedTuple):
    """Where files were put; and, by path in the index, what is in the way of others."""

    files: tuple[str, ...]
    blocked: Mapping[str, str]


def deliver(
    disk: DataDisk,
    outputs: PackedFiles,
    place_of: PlaceOf,
    token: str,
    only: Optional[Collection[str]] = None,
) -> Delivered:
    """Put the outputs, or ``only`` those paths of them, where they belong.

    ``place_of`` gives the absolute path for a path of the index, None for what is not
    wanted.

    What HTCondor would not write to is left as it is, and the other outputs are delivered:
    a folder or device in a file's place, a file that is closed to the user's own writing.
    All are put in place when all are written; after a failure nothing of them is left.  A
    delivery that was killed is replaced when it is repeated with the same ``token``
    (`vmcapsule.drafts`).  Files belong to the calling user; set-id bits are not taken over.
    A file that is a link in the user's folder is written through, as HTCondor does.  Raises
    `DeliveryError`.
    """
    drafts = Drafts(token)
    place = ""
    try:
        files: list[str] = []
        blocked: dict[str, str] = {}
        for number, entry, place in _wanted(outputs.entries, place_of, only):
            if entry.kind == FOLDER:
                drafts.folder(place, number, entry.mode)
                continue
            try:
                fd = drafts.file(place, number, entry.mode)
            except Obstacle as obstacle:
                blocked[entry.path] = str(obstacle)
                continue
            files.append(place)
            try:
                _fill(fd, disk.fd, entry, outputs.packs)
            finally:
                os.close(fd)
        place = ""
        drafts.put()
    except (OSError, SpaceError) as error:
        drafts.undo()
        where = place or getattr(error, "filename", "")
        why = error.strerror if isinstance(error, OSError) else error.message
        raise DeliveryError(
            f"cannot write the job's outputs: '{where}': {why}",
            "correct that, then deliver them with 'vmcapsule extract'",
        ) from error
    except BaseException:
        drafts.undo()
        raise
    return Delivered(tuple(files), blocked)


def _wanted(
    entries: Entries, place_of: PlaceOf, only: Optional[Collection[str]]
) -> Iterator[tuple[int, Entry, str]]:
    """Yield what is to be delivered, with its number and its place."""
    for number, entry in enumerate(entries):
        place = place_of(entry.path)
        if place is None or (only is not None and entry.path not in only):
            continue
        if entry.kind == LINK:
            raise DeliveryError(
                f"the job left '{entry.path}', a link to a folder or to nowhere, which "
                "HTCondor does not transfer",
                "let the job write a file or folder instead",
            )
        yield number, entry, place


def _fill(fd: int, image_fd: int, entry: Entry, packs: Sequence[Pieces]) -> None:
    """Copy an entry's data out of the image into the new file ``fd``."""
    end = 0
    for stretch in entry.stretches:
        end = stretch.offset
        for extent in packs[stretch.pack].part(stretch.pack_offset, stretch.length):
            copy_range(image_fd, extent.offset_bytes, fd, end, extent.length_bytes)
            end += extent.length_bytes
    if end < entry.size_bytes:
        os.ftruncate(fd, entry.size_bytes)
