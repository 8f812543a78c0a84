"""Builds a template VM from Debian packages: boots from its disk and by direct kernel."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence

from vmcapsule.atomic import publish
from vmcapsule.disk.empty_disk import LABEL, build_data_disk
from vmcapsule.disk.fat.format import fat_layout
from vmcapsule.disk.vmdk.vmdk import create_vmdk
from vmcapsule.errors import ToolError, UsageError
from vmcapsule.images.bootdisk import MIB, BootFiles, build_system_disk
from vmcapsule.images.guest_root import GuestRoot, build_guest_root
from vmcapsule.images.initrd import build_initrd
from vmcapsule.images.kernel import vmlinux
from vmcapsule.images.recipe import DEFAULT_KERNEL, Recipe, filled, load_recipe
from vmcapsule.named import NamedTuple
from vmcapsule.process import find
from vmcapsule.template.tarball import HTCondorTarball, described, is_in
from vmcapsule.template.template import (
    CONDOR,
    DATA_DISK,
    FOLDER,
    INITRD,
    KERNEL,
    PLAIN_KERNEL,
    RECIPE,
    RECORD,
    RECORD_FORMAT,
    Template,
    load,
)

GIB = 1 << 30
VMX_NAME = "capsule.vmx"
SYSTEM_DISK = "system.vmdk"
#: Measures against one program spying on another have nothing to protect in a guest that
#: runs one job and is thrown away; watchdogs and timer checks misfire under emulation.
_CMDLINE = (
    "root=UUID=${uuid} rootfstype=ext4 rw vmcapsule.data=LABEL=${label} quiet loglevel=3"
    " 8250.nr_uarts=1 mitigations=off nowatchdog no_timer_check audit=0"
)
#: From its own disk: the console is a screen and the first serial line, a panic stays.
DISK_CMDLINE = _CMDLINE + " edd=off console=tty0 console=ttyS0"
#: Direct boot: a panic ends QEMU (with -no-reboot).  The calls left out prepare tracing,
#: an entropy source's self-test, module signatures: a third of a second under emulation.
DIRECT_CMDLINE = _CMDLINE + (
    " console=ttyS0 panic=-1 initcall_blacklist=jent_mod_init,load_system_certificate_list,"
    "trace_eval_init,bpf_tcp_ca_kfunc_init"
)
_VMX_MEMORY_MIB = 1024
_MOUNT_POINT = re.compile(r"/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*\Z")

_PROGRAMS = ("mmdebstrap", "mkfs.ext4", "mkfs.vfat", "mcopy", "syslinux", "qemu-img", "zstd")

Progress = Callable[[str], None]


class TemplateWish(NamedTuple):
    """What a template should be: see `build_template`."""

    suite: str
    packages: Sequence[str]
    kernel_package: str
    data_size_bytes: int
    data_offset_bytes: int
    root_size_bytes: int
    mount_point: str
    condor: Optional[HTCondorTarball]


def build_template(
    target_root: Path,
    *,
    suite: str = "trixie",
    packages: Sequence[str] = (),
    kernel_package: str = DEFAULT_KERNEL,
    data_size_bytes: int = 4 * GIB,
    data_offset_bytes: int = MIB,
    root_size_bytes: int = 8 * GIB,
    mount_point: str = "/condor-data",
    condor: Optional[HTCondorTarball] = None,
    progress: Progress,
) -> Template:
    """Build ``condor_vm_capsule/`` in ``target_root``, replacing one that is there.

    ``packages`` are added to the recipe's.  With ``condor`` the guest has that HTCondor, and
    jobs need not bring it.  The disks' sizes are what the guest sees;
    on the host they are sparse.  ``progress`` is told of each step in a few words.  The
    work is done in a folder beside the target, which is removed whatever happens, and
    the result renamed into place.  Raises `UsageError`, `ToolError`, `TemplateError`.
    """
    wish = TemplateWish(
        suite,
        packages,
        kernel_package,
        data_size_bytes,
        data_offset_bytes,
        root_size_bytes,
        mount_point,
        condor,
    )
    if not _MOUNT_POINT.match(mount_point) or ".." in mount_point.split("/"):
        raise UsageError(
            f"the mount point '{mount_point}' is not a plain absolute path",
            "fix VM_CAPSULE_DATA_DISK_MOUNT_POINT, as in /condor-data",
        )
    fat_layout(data_offset_bytes, data_size_bytes - data_offset_bytes)
    _check_machine()
    target_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".template-", dir=target_root) as name:
        scratch = Path(name)
        _build(scratch, wish, progress)
        # One that cannot be read replaces none that can.
        load(scratch)
        _publish(scratch / FOLDER, target_root / FOLDER, scratch / "old")
    return load(target_root)


def _check_machine() -> None:
    """Find what is missing before minutes are spent; raises `ToolError`."""
    for program in _PROGRAMS:
        find(program)
    if not Path("/proc/self/fd").is_dir():
        raise ToolError(
            "/proc is not mounted here, and syslinux's installer needs it",
            "mount it: mount -t proc proc /proc",
        )


def _build(scratch: Path, wish: TemplateWish, progress: Progress) -> None:
    recipe = load_recipe(wish.kernel_package)
    folder = scratch / FOLDER
    folder.mkdir(mode=0o755)
    progress(f"installing Debian {wish.suite} packages")
    guest = build_guest_root(
        scratch / "root",
        recipe,
        suite=wish.suite,
        packages=wish.packages,
        mount_point=wish.mount_point,
        condor=wish.condor,
    )
    progress("making the initrd")
    busybox = (guest.folder / "usr/bin/busybox").read_bytes()
    initrd = build_initrd(guest.modules, busybox, recipe.initrd_init, recipe.modules)
    (folder / INITRD).write_bytes(initrd)
    # Moved: on its root the guest never needs it, and each slot would be sent it.
    shutil.move(guest.kernel_image, folder / KERNEL)
    plain = vmlinux((folder / KERNEL).read_bytes())
    if plain is not None:
        (folder / PLAIN_KERNEL).write_bytes(plain)
    root_uuid = str(uuid.uuid4())
    progress("making the system disk")
    _system_disk(scratch, recipe, guest, root_uuid, wish.root_size_bytes)
    progress("making the data disk")
    raw = scratch / "data.raw"
    build_data_disk(raw, size_bytes=wish.data_size_bytes, offset_bytes=wish.data_offset_bytes)
    create_vmdk(raw, folder / DATA_DISK, "monolithicFlat")
    raw.unlink()
    (folder / VMX_NAME).write_text(_vmx(recipe))
    record = _record(wish, recipe, guest, _cmdline(DIRECT_CMDLINE, root_uuid))
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def _system_disk(
    scratch: Path, recipe: Recipe, guest: GuestRoot, root_uuid: str, root_size_bytes: int
) -> None:
    folder = scratch / FOLDER
    cmdline = _cmdline(DISK_CMDLINE, root_uuid)
    files = BootFiles(
        kernel=(folder / KERNEL).read_bytes(),
        initrd=(folder / INITRD).read_bytes(),
        syslinux_cfg=filled(recipe.syslinux, {"cmdline": cmdline}).encode(),
    )
    raw = scratch / "system.raw"
    build_system_disk(
        raw,
        guest.folder,
        files,
        root_size_bytes=root_size_bytes,
        uuid=root_uuid,
        scratch=scratch,
    )
    create_vmdk(raw, folder / SYSTEM_DISK, "monolithicSparse")
    raw.unlink()


def _cmdline(text: str, root_uuid: str) -> str:
    return filled(text, {"uuid": root_uuid, "label": LABEL})


def _vmx(recipe: Recipe) -> str:
    values = {
        "name": FOLDER,
        "memory_mib": str(_VMX_MEMORY_MIB),
        "cpus": "1",
        "system_disk": SYSTEM_DISK,
        "data_disk": DATA_DISK,
    }
    return filled(recipe.vmx, values)


def is_current(template: Template, condor: Optional[HTCondorTarball]) -> bool:
    """Whether a template has today's recipe, and this HTCondor in it."""
    if template.record.get(RECIPE) != _digest(load_recipe()):
        return False
    return CONDOR not in template.record if condor is None else is_in(template, condor)


def _digest(recipe: Recipe) -> str:
    return hashlib.sha256(repr((recipe, DISK_CMDLINE, DIRECT_CMDLINE)).encode()).hexdigest()


def _record(
    wish: TemplateWish, recipe: Recipe, guest: GuestRoot, cmdline: str
) -> Mapping[str, object]:
    return {
        "format": RECORD_FORMAT,
        RECIPE: _digest(recipe),
        **({CONDOR: described(wish.condor)} if wish.condor else {}),
        "suite": wish.suite,
        "kernel": guest.kernel,
        "python": guest.python,
        "glibc": guest.glibc,
        "packages": list(guest.packages),
        "cmdline": cmdline,
        "mount_point": wish.mount_point,
        "data_offset_bytes": wish.data_offset_bytes,
        "data_size_bytes": wish.data_size_bytes,
        "built_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _publish(new: Path, target: Path, old: Path) -> None:
    """Put ``new`` at ``target``; what was there goes to ``old``, or back on failure."""
    if target.exists():
        target.rename(old)
    try:
        publish(new, target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
