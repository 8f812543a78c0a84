"""The disk that goes back from a slot: what the guest left for the host, and no more.

The guest's own disk holds the inputs, too, and is as large as the job asked for.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Iterator, Sequence

from vmcapsule import contract
from vmcapsule.capsule.record import Capsule
from vmcapsule.disk.empty_disk import LABEL, build_data_disk
from vmcapsule.disk.extents import Extent, Image, Source, sources_within
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatFile, FatVolume
from vmcapsule.disk.vmdk.write import sources_of, write_sparse
from vmcapsule.guest.extract import PackedFiles
from vmcapsule.template.data_disk import roomy_bytes
from vmcapsule.transfer.pack import Pieces

#: Where its partition begins when nobody says.
_OFFSET_BYTES = 1 << 20
#: What may come back beside index and packs, and how much of it.
_RECORDS = {
    contract.EXIT_RECORD: contract.EXIT_RECORD_BYTES_MAX,
    contract.GUEST_LOG: contract.LOG_BYTES_MAX,
    contract.CONDOR_LOG: contract.LOG_BYTES_MAX,
}


def write_return(volume: FatVolume, outputs: PackedFiles, made: Capsule, folder: Path) -> Path:
    """Write the disk that takes the place of ``made``'s into ``folder``; return its path.

    It holds ``outputs`` and the records of ``disk``, under the contract's names, and is no
    larger than the disk that left.  The outputs are copied once, inside the kernel.  Raises
    `SpaceError` or `DiskError`.
    """
    files = _files(volume, outputs)
    needed = sum(file.size_bytes for file in files)
    size_bytes = min(roomy_bytes(needed), made.data_bytes)
    target = folder / made.data_disk.name
    with tempfile.TemporaryDirectory(prefix=".return-", dir=folder) as aside:
        raw = Path(aside) / "raw"
        build_data_disk(
            raw,
            size_bytes=size_bytes,
            offset_bytes=made.part_offset_bytes or _OFFSET_BYTES,
            label=LABEL,
        )
        fd = os.open(raw, os.O_RDWR | os.O_CLOEXEC)
        try:
            places = _allocate(fd, made.part_offset_bytes or _OFFSET_BYTES, files)
            sources = [*sources_of(fd, size_bytes)]
            for file, place in zip(files, places):
                sources += _moved(volume.image, file.extents, place)
            write_sparse(sources, size_bytes, target, adapter="ide")
        finally:
            os.close(fd)
    return target


def _files(volume: FatVolume, outputs: PackedFiles) -> list[FatFile]:
    """What is to come back; whoever made ``outputs`` has bounded what the packs claim."""
    packs = [contract.OUTPUT_PACK % number for number in range(len(outputs.packs))]
    found = {name: volume.lookup(name) for name in (*packs, contract.OUTPUT_INDEX)}
    for name, limit_bytes in _RECORDS.items():
        file = volume.lookup(name)
        if file is not None and file.size_bytes <= limit_bytes:
            found[name] = file
    return [file for file in found.values() if file is not None and not file.is_folder]


def _allocate(fd: int, offset_bytes: int, files: Sequence[FatFile]) -> list[tuple[Extent, ...]]:
    """Give each file its place in the new volume; only the volume's own tables are written."""
    layout = lay_out(
        FatVolume.open(fd, offset_bytes), {file.path: file.size_bytes for file in files}
    )
    layout.write()
    return [extents for _, extents in layout.places()]


def _moved(image: Image, old: Sequence[Extent], new: Sequence[Extent]) -> Iterator[Source]:
    """Where the bytes of ``new`` are now: in ``image`` at ``old``, in the same order."""
    pieces, done = Pieces(old), 0
    for extent in new:
        at = extent.offset_bytes
        for piece in pieces.part(done, extent.length_bytes):
            shift = at - piece.offset_bytes
            for source in sources_within(image, piece):
                yield source._replace(offset_bytes=source.offset_bytes + shift)
            at += piece.length_bytes
        done += extent.length_bytes
