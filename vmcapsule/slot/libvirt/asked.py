"""What a job asks for of its machine: a few plain literals out of an ad that anybody may write.

HTCondor's vm-gahp prints the ad in long form, one attribute a line, and does not escape line
breaks in its strings: what is in there can look like attributes.  Nothing is evaluated, and
a name of ours that comes twice is refused.
"""

from __future__ import annotations

import re
from typing import Dict, Tuple

from vmcapsule.errors import AdError, one_line
from vmcapsule.named import NamedTuple

#: A job's ad has some 10 KB; environments and arguments can make it much longer.
AD_BYTES_MAX = 16 << 20
#: As QEMU's own drivers are called.
FORMS = ("raw", "qcow2", "vmdk")
#: What the route puts in beside HTCondor's own: base names, and the kernel's command line.
KERNEL = "VmCapsuleKernel"
INITRD = "VmCapsuleInitrd"
CMDLINE = "VmCapsuleCmdline"
REQUIRE_KVM = "VmCapsuleRequireKVM"
#: HTCondor's.
NAME = "VMPARAM_VM_NAME"
MEMORY = "JobVMMemory"
CPUS = "JobVM_VCPUS"
DISKS = "VMPARAM_vm_Disk"
NETWORK = "JobVMNetworking"
NETWORK_TYPE = "JobVMNetworkingType"
VNC = "JobVMVNCConsole"
FOLDER = "VM_WORKING_DIR"
_KNOWN = (
    *(KERNEL, INITRD, CMDLINE, REQUIRE_KVM, NAME, MEMORY, CPUS, DISKS),
    *(NETWORK, NETWORK_TYPE, VNC, FOLDER),
)

_MEMORY_MIB_MAX = 64 << 20
#: QEMU's machine `vmcapsule.vm.boot.MACHINE` has no more, and does not start with more.
_CPUS_MAX = 288
_DISKS_MAX = 16
#: Linux reads no more of a command line.
CMDLINE_CHARS_MAX = 2047
#: libvirt makes files of it, whose names may have 255 bytes.
_NAME_CHARS_MAX = 200
_STRING = re.compile(r'"([^"\\]*)"')
_INTEGER = re.compile(r"[0-9]{1,9}", re.ASCII)
#: A name in the job's own folder that no list and no path can be made of.
_BASE_NAME = re.compile(r'(?!\.)[^/:,"\\]{1,200}')
_SHOWN_CHARS = 60


class AskedDisk(NamedTuple):
    """A disk by its base name in the job's folder; ``form`` is one of `FORMS`."""

    name: str
    writable: bool
    form: str


class Asked(NamedTuple):
    """The machine that a job wants.  Files by base name; empty: there is none."""

    #: By which vm-gahp finds it again.
    name: str
    #: The job's folder, as vm-gahp takes it to be.
    folder: str
    memory_mib: int
    cpus: int
    disks: Tuple[AskedDisk, ...]
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    network: bool = False
    vnc: bool = False
    require_kvm: bool = False

    @property
    def files(self) -> Tuple[str, ...]:
        """All files of the job's folder that the machine is given."""
        boot = (self.kernel, self.initrd)
        return (*(disk.name for disk in self.disks), *(name for name in boot if name))


def read_asked(ad: bytes) -> Asked:
    """Read an ad as vm-gahp prints it.  Raises `AdError` for what is not served, naming it."""
    if len(ad) > AD_BYTES_MAX:
        raise AdError(f"the job's ad has more than {AD_BYTES_MAX} bytes")
    said = _literals(ad.decode("utf-8", errors="replace"))
    asked = Asked(
        name=_name(said),
        folder=_string(said, FOLDER),
        memory_mib=_integer(said, MEMORY, _MEMORY_MIB_MAX),
        cpus=_integer(said, CPUS, _CPUS_MAX),
        disks=_disks(said),
        kernel=_file(said, KERNEL),
        initrd=_file(said, INITRD),
        cmdline=_cmdline(said),
        network=_boolean(said, NETWORK),
        vnc=_boolean(said, VNC),
        require_kvm=_boolean(said, REQUIRE_KVM),
    )
    if asked.network and _string(said, NETWORK_TYPE).lower() != "nat":
        raise _refused(said, NETWORK_TYPE, 'a network other than "nat"')
    if not asked.kernel and (asked.initrd or asked.cmdline):
        raise AdError(f"{INITRD} and {CMDLINE} need {KERNEL}")
    return asked


