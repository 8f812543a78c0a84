"""The initrd: a cpio archive with busybox, our init and the drivers of the disks.

It is left uncompressed: the boot loader or QEMU copies it at memory speed, while
decompression would run inside the guest, under emulation at a fraction of that.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import List, Sequence, Tuple

from vmcapsule.images.modules import (
    ModuleWish,
    coldplug_script,
    module_bytes,
    read_index,
    wanted,
)
from vmcapsule.named import NamedTuple

_FOLDERS = ("bin", "dev", "modules", "proc", "root", "sys")
#: busybox's programs that initrd-init calls by name.
_APPLETS = ("findfs", "insmod", "mount", "poweroff", "sh", "sleep", "switch_root")
_TRAILER = "TRAILER!!!"


class CpioEntry(NamedTuple):
    """One member: ``mode`` with its file type; ``device`` is (major, minor) of a node."""

    path: str
    mode: int
    data: bytes = b""
    device: Tuple[int, int] = (0, 0)


def build_initrd(
    modules: Path, busybox: bytes, init: bytes, wishes: Sequence[ModuleWish]
) -> bytes:
    """Return the initrd for the kernel whose modules lie in ``/lib/modules/<version>``."""
    index = read_index(modules)
    entries = [CpioEntry(name, stat.S_IFDIR | 0o755) for name in _FOLDERS]
    # The kernel opens it for init before anything is mounted.
    entries.append(CpioEntry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    entries.append(CpioEntry("init", stat.S_IFREG | 0o755, init))
    entries.append(CpioEntry("bin/busybox", stat.S_IFREG | 0o755, busybox))
    entries += [CpioEntry(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox") for name in _APPLETS]
    script = coldplug_script(index, wishes).encode()
    entries.append(CpioEntry("coldplug", stat.S_IFREG | 0o644, script))
    for name in wanted(index, wishes):
        data = module_bytes(modules / index.files[name])
        entries.append(CpioEntry(f"modules/{name}.ko", stat.S_IFREG | 0o644, data))
    return cpio(entries)


def cpio(entries: Sequence[CpioEntry]) -> bytes:
    """Return a cpio archive of the 'newc' form, as the kernel's initramfs wants it.

    All owned by root, times zero: the same entries give the same bytes.  Folders must
    come before what is in them.
    """
    parts: List[bytes] = []
    for number, entry in enumerate([*entries, CpioEntry(_TRAILER, 0)], start=1):
        name = entry.path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        fields = [number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0]
        fields += [*entry.device, len(name), 0]
        header = b"070701" + "".join(f"{field:08x}" for field in fields).encode()
        parts += [_padded(header + name), _padded(entry.data)]
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
