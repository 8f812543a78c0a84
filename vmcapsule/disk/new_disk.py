"""A data disk made new: where everything lies is known first, then all is written once.

It is written in the form that it stays in: flat where the capsule is booted on this machine,
or as one sparse file, without the holes that HTCondor would send as zeros.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Mapping, Tuple

from vmcapsule.disk.content import content
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.empty_disk import LABEL, EmptyDisk
from vmcapsule.disk.extents import Extent, Image, Readable, created
from vmcapsule.disk.fat.boot import read_geometry
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.partition import locate_fat
from vmcapsule.disk.vmdk.vmdk import mapped, read_vmdk
from vmcapsule.disk.vmdk.write import created_sparse, flat_beside, write_flat
from vmcapsule.named import NamedTuple


class Beginning(NamedTuple):
    """What a new disk has before anything is put onto it: ``image``, which is only read.

    All of it that is not zeros is in ``content``, and ``write`` writes that to an image of
    zeros.  Its volume begins at ``offset_bytes``, and it is for a controller ``adapter``.
    """

    image: Readable
    content: Tuple[Extent, ...]
    write: Callable[[Image], None]
    offset_bytes: int
    adapter: str


def empty(
    size_bytes: int, offset_bytes: int, *, label: str = LABEL, adapter: str = "ide"
) -> Beginning:
    """A disk begins with an empty volume, as `EmptyDisk` has it, whose errors this raises."""
    image = EmptyDisk(size_bytes, offset_bytes, label)
    return Beginning(image, image.content, image.write, offset_bytes, adapter)


@contextmanager
def alike(disk: DataDisk, size_bytes: int, scratch: Path) -> Iterator[Beginning]:
    """A disk of ``size_bytes`` that a guest takes for ``disk``; valid inside the block only.

    Where that is as large the new one begins with what is on it, read where it lies; else
    with an empty volume of the same label in the same place.  Raises `DiskError` for a disk
    that is damaged, `TemplateError` where no vfat file system begins there.
    """
    known = read_vmdk(disk.path)
    with mapped(known, scratch) as there:
        offset_bytes = locate_fat(there, there.size_bytes, disk.offset_bytes)
        if size_bytes != there.size_bytes:
            label = read_geometry(there, offset_bytes).label
            yield empty(size_bytes, offset_bytes, label=label, adapter=known.adapter)
            return
        inside = tuple(
            Extent(source.offset_bytes, source.length_bytes)
            for source in there.within(content(there, offset_bytes))
        )
        yield Beginning(
            there, inside, lambda image: there.copy(inside, image), offset_bytes, known.adapter
        )


class NewDisk:
    """A disk that has its layout and is not written yet.

    ``places`` says of each of its new files where on the disk its bytes belong.
    """

    def __init__(
        self,
        start: Beginning,
        files: Mapping[str, int],
        *,
        stale: Callable[[str], bool] = lambda path: False,
    ) -> None:
        """Find room for ``files``: their sizes in bytes, by path.

        They replace those of the beginning, of which ``stale`` ones go by their path.
        Raises `SpaceError` where there is too little room, and what `lay_out` raises.
        """
        volume = FatVolume.open(start.image, start.offset_bytes)
        gone = [file.path for file in volume.walk() if not file.is_folder and stale(file.path)]
        self._start = start
        self._layout = lay_out(volume, files, remove=gone)
        self.places = dict(self._layout.places())

    @contextmanager
    def made(self, target: Path, *, travels: bool) -> Iterator[Image]:
        """Make the new disk ``target``, one sparse file if it ``travels``, else a flat one.

        Inside the block its files are filled, each at its `places`.  Nothing is left when the
        block ends with an exception.  Raises `SpaceError` where the host's disk is full, or
        `DiskError`.
        """
        with self._created(target, travels) as image:
            self._start.write(image)
            yield image
            self._layout.write(image)

    @contextmanager
    def _created(self, target: Path, travels: bool) -> Iterator[Image]:
        start, size_bytes = self._start, self._start.image.size_bytes
        if travels:
            extents = (*start.content, *self._layout.extents())
            with created_sparse(target, size_bytes, extents, adapter=start.adapter) as there:
                yield there
            return
        flat = flat_beside(target)
        with created(flat, size_bytes) as fd:
            yield fd
            write_flat(flat, target, adapter=start.adapter)
