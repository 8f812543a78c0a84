"""The disk that goes back from a slot: what the guest left for the host, and no more.

The guest's own disk holds the inputs, too, and is as large as the job asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from vmcapsule import contract
from vmcapsule.capsule.record import Capsule
from vmcapsule.disk.extents import Extent, Image, copy_to, sources_within
from vmcapsule.disk.fat.volume import FatFile, FatVolume
from vmcapsule.disk.new_disk import NewDisk, empty
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
    start = empty(size_bytes, made.part_offset_bytes or _OFFSET_BYTES)
    disk = NewDisk(start, {file.path: file.size_bytes for file in files})
    target = folder / made.data_disk.name
    with disk.made(target, travels=True) as image:
        for file in files:
            _copy(volume.image, file.extents, image, disk.places[file.path])
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


def _copy(image: Image, old: Sequence[Extent], to: Image, new: Sequence[Extent]) -> None:
    """Copy the bytes that are in ``image`` at ``old`` to ``new``, in the same order."""
    pieces, done = Pieces(old), 0
    for extent in new:
        at = extent.offset_bytes
        for piece in pieces.part(done, extent.length_bytes):
            shift = at - piece.offset_bytes
            for source in sources_within(image, piece):
                place = Extent(source.offset_bytes + shift, source.length_bytes)
                copy_to(to, place, source.fd, source.fd_offset)
            at += piece.length_bytes
        done += extent.length_bytes
