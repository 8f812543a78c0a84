"""Are a job's files what libvirt is told that they are?

A QEMU that finds they are not does not start, and HTCondor takes the VM universe of the whole
machine out of service for that.

A stranger made the files, so root does not open them: a child that has become the job's user
does.  What keeps it from answering is the job's fault, as that user can end it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import struct
from pathlib import Path
from typing import NoReturn

from vmcapsule.disk.vmdk.format import read_vmdk
from vmcapsule.errors import AdError, DiskError, ToolError, VmCapsuleError, one_line
from vmcapsule.files import open_regular
from vmcapsule.slot.libvirt.asked import Asked, AskedDisk

#: A look takes milliseconds; the disks may lie on a file system that is slow, or gone.
LOOK_TIMEOUT_S = 20.0
_CPU_S = 10
_ANSWER_BYTES_MAX = 1000
_FINE, _OF_JOB, _OF_HOST = b"+", b"j", b"h"
#: Magic, version, place of the backing file's name (QEMU's docs/interop/qcow2.txt).
_QCOW2 = struct.Struct(">4sIQ")
#: Where Linux's boot protocol has its magic (Documentation/arch/x86/boot.rst).
_KERNEL_MAGIC_AT, _KERNEL_MAGIC = 0x202, b"HdrS"
#: A kernel that was unpacked, 64 bits.
_ELF = b"\x7fELF\x02"


def check_forms(asked: Asked, folder: Path, uid: int, gid: int) -> None:
    """Raise `AdError` unless each disk is of its form, and the kernel a kernel.

    `ToolError` where the job's user cannot get at the folder at all.
    """
    reads, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        _look_and_end(asked, folder, (uid, gid), says)
    os.close(says)
    answer = b""
    try:
        if select.select([reads], [], [], LOOK_TIMEOUT_S)[0]:
            answer = os.read(reads, _ANSWER_BYTES_MAX)
    finally:
        os.close(reads)
        # Not waited for yet, its number is its own.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    reason = answer[1:].decode(errors="replace")
    if answer[:1] == _OF_HOST:
        raise ToolError(reason)
    if answer[:1] != _FINE:
        raise AdError(reason or "nobody could look at the job's disks in time")


def _look_and_end(asked: Asked, folder: Path, user: tuple[int, int], says: int) -> NoReturn:
    """What the child does: it never goes on with what its parent was about to do."""
    answer = b""
    try:
        _become(*user)
        answer = _look(asked, folder)
    finally:
        with contextlib.suppress(OSError):
            os.write(says, answer[:_ANSWER_BYTES_MAX])
        os._exit(0)


def _become(uid: int, gid: int) -> None:
    if os.geteuid() == 0:
        os.setgroups([gid])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))


def _look(asked: Asked, folder: Path) -> bytes:
    try:
        (folder / ".").stat()
    except OSError as error:
        return _OF_HOST + f"the job's user cannot get into '{folder}': {error}".encode()
    try:
        for disk in asked.disks:
            _LOOKS[disk.form](folder / disk.name, disk)
        if asked.kernel:
            _look_at_kernel(folder / asked.kernel)
    except (VmCapsuleError, OSError) as error:
        return _OF_JOB + one_line(str(error)).encode(errors="replace")
    return _FINE


def _look_at_vmdk(path: Path, disk: AskedDisk) -> None:
    if read_vmdk(path).form == "streamOptimized" and disk.writable:
        raise DiskError(f"'{path}' is compressed, and QEMU does not write to it")


def _look_at_qcow2(path: Path, disk: AskedDisk) -> None:
    head = _read(path, 0, _QCOW2.size)
    if len(head) < _QCOW2.size or head[:4] != b"QFI\xfb":
        raise DiskError(f"'{path}' is no qcow2 disk")
    _, version, backing_at = _QCOW2.unpack(head)
    if version not in (2, 3) or backing_at:
        raise DiskError(f"'{path}' is a qcow2 disk of version {version}, or has another below")


def _look_at_raw(path: Path, disk: AskedDisk) -> None:
    """Any bytes are one, which the user may read."""
    _read(path, 0, 1)


def _look_at_kernel(path: Path) -> None:
    packed = _read(path, _KERNEL_MAGIC_AT, len(_KERNEL_MAGIC)) == _KERNEL_MAGIC
    if not packed and _read(path, 0, len(_ELF)) != _ELF:
        raise DiskError(f"'{path}' is no kernel of Linux's for x86")


def _read(path: Path, at: int, size: int) -> bytes:
    fd = open_regular(path)
    try:
        return os.pread(fd, size, at)
    finally:
        os.close(fd)


_LOOKS = {"vmdk": _look_at_vmdk, "qcow2": _look_at_qcow2, "raw": _look_at_raw}
