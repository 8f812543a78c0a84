"""Returned data disk to outputs.  The guest had root there: trust nothing."""

from __future__ import annotations

import os
from typing import Callable, Collection, Mapping, Optional, Sequence

from vmcapsule import contract
from vmcapsule.disk.extents import Image, copy_range, image_bytes, sources_within
from vmcapsule.disk.fat.table import RUNS_MAX
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import DeliveryError, DiskError, VmCapsuleError
from vmcapsule.guest.exit_record import JobExit
from vmcapsule.named import NamedTuple
from vmcapsule.transfer.drafts import Drafts
from vmcapsule.transfer.entries import FOLDER, LINK, Entries, Entry
from vmcapsule.transfer.index import parse_index
from vmcapsule.transfer.pack import Pieces
from vmcapsule.transfer.places import Obstacle, Stuck, why

PlaceOf = Callable[[str], Optional[str]]


class PackedFiles(NamedTuple):
    """The entries of an index, and where its packs lie in the disk's image."""

    entries: Entries
    packs: tuple[Pieces, ...]


def read_index(volume: FatVolume, index: str, pack_pattern: str) -> PackedFiles:
    """Read and check an index and find its packs.  Raises `DiskError`."""
    packs: list[Pieces] = []
    sizes: list[int] = []
    room = image_bytes(volume.image)
    for number in range(contract.PACKS_MAX):
        file = volume.lookup(pack_pattern % number)
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
    if volume.lookup(index) is None:
        raise DiskError(
            f"the data disk has no '{index}'", "it was damaged, or not written by vmcapsule"
        )
    entries = parse_index(volume.read(index, contract.INDEX_BYTES_MAX), sizes)
    return PackedFiles(entries, tuple(packs))


def read_outputs(volume: FatVolume, job_exit: Optional[JobExit] = None) -> PackedFiles:
    """What the guest sends back; `DiskError` where it is not what its record says."""
    outputs = read_index(volume, contract.OUTPUT_INDEX, contract.OUTPUT_PACK)
    # A list that was cut at the end of a line is a list, too.
    if job_exit is not None and len(outputs.entries) != job_exit.entries:
        raise DiskError(
            f"the data disk lists {len(outputs.entries)} outputs, the guest's record speaks "
            f"of {job_exit.entries}",
            "it was damaged on its way; look at it with 'vmcapsule inspect'",
        )
    return outputs


class Delivered(NamedTuple):
    """Where files were put; and, by path in the index, why others are left over."""

    files: tuple[str, ...]
    left_over: Mapping[str, str]


def deliver(
    volume: FatVolume,
    outputs: PackedFiles,
    place_of: PlaceOf,
    token: str,
    only: Optional[Collection[str]] = None,
) -> Delivered:
    """Put the outputs, or ``only`` those paths of them, where they belong.

    ``place_of`` gives the absolute path for a path of the index, None for what is not
    wanted.

    Each comes whole or not at all.  What cannot be put in place is left over, and all else
    is delivered: where HTCondor would not write (a folder or device in a file's place, a
    file that is closed to the user's own writing), or where the system says no.  Of two
    outputs of one place the later one comes, as with HTCondor (`vmcapsule.transfer.drafts`).

    All are put in place when all are written, and are on disk when this returns.  Raises
    `DeliveryError` when they may not be, or when something that was begun cannot be taken
    back, and `DiskError` when the data disk is damaged: then another delivery has to
    follow.  That replaces also what a killed one left, with the same ``token``.  Files
    belong to the calling user; set-id bits are not taken over.  A file that is a link in
    the user's folder is written through, as HTCondor does.
    """
    drafts = Drafts(token)
    try:
        files, folders, left_over = _draft(drafts, volume.image, outputs, place_of, only)
        failed = drafts.put()
        if left_over:
            drafts.clear()
    except (OSError, Stuck) as error:
        drafts.clear()
        reason = error.strerror if isinstance(error, OSError) else error
        raise DeliveryError(
            f"the job's outputs may not all be on disk: {reason}",
            "correct that, then deliver them with 'vmcapsule extract'",
        ) from error
    except BaseException:
        drafts.clear()
        raise
    finally:
        drafts.close()
    for places in (files, folders) if failed else ():
        for place, path in [*places.items()]:
            reason = _failure(place, failed)
            if reason is not None:
                left_over[path] = reason
                del places[place]
    return Delivered(tuple(files), left_over)


def _draft(
    drafts: Drafts,
    image: Image,
    outputs: PackedFiles,
    place_of: PlaceOf,
    only: Optional[Collection[str]],
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Write everything aside.

    Returns the paths of files and of folders, by place, and why others are left over, by
    path.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    left_over: dict[str, str] = {}
    #: By place, the paths of those that are left over.
    places: dict[str, list[str]] = {}
    for number, entry in enumerate(outputs.entries):
        if only is not None and entry.path not in only:
            continue
        place = ""
        try:
            place = place_of(entry.path) or ""
            if place and entry.kind == FOLDER:
                drafts.folder(place, number, entry.mode)
                folders[place] = entry.path
                files.pop(place, None)
            elif place:
                _write(drafts, image, outputs, number, entry, place)
                files[place] = entry.path
                for path in places.pop(place, ()):
                    # It would have been replaced by this one.
                    del left_over[path]
        except (DeliveryError, Obstacle, OSError) as error:
            # An earlier one of that place goes, too: its draft may have gone for this one's.
            for path in (entry.path, *filter(None, [files.pop(place, None)])):
                left_over[path] = why(place, error)
                places.setdefault(place, []).append(path)
    return files, folders, left_over


def _failure(place: str, failed: Mapping[str, str]) -> Optional[str]:
    """Why a file or folder, or one that it is in, did not come to its place."""
    while place:
        if place in failed:
            return failed[place]
        place = place.rpartition("/")[0]
    return None


def _write(
    drafts: Drafts,
    image: Image,
    outputs: PackedFiles,
    number: int,
    entry: Entry,
    place: str,
) -> None:
    """Write one file aside, whole, or raise `Obstacle` or an OSError."""
    if entry.kind == LINK:
        raise Obstacle("a link to a folder or to nowhere, which HTCondor does not transfer")
    fd = drafts.file(place, number, entry.mode)
    try:
        try:
            fill(fd, image, entry, outputs.packs)
        finally:
            os.close(fd)
    except OSError:
        drafts.drop()
        raise
    except VmCapsuleError as error:
        if not isinstance(error.__cause__, OSError):
            raise  # the data disk is damaged
        drafts.drop()
        raise error.__cause__ from error


def fill(fd: int, image: Image, entry: Entry, packs: Sequence[Pieces]) -> None:
    """Copy an entry's data out of the image into the new file ``fd``.

    Raises `DiskError`, or the `VmCapsuleError` of a write that failed with its cause.
    """
    end = 0
    for stretch in entry.stretches:
        at = stretch.offset
        for extent in packs[stretch.pack].part(stretch.pack_offset, stretch.length):
            for source in sources_within(image, extent):
                to = at + source.offset_bytes - extent.offset_bytes
                copy_range(source.fd, source.fd_offset, fd, to, source.length_bytes)
                end = to + source.length_bytes
            at += extent.length_bytes
    if end < entry.size_bytes:
        os.ftruncate(fd, entry.size_bytes)
