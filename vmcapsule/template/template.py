"""A template VM: the folder that capsules are made from.

``VM_CAPSULE_TEMPLATE`` names a folder; in it, ``condor_vm_capsule/`` holds one ``.vmx``,
the disks that it names, among them ``data.vmdk``, and optionally a kernel, an initrd and
our own record.  A hand-made template has the first two and boots from its boot sector.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, Mapping, NoReturn, Optional, Tuple

from vmcapsule.errors import TemplateError
from vmcapsule.named import NamedTuple

FOLDER = "condor_vm_capsule"
DATA_DISK = "data.vmdk"
KERNEL = "vmlinuz"
#: The same kernel, not compressed: QEMU starts it a second sooner under emulation.
PLAIN_KERNEL = "vmlinux"
INITRD = "initrd.img"
RECORD = "template.json"
#: In the record: which HTCondor is unpacked in the system disk (`vmcapsule.template.tarball`).
CONDOR = "condor"
#: In the record: the digest of the recipe that it was built from.
RECIPE = "recipe"
#: The version of `RECORD` that this code writes, and the newest it reads.
RECORD_FORMAT = 1
#: A .vmx is a few KiB and a record smaller; anything larger is not one.
TEXT_BYTES_MAX = 1 << 20

_REMEDY = "build it with 'vmcapsule template build' or fix VM_CAPSULE_TEMPLATE"
_ESCAPED = r"\|([0-9A-Fa-f]{2})"
_VMX_DISK = re.compile(r"^(ide|scsi|sata|nvme)(\d+):(\d+)\.filename$")
#: The order in which a machine's firmware looks for a disk to boot from.
_BUSES = ("ide", "scsi", "sata", "nvme")


class Template(NamedTuple):
    """One template VM, its files found.

    ``vmx`` and the disks lie in ``folder``.  ``kernel`` and ``initrd`` are None where the
    template boots from its boot sector only; ``cmdline`` is the kernel's then unused
    command line.  ``record`` is what ``template.json`` says, empty for a hand-made one.
    """

    folder: Path
    vmx: Path
    system_disk: Path
    other_disks: Tuple[Path, ...]
    data_disk: Path
    kernel: Optional[Path]
    initrd: Optional[Path]
    cmdline: str
    record: Mapping[str, Any]


def load(template_root: Path) -> Template:
    """Find the template under ``template_root``, the value of ``VM_CAPSULE_TEMPLATE``.

    Nothing is opened but the .vmx and the record.  Raises `TemplateError` that names the
    template, what is missing or wrong, and the remedy.
    """
    name = template_root.name
    folder = template_root / FOLDER
    if not folder.is_dir():
        _fail(name, f"no folder {folder}", _REMEDY)
    vmx = _only_vmx(name, folder)
    disks = _disks(name, folder, vmx)
    others = tuple(disk for disk in disks if disk.name != DATA_DISK)
    if not others:
        _fail(name, f"{vmx} names no disk but {DATA_DISK}", "add the disk it boots from")
    record = _record(name, folder)
    kernels = [path for path in (folder / PLAIN_KERNEL, folder / KERNEL) if path.is_file()]
    initrd = folder / INITRD
    return Template(
        folder=folder,
        vmx=vmx,
        system_disk=others[0],
        other_disks=others[1:],
        data_disk=folder / DATA_DISK,
        kernel=kernels[0] if kernels else None,
        initrd=initrd if initrd.is_file() else None,
        cmdline=record.get("cmdline", ""),
        record=MappingProxyType(record),
    )


def parse_vmx(text: str) -> Dict[str, str]:
    """Return the settings of a .vmx, keys in lower case (VMware ignores their case).

    Lines are ``key = "value"``; comments begin with ``#``; ``|22`` in a value is how
    VMware writes a double quote (any byte: ``|`` and two hexadecimal digits).
    """
    settings: Dict[str, str] = {}
    for line in text.split("\n"):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not key or key.startswith("#") or not equals:
            continue
        if len(value) > 1 and value[0] == value[-1] == '"' and '"' not in value[1:-1]:
            value = value[1:-1]
        if "|" in value:
            value = re.sub(_ESCAPED, lambda code: chr(int(code.group(1), 16)), value)
        settings[key.lower()] = value
    return settings


def vmx_disks(settings: Mapping[str, str]) -> Tuple[str, ...]:
    """Return the file names of the hard disks in a .vmx, in the firmware's boot order.

    Devices that are not present and CD-ROM drives are left out.
    """
    found = []
    for key, value in settings.items():
        match = _VMX_DISK.match(key)
        if not match:
            continue
        device = key[: -len(".filename")]
        if settings.get(f"{device}.present", "TRUE").upper() != "TRUE":
            continue
        if "cdrom" in settings.get(f"{device}.devicetype", "").lower():
            continue
        bus, controller, unit = match.groups()
        found.append((_BUSES.index(bus), int(controller), int(unit), value))
    return tuple(value for _, _, _, value in sorted(found))


def _only_vmx(name: str, folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".vmx")
    if not found:
        _fail(name, f"no .vmx file in {folder}", _REMEDY)
    if len(found) > 1:
        names = ", ".join(f"'{path.name}'" for path in found)
        _fail(name, f"more than one .vmx file in {folder}: {names}", "leave only one of them")
    return found[0]


def _disks(name: str, folder: Path, vmx: Path) -> Tuple[Path, ...]:
    names = vmx_disks(parse_vmx(_text(name, vmx)))
    for disk in names:
        if "/" in disk or "\\" in disk or disk in ("", ".", ".."):
            _fail(
                name,
                f"{vmx} names the disk '{disk}', which is not a plain file name",
                f"move the disk into {folder} and name it without a folder",
            )
        if not (folder / disk).is_file():
            _fail(name, f"no disk at {folder / disk}", _REMEDY)
    if not (folder / DATA_DISK).is_file():
        _fail(name, f"no disk at {folder / DATA_DISK}", _REMEDY)
    if DATA_DISK not in names:
        _fail(
            name,
            f"{vmx} does not name {DATA_DISK} among its disks",
            f"add {DATA_DISK} to the virtual machine as a hard disk",
        )
    return tuple(folder / disk for disk in names)


def _record(name: str, folder: Path) -> Dict[str, Any]:
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        record = json.loads(_text(name, path))
    except (ValueError, RecursionError) as error:
        _fail(name, f"{path} is not JSON ({error})", "build the template again")
    if not isinstance(record, dict) or not isinstance(record.get("cmdline", ""), str):
        _fail(name, f"{path} is not a template's record", "build the template again")
    version = record.get("format")
    if version != RECORD_FORMAT:
        _fail(
            name,
            f"{path} has format {version!r}, this vmcapsule reads {RECORD_FORMAT}",
            "build the template again with this vmcapsule",
        )
    return record


def _text(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(TEXT_BYTES_MAX + 1)
    except OSError as error:
        _fail(name, f"{path} cannot be read: {error.strerror}", "make it readable for you")
    if len(data) > TEXT_BYTES_MAX:
        _fail(name, f"{path} is larger than {TEXT_BYTES_MAX} bytes", _REMEDY)
    return data.decode("utf-8", errors="surrogateescape")


def _fail(name: str, message: str, remedy: str) -> NoReturn:
    raise TemplateError(f"template '{name}': {message}", remedy)
