"""``vmcapsule template check``: will this template work, ours or one made by hand?"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

from vmcapsule.config import Config
from vmcapsule.contract import INIT_SCRIPT, RECORD_DIR
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.disk import Disk
from vmcapsule.disk.empty_disk import LABEL
from vmcapsule.disk.extents import write_extents
from vmcapsule.disk.new_disk import NewDisk, alike
from vmcapsule.errors import (
    ConfigError,
    DiskError,
    GuestError,
    GuestTimeout,
    TemplateError,
    VmCapsuleError,
)
from vmcapsule.guest.work_disk import FROM_BYTES
from vmcapsule.named import NamedTuple
from vmcapsule.resources import resource
from vmcapsule.template.tarball import is_in, tarball_of
from vmcapsule.template.template import CONDOR, Template, load
from vmcapsule.vm import accelerator
from vmcapsule.vm.boot import Machine, boot

OK, WARNING, ERROR = "ok", "warning", "error"
PROBE_RECORD = RECORD_DIR + "/probe.json"
PROBE_BYTES_MAX = 1 << 16
#: Less than this leaves no room for an HTCondor and a job's files.
FREE_BYTES_MIN = 256 << 20
MEMORY_MIB = 512
BOOT_TIMEOUT_S = 300.0
PYTHON_MIN = (3, 6)

Progress = Callable[[str], None]


class Finding(NamedTuple):
    """One thing looked at: ``level`` is 'ok', 'warning' or 'error'; the remedy may be ''."""

    level: str
    text: str
    remedy: str = ""


def check_template(config: Config, *, boot: bool, progress: Progress) -> List[Finding]:
    """Look at the template that the configuration names; nothing of it is changed.

    With ``boot`` a copy is started with a script that reports from inside.  What is wrong
    with the template is found, not raised; raised is what keeps us from looking
    (`ToolError`, `SpaceError`).
    """
    progress("looking at the files")
    try:
        template = load(config.template)
    except TemplateError as error:
        return [_wrong(error)]
    findings = [Finding(OK, f"{template.vmx} names {_names(template)}")]
    findings += _check_kernel(template)
    findings += _check_condor(template, config)
    config.scratch_dir_prefix.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="template-check-", dir=config.scratch_dir_prefix
    ) as name:
        scratch = Path(name)
        findings += _check_disks(template)
        progress("looking at the data disk")
        findings += _check_data(template, config.disk_part_offset_bytes, scratch)
        if any(finding.level == ERROR for finding in findings):
            return findings
        if not boot:
            return [*findings, _unknown()]
        progress("booting a copy of it")
        findings += _check_boot(template, config, scratch)
    return findings


def _names(template: Template) -> str:
    disks = [template.system_disk, *template.other_disks, template.data_disk]
    return ", ".join(f"'{disk.name}'" for disk in disks)


def _unknown() -> Finding:
    return Finding(
        WARNING,
        "whether the machine mounts the data disk, invokes the init script, has Python 3.6 "
        "and a user 'condor', and powers off is known only by booting it",
        "check it without --no-boot",
    )


def _wrong(error: VmCapsuleError) -> Finding:
    return Finding(ERROR, error.message, error.remedy)


def _check_kernel(template: Template) -> List[Finding]:
    if template.kernel is None:
        text = "no kernel beside the disks: it boots from its own boot sector, which is slower"
        return [Finding(OK, text)]
    if not template.cmdline:
        return [
            Finding(
                ERROR,
                f"{template.kernel} is there, but no template.json with a 'cmdline' for it",
                "remove the kernel, or build the template again",
            )
        ]
    initrd = template.initrd.name if template.initrd else "no initrd"
    return [Finding(OK, f"direct boot: {template.kernel.name}, {initrd}")]


def _check_condor(template: Template, config: Config) -> List[Finding]:
    """Whether jobs find their HTCondor in the template, or have to bring it along."""
    if CONDOR not in template.record:
        text = "no HTCondor in it: each job brings its own, and unpacks it as it starts"
        return [Finding(OK, text)]
    version = condor_version(template)
    if config.condor_tarball is None:
        return [Finding(OK, f"HTCondor {version} in it")]
    try:
        tarball = tarball_of(config)
        if is_in(template, tarball):
            return [Finding(OK, f"HTCondor {version} in it, the one of {tarball.path}")]
    except ConfigError as error:
        return [Finding(WARNING, error.message, error.remedy)]
    text = f"HTCondor {version} in it is not that of {tarball.path}, which jobs bring along"
    return [Finding(WARNING, text, "build the template again: jobs start sooner then")]


def condor_version(template: Template) -> str:
    """The version of the HTCondor in a template, as its record says; "" where none is."""
    held = template.record.get(CONDOR)
    return str(held.get("version", "")) if isinstance(held, dict) else ""


def _check_disks(template: Template) -> List[Finding]:
    findings = []
    for path in (template.system_disk, *template.other_disks, template.data_disk):
        try:
            disk = Disk.at(path)
        except (DiskError, TemplateError) as error:
            findings.append(_wrong(error))
        else:
            size_mib = disk.size_bytes >> 20
            findings.append(Finding(OK, f"{path.name}: {disk.form}, {size_mib} MiB"))
            if path == template.data_disk and disk.form == "streamOptimized":
                text = f"{path.name} is compressed: it is converted anew for each job"
                remedy = "convert it once: 'qemu-img convert -O vmdk', which makes it growable"
                findings.append(Finding(WARNING, text, remedy))
    return findings


def _check_data(template: Template, offset: Optional[int], scratch: Path) -> List[Finding]:
    try:
        with DataDisk(template.data_disk, offset).opened(scratch) as volume:
            free, label, bits = volume.free_bytes, volume.label, volume.bits
            is_dirty, at = volume.dirty, volume.geometry.offset_bytes
    except (DiskError, TemplateError) as error:
        return [_wrong(error)]
    found = f"data partition: FAT{bits} at {at}, {free >> 20} MiB free, label '{label}'"
    findings = [Finding(OK, found)]
    if is_dirty:
        text = "the data partition was not unmounted cleanly"
        findings.append(Finding(WARNING, text, "repair it with fsck.vfat"))
    if free < FREE_BYTES_MIN:
        text = f"the data partition has only {free >> 20} MiB free"
        findings.append(Finding(WARNING, text, "make it larger: jobs' files go there"))
    if template.record and label != LABEL:
        text = f"the data partition's label is '{label}', its system looks for '{LABEL}'"
        findings.append(Finding(WARNING, text, f"label it with 'fatlabel ... {LABEL}'"))
    return findings


def _check_boot(template: Template, config: Config, scratch: Path) -> List[Finding]:
    copy = _with_script(DataDisk(template.data_disk, config.disk_part_offset_bytes), scratch)
    machine = Machine(
        system_disk=template.system_disk,
        data_disk=copy.path,
        cpus=1,
        memory_mib=MEMORY_MIB,
        accelerator=accelerator.choose(template.kernel, config.cache),
        kernel=template.kernel,
        initrd=template.initrd,
        cmdline=template.cmdline,
    )
    console = scratch / "console.log"
    try:
        spent_s = boot(machine, console=console, scratch=scratch, timeout_s=BOOT_TIMEOUT_S)
    except (GuestError, GuestTimeout) as error:
        return [_wrong(error)]
    with copy.opened(scratch) as volume:
        findings = [Finding(OK, f"booted and powered off in {spent_s:.1f} s")]
        if volume.dirty:
            text = "the machine powered off without unmounting the data disk"
            findings.append(Finding(WARNING, text, "let it unmount what it mounted"))
        if volume.lookup(PROBE_RECORD) is None:
            return [*findings, _not_invoked()]
        data = volume.read(PROBE_RECORD, PROBE_BYTES_MAX)
    probe = parse_probe(data)
    wanted = condor_version(template)
    return [*findings, *judge(probe, config.data_disk_mount_point, wanted)]


def _with_script(like: DataDisk, folder: Path) -> DataDisk:
    """A copy of the data disk whose init script reports from inside."""
    script = resource("guest/probe.py").read_bytes()
    copy = like._replace(path=folder / like.path.name)
    with alike(like, like.look().size_bytes, folder) as start:
        disk = NewDisk(start, {INIT_SCRIPT: len(script)})
        with disk.made(copy.path, travels=False) as image:
            write_extents(image, disk.places[INIT_SCRIPT], script)
    return copy


def _not_invoked() -> Finding:
    return Finding(
        ERROR,
        f"the machine did not invoke {INIT_SCRIPT} from the data disk",
        f"let it run 'python3 <mount point>/{INIT_SCRIPT}' as root as it comes up",
    )


def parse_probe(data: bytes) -> Mapping[str, Any]:
    """Return the probe's record with every field of the type it should have.

    Raises `DiskError` where it is not such a record: it comes from a disk that a guest
    wrote to.
    """
    try:
        record = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DiskError(f"{PROBE_RECORD} on the data disk is not JSON") from error
    fields: Dict[str, type] = {
        "python": str,
        "kernel": str,
        "glibc": str,
        "uid": int,
        "condor_user": bool,
        "mount_point": str,
        "fs_type": str,
        "writable_by_all": bool,
        "condor": str,
        "memory_kib": int,
        "free_root_bytes": int,
    }
    for name, kind in fields.items():
        if not isinstance(record, dict) or type(record.get(name)) is not kind:
            raise DiskError(f"{PROBE_RECORD} on the data disk has no valid '{name}'")
    return {name: record[name] for name in fields}


def judge(probe: Mapping[str, Any], mount_point: str, condor: str = "") -> List[Finding]:
    """Say what the probe's record (see `parse_probe`) means for a capsule.

    ``condor`` is the version of HTCondor that the template's record speaks of, if any.
    """
    system = f"kernel {probe['kernel']}, Python {probe['python']}, glibc {probe['glibc']}"
    findings = [Finding(OK, f"inside: {system}, {probe['memory_kib'] >> 10} MiB")]
    if _version(probe["python"]) < PYTHON_MIN:
        text = f"Python {probe['python']} is too old"
        findings.append(Finding(ERROR, text, "install Python 3.6 or newer in it"))
    if probe["uid"] != 0:
        text = f"the init script is run by uid {probe['uid']}"
        findings.append(Finding(ERROR, text, "let it be run by root"))
    if not probe["condor_user"]:
        findings.append(Finding(ERROR, "there is no user 'condor'", "add it: useradd condor"))
    if condor and condor not in probe["condor"].split():
        text = f"HTCondor {condor} is not there, although the template's record says so"
        findings.append(Finding(ERROR, text, "build the template again"))
    if probe["mount_point"] != mount_point:
        findings.append(
            Finding(
                ERROR,
                f"the data disk is mounted at '{probe['mount_point']}', not '{mount_point}'",
                f"set VM_CAPSULE_DATA_DISK_MOUNT_POINT = {probe['mount_point']}",
            )
        )
    if probe["fs_type"] not in ("vfat", "msdos", "fuseblk"):
        text = f"the data disk is mounted as '{probe['fs_type']}'"
        findings.append(Finding(WARNING, text, "mount it as vfat"))
    if not probe["writable_by_all"]:
        text = "the data disk is not writable by all users"
        findings.append(Finding(ERROR, text, "mount it with the option umask=000"))
    if probe["free_root_bytes"] < FROM_BYTES:
        text = (
            f"the machine's root has {probe['free_root_bytes'] >> 20} MiB free, and jobs that "
            f"need up to {FROM_BYTES >> 20} MiB of disk run there"
        )
        findings.append(Finding(WARNING, text, "make it larger"))
    if all(finding.level == OK for finding in findings):
        text = f"data disk at {mount_point}, writable by all; user 'condor' is there"
        findings.append(Finding(OK, text))
    return findings


def _version(text: str) -> tuple[int, ...]:
    parts = [part for part in text.split(".")[:2] if part.isdigit()]
    return tuple(int(part) for part in parts)
