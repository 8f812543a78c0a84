"""A disk read where it lies: which run of its bytes is in which file, and where there.

Whatever a disk's form, nothing is converted to look at its tables, and what is wanted of
it is copied once, by the kernel, to where it is wanted.  A disk whose files are open for
writing is written to in the same way (`extents.write_at`), where it is no hole.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Iterable, Iterator, Tuple

from vmcapsule.disk.extents import Extent, Image, Source, copy_to, read_at
from vmcapsule.errors import DiskError


class DiskMap:
    """A disk of ``size_bytes`` that holds ``sources``, and zeros elsewhere.

    The sources ascend and do not overlap; whoever made the map keeps their files open.
    """

    def __init__(self, size_bytes: int, sources: Iterable[Source]) -> None:
        self.size_bytes = size_bytes
        self._sources: Tuple[Source, ...] = tuple(sources)
        self._offsets = tuple(source.offset_bytes for source in self._sources)

    @property
    def data_bytes(self) -> int:
        """How much of the disk is in files."""
        return sum(source.length_bytes for source in self._sources)

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Return bytes of the disk, as `extents.read_at` does of a file."""
        end = offset_bytes + length_bytes
        if not 0 <= offset_bytes <= end <= self.size_bytes:
            raise DiskError(
                f"a disk of {self.size_bytes} bytes has none at {offset_bytes}-{end}"
            )
        pieces, at = [], offset_bytes
        for source in self.within([Extent(offset_bytes, length_bytes)]):
            pieces.append(bytes(source.offset_bytes - at))
            pieces.append(read_at(source.fd, source.fd_offset, source.length_bytes))
            at = source.offset_bytes + source.length_bytes
        pieces.append(bytes(end - at))
        return b"".join(pieces)

    def within(self, extents: Iterable[Extent]) -> Iterator[Source]:
        """Yield what is in files of the disk's ``extents``."""
        for begin, length in extents:
            end = begin + length
            number = max(bisect_right(self._offsets, begin) - 1, 0)
            while number < len(self._sources) and self._offsets[number] < end:
                source = self._sources[number]
                at = max(begin, source.offset_bytes)
                skipped = at - source.offset_bytes
                count = min(source.length_bytes - skipped, end - at)
                if count > 0:
                    yield Source(at, count, source.fd, source.fd_offset + skipped)
                number += 1

    def copy(self, extents: Iterable[Extent], image: Image) -> None:
        """Copy the disk's ``extents`` to the same places of an empty image."""
        for source in self.within(extents):
            here = Extent(source.offset_bytes, source.length_bytes)
            copy_to(image, here, source.fd, source.fd_offset)
