"""The disk that a capsule's outputs are on, once it has run."""

from __future__ import annotations

from vmcapsule.capsule.record import RETURNED, Capsule
from vmcapsule.disk.data_disk import DataDisk


def returned_disk(made: Capsule) -> DataDisk:
    """What the last run handed back; else the disk that lies here, with its redo log, if that
    is what came back.

    Raises `DiskError` where several redo logs came back.
    """
    disk = DataDisk(made.returned_disk, made.part_offset_bytes)
    if disk.path != made.data_disk or not made.has_handed_back:
        return disk
    return disk.with_redo_log(made.folder / RETURNED)
