"""What a guest needs, put onto its data disk, which is made new; whoever asked for it."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Iterable, Iterator, Sequence, Union

from vmcapsule import contract
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.extents import Extent, Image, Unreadable, copy_to, write_extents
from vmcapsule.disk.new_disk import NewDisk, alike
from vmcapsule.errors import InputError, SpaceError, TooLarge
from vmcapsule.named import NamedTuple
from vmcapsule.transfer.entries import Stretch
from vmcapsule.transfer.index import dump_index
from vmcapsule.transfer.pack import Member, PackPlan, Pieces, plan_packs, unreadable

#: A file up to this long is not copied inside the kernel but read to where many are written
#: from at once: that takes two thirds of the time.
SMALL_BYTES = 64 << 10
_BULK_BYTES = 256 << 10
#: The run ad before a slot has said anything: as long as all that one can say.  No zeros,
#: which a disk could leave out.
NO_RUN_AD = b"\n" * 128
#: Opening a FIFO must not wait for a writer.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

Data = Union[bytes, memoryview]


class Payload(NamedTuple):
    """What goes onto a data disk: small files and copies by name there, and a sandbox."""

    texts: tuple[tuple[str, Data], ...]
    copies: tuple[tuple[str, Path], ...]
    packs: PackPlan

    @property
    def size_bytes(self) -> int:
        """How many bytes it takes, without what a file system adds."""
        return (
            sum(len(data) for _, data in self.texts)
            + sum(path.stat().st_size for _, path in self.copies)
            + sum(self.packs.pack_sizes_bytes)
        )


def packed(
    members: Iterable[Member],
    texts: Iterable[tuple[str, Data]],
    copies: Iterable[tuple[str, Path]] = (),
) -> Payload:
    """The payload of a sandbox of ``members``, its index among the small files.

    Raises `InputError` for what cannot be read, `TooLarge` for more than a capsule carries.
    """
    plan = plan_packs(members)
    index = (contract.INPUT_INDEX, dump_index(plan.entries))
    return Payload((*texts, index), tuple(copies), plan)


def stage(
    load: Payload, like: DataDisk, folder: Path, size_bytes: int, *, travels: bool
) -> DataDisk:
    """Make a data disk of ``size_bytes`` in ``folder`` that has ``load`` on it; return it.

    A guest takes it for ``like``, see `new_disk.alike`; records of an earlier run on that
    are left out.  It is one file without holes if it ``travels``.  Raises `TooLarge`, saying
    how much is needed, when the partition is too small.
    """
    texts = dict(load.texts)
    copies = dict(load.copies)
    packs = {
        contract.INPUT_PACK % number: size_bytes
        for number, size_bytes in enumerate(load.packs.pack_sizes_bytes)
    }
    # What comes first lies best on a volume of ours.
    files = {
        **packs,
        **{name: len(data) for name, data in texts.items()},
        **{name: path.stat().st_size for name, path in copies.items()},
    }
    target = folder / like.path.name
    with alike(like, size_bytes, folder) as start:
        try:
            disk = NewDisk(start, files, stale=_is_stale)
        except SpaceError as error:
            raise TooLarge(
                f"the data disk is too small for the job's files and HTCondor: {error.message}",
                "use a template with a larger data disk "
                "('vmcapsule template build --data-size') or send fewer inputs",
            ) from error
        places = disk.places
        with disk.made(target, travels=travels) as image:
            for name, data in texts.items():
                write_extents(image, places[name], data)
            for name, path in copies.items():
                _fill_copy(image, places[name], path, files[name])
            _fill_packs(image, [Pieces(places[name]) for name in packs], load.packs)
    return like._replace(path=target)


def tell_starts(starts: int, disk: DataDisk) -> None:
    """Put on a staged data disk how many of its job's runs began before this one."""
    text = f"NumJobStarts = {starts}\n".encode()
    disk.overwrite(contract.RUN_AD, text.ljust(len(NO_RUN_AD), b"\n"))


def _is_stale(path: str) -> bool:
    """Whether an earlier run left that."""
    folded = path.lower()
    return folded == contract.INIT_SCRIPT or folded.startswith(contract.RECORD_DIR + "/")


def _fill_copy(image: Image, extents: Sequence[Extent], source: Path, size_bytes: int) -> None:
    with _opened(source, size_bytes) as fd:
        _copy(fd, 0, image, extents)


def _copy(fd: int, position: int, image: Image, extents: Iterable[Extent]) -> None:
    """Copy what is at ``position`` in a file to ``extents`` of the image."""
    for extent in extents:
        copy_to(image, extent, fd, position)
        position += extent.length_bytes


def _fill_packs(image: Image, packs: Sequence[Pieces], plan: PackPlan) -> None:
    """Copy the data of every packed file to its place in the image."""
    bulk = _Bulk(image, packs, bytearray(_BULK_BYTES))
    for number, entry in enumerate(plan.entries):
        stretches = entry.stretches
        if not stretches:
            continue
        source = plan.sources.of(number, entry.path)
        if stretches[0].length == entry.size_bytes <= SMALL_BYTES:
            _read_small(source, bulk.room_for(stretches[0]))
            continue
        with _opened(source, entry.size_bytes) as fd:
            for offset, length, pack, pack_offset in stretches:
                _copy(fd, offset, image, packs[pack].part(pack_offset, length))
    bulk.write()


class _Bulk:
    """The data of small files that lie side by side in a pack, written by one call."""

    def __init__(self, image: Image, packs: Sequence[Pieces], buffer: bytearray) -> None:
        self._image, self._packs = image, packs
        self._buffer = memoryview(buffer)
        self._pack = self._start = self._length = 0

    def room_for(self, stretch: Stretch) -> memoryview:
        """Where to put the data of a stretch."""
        end = self._length + stretch.length
        beside = (
            stretch.pack == self._pack and stretch.pack_offset == self._start + self._length
        )
        if not beside or end > len(self._buffer):
            self.write()
            self._pack, self._start, end = stretch.pack, stretch.pack_offset, stretch.length
        room = self._buffer[self._length : end]
        self._length = end
        return room

    def write(self) -> None:
        """Write what has been put there."""
        places = self._packs[self._pack].part(self._start, self._length) if self._length else ()
        write_extents(self._image, places, self._buffer[: self._length])
        self._length = 0


def _read_small(source: str, room: memoryview) -> None:
    """Fill ``room`` with a whole file."""
    try:
        fd = os.open(source, _READ)
        try:
            length = os.readv(fd, [room])
        finally:
            os.close(fd)
    except OSError as error:
        raise unreadable(source, error) from error
    if length != len(room):
        raise _changed(source)


@contextlib.contextmanager
def _opened(source: Union[str, Path], size_bytes: int) -> Iterator[int]:
    """Open a file of that size to be copied; what cannot be read of it names it."""
    fd = _open_source(source, size_bytes)
    try:
        yield fd
    except Unreadable as error:
        raise unreadable(source, error.cause) from error.cause
    finally:
        os.close(fd)


def _open_source(source: Union[str, Path], size_bytes: int) -> int:
    try:
        fd = os.open(source, _READ)
    except OSError as error:
        raise unreadable(source, error) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size < size_bytes:
        os.close(fd)
        raise _changed(source)
    return fd


def _changed(source: Union[str, Path]) -> InputError:
    return InputError(
        f"the input file '{source}' changed while it was packed",
        "leave a job's inputs alone until it has started",
    )
