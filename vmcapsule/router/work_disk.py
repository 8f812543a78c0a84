"""The disk that a guest works on, sent along where whoever boots the machine cannot make it."""

from __future__ import annotations

from pathlib import Path

from vmcapsule.capsule.packing import Plan
from vmcapsule.disk.disk import from_raw

#: Empty, it takes a few KiB for each GiB.
WORK_DISK = "condor-work.vmdk"


def put_work_disk(planned: Plan, aside: Path) -> None:
    """Make `WORK_DISK` in a capsule that is being built; its job needs more than a little."""
    from vmcapsule.guest.work_disk import raw_work_disk  # seldom needed

    with raw_work_disk(aside, planned.capsule.work_bytes) as raw:
        assert raw is not None  # it has a size
        from_raw(raw, aside / WORK_DISK, like=planned.template.data_disk)
