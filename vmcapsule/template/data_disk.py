"""How large the data disk is that is put into a capsule: as the template's, or larger."""

from __future__ import annotations

from vmcapsule.disk.disk import Disk
from vmcapsule.errors import TooLarge
from vmcapsule.template.template import Template

_MIB = 1 << 20
#: Beside what it carries: partition offset, FATs, records, the guest's log.
_DATA_OVERHEAD_BYTES = 64 * _MIB
#: What 32-bit sector numbers in partition table and boot sector can say.
_DATA_BYTES_MAX = (1 << 41) - _MIB


def data_bytes_for(template: Template, needed_bytes: int) -> int:
    """How large a data disk must be that holds ``needed_bytes``: at least the template's.

    Raises `TooLarge` for more than a FAT can be.
    """
    size_bytes = roomy_bytes(needed_bytes)
    if size_bytes > _DATA_BYTES_MAX:
        raise TooLarge(
            f"the job's files and the disk it requests take {needed_bytes} bytes, a data disk "
            f"holds up to {_DATA_BYTES_MAX}",
            "request less disk, or fetch large files from within the job",
        )
    return max(size_bytes, Disk.at(template.data_disk).size_bytes)


def roomy_bytes(needed_bytes: int) -> int:
    """How large a data disk of ours is that has room for files of ``needed_bytes``."""
    size_bytes = needed_bytes + needed_bytes // 32 + _DATA_OVERHEAD_BYTES
    return size_bytes + -size_bytes % _MIB
