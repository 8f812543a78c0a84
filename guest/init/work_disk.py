"""The disk to work on, where one came along: the host has made a file system on it."""

import os
import time

from init.contract import WORK_LABEL
from init.files import to_bytes
from init.processes import c_library
from init.report import Failure

MYPY = False
if MYPY:
    from typing import Iterable, Optional

    from init.record import Job
    from init.report import Log

MS_NOATIME, MS_BIND = 1024, 4096
#: Where the kernel finds disks late, ours may be among them.
DISK_TIMEOUT_S = 10.0
#: Natively a job finds these in its own folder's file system (MOUNT_UNDER_SCRATCH).
TEMPORARY = ("/tmp", "/var/tmp")


def free_kib(folder: str) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize // 1024


def disks() -> "Iterable[str]":
    """The disks of this machine that can be looked at without waiting for a medium."""
    names = sorted(os.listdir("/sys/block"))
    return ["/dev/" + n for n in names if not n.startswith(("loop", "ram", "sr", "fd", "dm-"))]


def find_disk(label: str, paths: "Iterable[str]") -> "Optional[str]":
    """The one of some disks that is an ext file system of a name as a whole.

    Disks have other names and serial numbers under each hypervisor: the name is in what is
    on it, in the superblock at 1 KiB.
    """
    for path in paths:
        try:
            with open(path, "rb") as disk:
                disk.seek(1024)
                block = disk.read(1024)
        except OSError:
            continue  # not there any more, or without a medium
        if block[56:58] == b"\x53\xef" and block[120:136].rstrip(b"\0") == to_bytes(label):
            return path
    return None


def mount_work_disk(work: str, size_bytes: int, log: "Log") -> None:
    """Put the disk of ``size_bytes`` that came along at ``work``, an empty folder.

    A machine that was booted without it works on its root, if that has the room.
    """
    start_s = time.monotonic()
    device = find_disk(WORK_LABEL, disks())
    while device is None and free_kib(work) < size_bytes // 1024:
        if time.monotonic() - start_s > DISK_TIMEOUT_S:
            log(f"no disk labeled {WORK_LABEL} is there")
            return
        time.sleep(0.1)
        device = find_disk(WORK_LABEL, disks())
    if device is None:
        return
    mount(device, work, "ext4", MS_NOATIME)
    for folder in filter(os.path.isdir, TEMPORARY):
        source = os.path.join(work, "temporary" + folder.replace("/", "-"))
        os.mkdir(source)
        os.chmod(source, 0o1777)
        mount(source, folder, "", MS_BIND)
    log(f"works on {device}, with {free_kib(work)} KiB free")


def mount(source: str, target: str, kind: str, flags: int) -> None:
    libc = c_library()
    if libc is None:
        raise Failure("disk", f"cannot mount {source}: this machine's Python has no ctypes")
    if libc.mount(to_bytes(source), to_bytes(target), to_bytes(kind), flags, None) != 0:
        import ctypes

        why = os.strerror(ctypes.get_errno())
        raise Failure("disk", f"cannot mount {source} at {target} ({kind or 'bind'}): {why}")


def check_room(job: "Job", sandbox: str) -> None:
    """Raise Failure where a job that requests much has less room beside its inputs.

    The others run on whatever root a template has.
    """
    wanted_kib, has_kib = job.get("disk_kib") or 0, free_kib(sandbox)
    if job.get("work_disk_bytes") and has_kib < wanted_kib:
        raise Failure(
            "disk",
            f"the job requests {wanted_kib} KiB of disk, and {sandbox} has {has_kib} KiB free: "
            "boot the capsule with its work disk, or use a template with a larger root",
        )
