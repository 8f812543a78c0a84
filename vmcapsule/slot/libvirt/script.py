"""LIBVIRT_XML_SCRIPT: root is sent a job's ad, and prints the document for libvirt.

It never fails: of a script that does HTCondor's vm-gahp thinks nothing, and makes a document
of its own, which trusts the ad.  So what cannot be served becomes a document that libvirt
rejects.  What is written on stderr is in VM_GAHP_LOG.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pkgutil
import pwd
import re
import resource
import stat
import sys
from pathlib import Path
from typing import BinaryIO, List, Mapping, Optional, Sequence, Tuple

from vmcapsule.atomic import write_file
from vmcapsule.errors import AdError, ConfigError, ToolError, one_line
from vmcapsule.slot.libvirt.asked import AD_BYTES_MAX, Asked, read_asked
from vmcapsule.slot.libvirt.disks import check_forms
from vmcapsule.slot.libvirt.domain import Host, domain, refusal
from vmcapsule.vm import accelerator

#: What a machine remembers of whether KVM works.
CACHE = Path("/var/cache/vmcapsule")
#: libvirt's own: its configuration, where its QEMUs have to get at secrets of theirs, and
#: where it logs.
QEMU_CONF = Path("/etc/libvirt/qemu.conf")
QEMU_HOME = Path("/var/lib/libvirt/qemu")
LOGS = Path("/var/log/libvirt/qemu")
_HANDLER = re.compile(rb"^[ \t]*stdio_handler[ \t]*=[ \t]*([^ \t\r\n]*)", re.MULTILINE)
_CONF_BYTES_MAX = 1 << 20
_CHUNK_BYTES = 1 << 16
_READ_WRITE = 0o6


def main(arguments: Sequence[str]) -> int:
    """Print the document for the job on standard input; ``arguments`` are root's own."""
    try:
        # A QEMU that fails as KVM is tried leaves nothing in the job's folder.
        os.chdir("/")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # All of it is read, or vm-gahp would fail to write.
        ad = _read(sys.stdin.buffer)
        printed = document(ad, arguments, os.environ)
    except AdError as error:
        printed = _refused(error, of_job=True)
    except Exception as error:
        # Whatever it is: see above.
        printed = _refused(error, of_job=False)
    print(printed, flush=True)
    return 0


def _refused(error: BaseException, *, of_job: bool) -> str:
    reason = str(error) or type(error).__name__
    _tell(f"the job gets no machine: {reason}")
    return refusal(reason, of_job=of_job)


