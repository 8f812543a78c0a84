"""The system disk: boot sector, a small FAT partition with the kernel, an ext4 root.

Made in a sparse file without mounting anything: ``mkfs`` with an offset, ``mcopy``, and
syslinux's installer, which all work on files.
"""

from __future__ import annotations

from pathlib import Path
from typing import List

from vmcapsule.disk.mbr import SECTOR_BYTES, Partition, mbr
from vmcapsule.errors import ToolError
from vmcapsule.named import NamedTuple
from vmcapsule.process import Arg, run

MIB = 1 << 20
BOOT_OFFSET_BYTES = MIB
#: Where distributions put syslinux's boot sector code.
_MBR_CODE = (
    "/usr/lib/syslinux/mbr/mbr.bin",
    "/usr/lib/SYSLINUX/mbr.bin",
    "/usr/share/syslinux/mbr.bin",
)
_TYPE_FAT16 = 0x0E
_TYPE_LINUX = 0x83
_TOOL_TIMEOUT_S = 600


class BootFiles(NamedTuple):
    """What the boot partition holds."""

    kernel: bytes
    initrd: bytes
    syslinux_cfg: bytes


def build_system_disk(
    raw: Path, root: Path, files: BootFiles, *, root_size_bytes: int, uuid: str, scratch: Path
) -> None:
    """Write the raw system disk ``raw`` (sparse) with the tree ``root`` on its ext4.

    ``uuid`` becomes the root file system's; ``scratch`` is an empty folder for
    intermediate files.  Raises `ToolError`.
    """
    boot = Partition(BOOT_OFFSET_BYTES, _boot_size_bytes(files), _TYPE_FAT16, active=True)
    system = Partition(boot.offset_bytes + boot.size_bytes, root_size_bytes, _TYPE_LINUX)
    with raw.open("wb") as file:
        # One more MiB than needed: some firmware trims a disk to whole cylinders.
        file.truncate(system.offset_bytes + system.size_bytes + MIB)
        file.write(mbr([boot, system], _mbr_code()))
    _make_boot(raw, boot, files, scratch)
    _make_root(raw, system, root, uuid)


def _boot_size_bytes(files: BootFiles) -> int:
    """A FAT16 needs 4,085 clusters, and there should be room for a second kernel."""
    used = len(files.kernel) + len(files.initrd)
    return max(32, -(-2 * used // MIB) + 4) * MIB


def _make_boot(raw: Path, part: Partition, files: BootFiles, scratch: Path) -> None:
    sectors = part.offset_bytes // SECTOR_BYTES
    run(
        ["mkfs.vfat", "-F", "16", "-n", "CAPSULEBOOT", "-h", str(sectors)]
        + ["--offset", str(sectors), raw, str(part.size_bytes // 1024)],
        timeout_s=_TOOL_TIMEOUT_S,
    )
    image = f"{raw}@@{part.offset_bytes}"
    contents = {
        "vmlinuz": files.kernel,
        "initrd.img": files.initrd,
        "syslinux.cfg": files.syslinux_cfg,
    }
    for name, data in contents.items():
        (scratch / name).write_bytes(data)
        run(["mcopy", "-i", image, scratch / name, f"::{name}"], timeout_s=_TOOL_TIMEOUT_S)
        (scratch / name).unlink()
    run(
        ["syslinux", "--offset", str(part.offset_bytes), "--install", raw],
        timeout_s=_TOOL_TIMEOUT_S,
    )


def _make_root(raw: Path, part: Partition, root: Path, uuid: str) -> None:
    # No journal, no checksums, tables written now: a capsule's disk lives for one job, and
    # the guest should neither initialize nor check anything.
    features = "^has_journal,^metadata_csum,^64bit,^resize_inode"
    extended = f"offset={part.offset_bytes},lazy_itable_init=0,nodiscard"
    command: List[Arg] = ["mkfs.ext4", "-q", "-F", "-d", root, "-U", uuid, "-m", "0"]
    command += ["-L", "CAPSULE-ROOT", "-O", features, "-E", extended]
    command += [raw, f"{part.size_bytes // 1024}k"]
    run(command, timeout_s=_TOOL_TIMEOUT_S)


def _mbr_code() -> bytes:
    for name in _MBR_CODE:
        if Path(name).is_file():
            return Path(name).read_bytes()
    raise ToolError(
        f"syslinux's boot sector is at none of {', '.join(_MBR_CODE)}",
        "install it (on Debian: apt-get install syslinux syslinux-common)",
    )
