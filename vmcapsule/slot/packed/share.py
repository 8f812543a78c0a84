"""What a machine needs of a slot beside its job: asked for with the job, and kept from it."""

from __future__ import annotations

from vmcapsule.named import NamedTuple

#: What QEMU needs in the slot beside its guest's memory.
QEMU_MEMORY_MIB = 128
#: What a guest's system writes beside the job.
GUEST_KIB = 64 << 10
#: What a job writes is on its disk, packed on the data disk, and back in the sandbox.
_COPIES = 3


class Room(NamedTuple):
    """What a job has for itself."""

    memory_mib: int
    disk_kib: int


def request_memory(wish: str, overhead_mib: int) -> str:
    """What is asked of a slot for a job that has the ``wish``, an expression in MiB."""
    return f"({wish}) + {QEMU_MEMORY_MIB + overhead_mib}"


def request_disk(wish: str) -> str:
    """The same of a disk, in KiB."""
    return f"({wish}) * {_COPIES} + {GUEST_KIB}"


def wish_of(asked: Room, overhead_mib: int) -> Room:
    """What the job asked for, of which `request_memory` and `request_disk` made ``asked``."""
    memory_mib = asked.memory_mib - QEMU_MEMORY_MIB - overhead_mib
    return Room(max(memory_mib, 0), max(asked.disk_kib - GUEST_KIB, 0) // _COPIES)


def room_in(slot: Room, overhead_mib: int) -> Room:
    """What is the job's in a slot that was asked for so."""
    wish = wish_of(slot, overhead_mib)
    return Room(max(wish.memory_mib, 1), max(wish.disk_kib, 1))