def document(ad: bytes, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The document for a job's ad; `AdError` is the job's fault, all else the machine's."""
    vnc = _vnc(arguments)
    folder, uid, gid = _owner(environment)
    _check_open(QEMU_HOME)
    asked = read_asked(ad)
    check_files(asked, folder, uid)
    check_forms(asked, folder, uid, gid)
    group = kvm_group(uid, gid) if kvm_works() else None
    if asked.require_kvm and group is None:
        raise AdError("the job requires KVM, and here its guest would be emulated")
    console = LOGS / f"{asked.name}.console.log" if is_bounded(QEMU_CONF) else None
    host = Host(folder, uid, gid if group is None else group, group is not None, console, vnc)
    return domain(asked, host)


def _check_open(home: Path) -> None:
    """Raise `ToolError` where a QEMU that is the job's user could not get into ``home``."""
    if home.is_dir() and not home.stat().st_mode & stat.S_IXOTH:
        raise ToolError(
            f"QEMU runs as the job's user, who cannot get into '{home}'", f"chmod o+x {home}"
        )


def _read(stream: BinaryIO) -> bytes:
    """All that is sent, but no more kept than tells that it is too long."""
    data = bytearray()
    while True:
        more = stream.read(_CHUNK_BYTES)
        if not more:
            return bytes(data)
        data += more[: AD_BYTES_MAX + 1 - len(data)]


def _vnc(arguments: Sequence[str]) -> Optional[str]:
    """The address in ``vnc=ADDRESS``, the one argument that there is."""
    if not arguments:
        return None
    name, equals, address = arguments[0].partition("=")
    if len(arguments) > 1 or (name, equals) != ("vnc", "="):
        raise ConfigError(
            f"LIBVIRT_XML_SCRIPT_ARGS: '{' '.join(arguments)}' is not understood",
            "write 'vnc=' and an address, or nothing, behind 'libvirt-xml'",
        )
    return str(ipaddress.ip_address(address))


def _owner(environment: Mapping[str, str]) -> Tuple[Path, int, int]:
    """The job's folder and its user, as HTCondor's starter says and the folder shows."""
    folder = Path(environment["VMGAHP_WORKING_DIR"])
    uid, gid = (int(environment[f"VMGAHP_USER_{what}"]) for what in ("UID", "GID"))
    about = folder.lstat()
    if not folder.is_absolute() or not stat.S_ISDIR(about.st_mode):
        raise ToolError(f"'{folder}' is not a job's folder")
    if uid <= 0 or gid <= 0 or about.st_uid != uid:
        raise ToolError(f"'{folder}' belongs to user {about.st_uid}, the job to user {uid}")
    return folder, uid, gid


def check_files(asked: Asked, folder: Path, uid: int) -> None:
    """Raise `AdError` unless each file is one of the job's own, in its own folder.

    QEMU opens them later, as that user: what is put in their places meanwhile is for that
    user to open as well.
    """
    # vm-gahp believes the ad, in which the job may have said so itself.
    if asked.folder != str(folder):
        raise AdError(f"the job's folder is '{folder}', and its ad says '{asked.folder}'")
    for name in asked.files:
        try:
            about = (folder / name).lstat()
        except OSError as error:
            raise AdError(f"the job's file '{name}': {error.strerror}") from error
        if not stat.S_ISREG(about.st_mode) or about.st_uid != uid or about.st_nlink != 1:
            raise AdError(f"'{name}' is not a file of the job's own")


def is_bounded(conf: Path) -> bool:
    """Does libvirt's virtlogd write the files of consoles here, as by default?

    It begins them anew when they are large; nobody else does.
    """
    try:
        with conf.open("rb") as file:
            return {*_HANDLER.findall(file.read(_CONF_BYTES_MAX))} <= {b'"logd"'}
    except FileNotFoundError:
        return True


def kvm_group(uid: int, gid: int) -> Optional[int]:
    """The group with which a user may use KVM: the job's own, or else the device's."""
    try:
        about = accelerator.DEVICE.stat()
    except OSError:
        return None
    mode = about.st_mode
    if mode & _READ_WRITE == _READ_WRITE:
        return gid
    if mode >> 3 & _READ_WRITE == _READ_WRITE:
        return gid if about.st_gid in _groups(uid, gid) else about.st_gid
    return None


def _groups(uid: int, gid: int) -> List[int]:
    """The groups that libvirt has QEMU in."""
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]


def kvm_works() -> bool:
    """Was a guest seen to run with KVM?  Tried once after each start of the machine."""
    try:
        kernel = _kernel()
        # The environment's temporary files lie in the job's folder, where a link could wait.
        return accelerator.choose(kernel, CACHE, aside=CACHE) == accelerator.KVM
    except (OSError, ToolError) as error:
        _tell(f"KVM was not tried, so guests are emulated: {error}")
        return False


def _kernel() -> Path:
    """The kernel that this program brings along to try KVM with, as a file."""
    data = None
    with contextlib.suppress(OSError):
        data = pkgutil.get_data("vmcapsule", accelerator.PROBE_KERNEL)
    if data is None:
        raise ToolError("this program was written without a kernel to try KVM with")
    path = CACHE / accelerator.PROBE_KERNEL
    if not path.is_file() or path.stat().st_size != len(data):
        CACHE.mkdir(parents=True, exist_ok=True)
        write_file(path, data, 0o644)
    return path


def _tell(what: str) -> None:
    print(f"vmcapsule: {one_line(what)}", file=sys.stderr, flush=True)
