"""The one file that execute points get: this package as a runnable archive.

With it a startd probes its machine and fetches templates; it runs jobs that are packed in
their slots, is HTCondor's vm-gahp, and tells libvirt of jobs of the VM universe.
"""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Mapping, Optional

from vmcapsule.atomic import write_file
from vmcapsule.errors import SpaceError
from vmcapsule.guest.script import joined
from vmcapsule.resources import resource

PROGRAM = "vmcapsule-execute.pyz"
#: Where an execute point has it, unless its administrator says otherwise.
PROGRAM_HOME = Path("/usr/local/libexec") / PROGRAM
#: What runs the job in the guest, in the same file.
INIT_SCRIPT = "condor-init.py"
#: Isolated: HTCondor gives root's gahp and script the HOME of a job's owner, whose modules
#: Python would run before our first line.
_SHEBANG = b"#!/usr/bin/env -S python3 -I\n"
_ENTRY = "slot/entry.py"
#: What capsules are booted with; others are for making them, and for access points.
_FOLDERS = (
    *("", "classad/", "disk/", "disk/fat/", "disk/vmdk/", "job/", "template/", "vm/"),
    *("transfer/", "guest/", "capsule/", "slot/"),
    *("slot/gahp/", "slot/libvirt/", "slot/packed/"),
)
#: Not needed where capsules are only booted: a file that is left out need not be read.
_LEFT_OUT = {"__main__.py", "inspection.py", "publish.py", "submit.py"}


def write_program(target: Path, kernel: Optional[Path] = None) -> Path:
    """Write it as ``target``, which is returned, with the kernel that it tries KVM with.

    Python's standard library is all that it needs.  Raises `SpaceError` where it cannot be
    written or the kernel not be read.
    """
    from vmcapsule.vm.accelerator import PROBE_KERNEL

    try:
        members = _sources()
        members[f"vmcapsule/{INIT_SCRIPT}"] = joined(resource(f"guest/{INIT_SCRIPT}"))
        if kernel is not None:
            members[f"vmcapsule/{PROBE_KERNEL}"] = kernel.read_bytes()
        write_file(target, _archive(members), 0o755)
        return target
    except OSError as error:
        raise SpaceError(
            f"cannot write the program '{target}': {error.strerror or error}",
            "name a file in a folder that you may write to",
        ) from error


def _sources() -> dict[str, bytes]:
    package = Path(__file__).resolve().parent.parent
    members = {
        f"vmcapsule/{folder}{path.name}": path.read_bytes()
        for folder in _FOLDERS
        for path in sorted((package / folder).glob("*.py"))
        if path.name not in _LEFT_OUT
    }
    members["__main__.py"] = members[f"vmcapsule/{_ENTRY}"]
    return members


def _archive(members: Mapping[str, bytes]) -> bytes:
    """What Python runs (zipapp, PEP 441); the same sources give the same bytes."""
    import zipfile  # who imports this module for its names needs none

    file = io.BytesIO(_SHEBANG)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        for path, content in members.items():
            # Made on Unix, on the first day that there is.
            member = zipfile.ZipInfo(path)
            member.create_system = 3
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return file.getvalue()
