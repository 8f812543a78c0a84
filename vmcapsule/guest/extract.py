"""Returned data disk to outputs.  The guest had root there: trust nothing."""

from __future__ import annotations

import os
from typing import Callable, Collection, Iterator, Mapping, NamedTuple, Optional, Sequence

from vmcapsule import contract
from vmcapsule.disk.extents import Image, copy_range, image_bytes, sources_within
from vmcapsule.disk.fat.table import RUNS_MAX
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import DeliveryError, DiskError, SpaceError
from vmcapsule.guest.exit_record import JobExit
from vmcapsule.transfer.drafts import Drafts, Obstacle
from vmcapsule.transfer.entries import FOLDER, LINK, Entries, Entry
from vmcapsule.transfer.index import parse_index
from vmcapsule.transfer.pack import Pieces

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
    """Where files were put; and, by path in the index, what is in the way of others."""

    files: tuple[str, ...]
    blocked: Mapping[str, str]


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

    What HTCondor would not write to is left as it is, and the other outputs are delivered:
    a folder or device in a file's place, a file that is closed to the user's own writing.
    All are put in place when all are written; after a failure nothing of them is left.  A
    delivery that was killed is replaced when it is repeated with the same ``token``
    (`vmcapsule.transfer.drafts`).  Files belong to the calling user; set-id bits are not
    taken over.  A file that is a link in the user's folder is written through, as HTCondor
    does.  Raises `DeliveryError`.
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
                _fill(fd, volume.image, entry, outputs.packs)
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


def _fill(fd: int, image: Image, entry: Entry, packs: Sequence[Pieces]) -> None:
    """Copy an entry's data out of the image into the new file ``fd``."""
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
