"""The JOB_CLEANUP hook: a routed ad in; its capsule goes, unless outputs would go with it."""

from __future__ import annotations

from pathlib import Path

from vmcapsule import capsule, extract
from vmcapsule.ads import parse_ad
from vmcapsule.errors import AdError, UsageError, VmCapsuleError


def cleanup(text: str) -> tuple[str, str]:
    """Remove the capsule of the routed job whose ad is in ``text``.

    Returns the source job's id and what happened, in words.  A capsule whose guest
    reported and whose outputs were not delivered is kept.  Can be repeated, and a capsule
    that is gone already is no error: the JobRouter runs this hook after success, removal
    and failed submission alike, and again after a restart.
    """
    routed = parse_ad(text)
    job_id = routed.string("VmCapsuleSourceJobId") or "?"
    folder = routed.string("VmCapsuleDir")
    if folder is None:
        raise AdError(
            "the routed ad has no VmCapsuleDir",
            "give the ad that 'vmcapsule translate' printed",
        )
    if not Path(folder).exists():
        return job_id, f"{folder} is gone already"
    try:
        made = capsule.load(Path(folder))
    except UsageError as error:
        return job_id, f"kept {folder}: {error.message}"
    if not made.is_delivered and _reported(made):
        return job_id, f"kept {folder}: its outputs were not delivered"
    capsule.remove(made)
    return job_id, f"removed {folder}"


def _reported(made: capsule.Capsule) -> bool:
    """Whether a guest left a record there; a disk that cannot be read may hold one."""
    try:
        with extract.opened(
            made.returned_disk, made.part_offset_bytes, made.folder, made.data_bytes
        ) as disk:
            return extract.read_record(disk) is not None
    except VmCapsuleError:
        return True