def _literals(text: str) -> Dict[str, str]:
    """The text of each attribute of ours, by name as we spell it."""
    ours = {name.lower(): name for name in _KNOWN}
    found: Dict[str, str] = {}
    for line in text.split("\n"):
        left, equals, right = line.partition("=")
        name = ours.get(left.strip().lower())
        if name is None or not equals:
            continue
        if name in found:
            raise AdError(f"the job's ad has {name} twice")
        found[name] = right.strip()
    return {name: value for name, value in found.items() if value.lower() != "undefined"}


def _string(said: Dict[str, str], name: str) -> str:
    if name not in said:
        return ""
    match = _STRING.fullmatch(said[name])
    if match is None or not match.group(1).isprintable():
        raise _refused(said, name, "no plain string")
    return match.group(1)


def _integer(said: Dict[str, str], name: str, maximum: int) -> int:
    text = said.get(name, "")
    number = int(text) if _INTEGER.fullmatch(text) else 0
    if not 1 <= number <= maximum:
        raise _refused(said, name, f"no number from 1 to {maximum}")
    return number


def _boolean(said: Dict[str, str], name: str) -> bool:
    text = said.get(name, "false").lower()
    if text not in ("true", "false"):
        raise _refused(said, name, "neither true nor false")
    return text == "true"


def _name(said: Dict[str, str]) -> str:
    name = _string(said, NAME)
    if not 1 <= len(name) <= _NAME_CHARS_MAX or "/" in name or name.startswith("."):
        raise _refused(said, NAME, "no name of a machine")
    return name


def _file(said: Dict[str, str], name: str) -> str:
    file = _string(said, name)
    if file and not _BASE_NAME.fullmatch(file):
        raise _refused(said, name, "no name of a file in the job's folder")
    return file


def _cmdline(said: Dict[str, str]) -> str:
    text = _string(said, CMDLINE)
    if len(text) > CMDLINE_CHARS_MAX or not text.isascii():
        raise _refused(said, CMDLINE, "no command line of a kernel")
    return text


def _disks(said: Dict[str, str]) -> Tuple[AskedDisk, ...]:
    """Disks in HTCondor's own notation: ``file:device:permission:format``, by commas.

    The device's name is not looked at: it follows from the place in the list.
    """
    items = _string(said, DISKS).split(",")
    disks = tuple(_disk(said, item) for item in items[: _DISKS_MAX + 1])
    if len(disks) > _DISKS_MAX:
        raise _refused(said, DISKS, f"more than {_DISKS_MAX} disks")
    if len({disk.name for disk in disks}) < len(disks):
        raise _refused(said, DISKS, "the same file twice")
    return disks


def _disk(said: Dict[str, str], item: str) -> AskedDisk:
    parts = [part.strip() for part in item.split(":")]
    name, _, permission, form = parts if len(parts) == 4 else ("", "", "", "")
    writable = _PERMISSIONS.get(permission)
    if not _BASE_NAME.fullmatch(name) or writable is None or form not in FORMS:
        raise _refused(
            said, DISKS, f"no list of NAME:DEVICE:PERMISSION:FORMAT (one of {', '.join(FORMS)})"
        )
    return AskedDisk(name, writable, form)


_PERMISSIONS = {"r": False, "w": True, "rw": True}


def _refused(said: Dict[str, str], name: str, what: str) -> AdError:
    return AdError(f"{name} = {one_line(said.get(name, 'undefined'), _SHOWN_CHARS)}: {what}")
