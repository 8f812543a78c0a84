"""The one file that is shipped with a routed job: this package as a runnable archive.

An execute point has a copy of it too, with which its startd probes the machine, and which
tells libvirt of jobs of the VM universe.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
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


def write_program(folder: Path) -> Path:
    """Write `PROGRAM` into ``folder``: Python's standard library is all that it needs.

    The same sources give the same bytes (the format is zipapp's, PEP 441).  Not compressed:
    that would take a good part of a hook's time, and saves little of what travels.
    """
    target = folder / PROGRAM
    target.write_bytes(_archive(_sources(), compressed=False))
    target.chmod(0o755)
    return target


def write_probe(target: Path, kernel: Optional[Path]) -> None:
    """Write the same program as ``target``, with the kernel that it tries KVM with.

    Raises `SpaceError` where it cannot be written or the kernel not be read.
    """
    from vmcapsule.vm.accelerator import PROBE_KERNEL

    try:
        members = _sources()
        members[f"vmcapsule/{INIT_SCRIPT}"] = joined(resource(f"guest/{INIT_SCRIPT}"))
        if kernel is not None:
            members[f"vmcapsule/{PROBE_KERNEL}"] = kernel.read_bytes()
        write_file(target, _archive(members, compressed=True), 0o755)
    except OSError as error:
        raise SpaceError(
            f"cannot write the program '{target}': {error.strerror or error}",
            "name a file in a folder that you may write to",
        ) from error


def _sources() -> dict[str, bytes]:
    # A hundred files: paths are strings here, for the sake of a hook's time.
    package = str(Path(__file__).resolve().parent.parent)
    members = {}
    for folder in _FOLDERS:
        for name in sorted(os.listdir(f"{package}/{folder}")):  # noqa: PTH208
            if name.endswith(".py") and name not in _LEFT_OUT:
                members[f"vmcapsule/{folder}{name}"] = _read(f"{package}/{folder}{name}")
    members["__main__.py"] = members[f"vmcapsule/{_ENTRY}"]
    return members


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read()


def _archive(members: Mapping[str, bytes], *, compressed: bool) -> bytes:
    """A zip file behind our shebang (APPNOTE 4.3; its offsets count from the very start).

    Python's own module for it takes longer to import than this to run.
    """
    parts, directory, offset = [_SHEBANG], [], len(_SHEBANG)
    for path, content in members.items():
        name, data = path.encode("ascii"), _deflated(content) if compressed else content
        # Version needed, UTF-8 or not, method, time and date: the first day there is.
        common = struct.pack("<HHHHH", 20, 0, 8 if compressed else 0, 0, 0x21)
        common += struct.pack(
            "<IIIHH", zlib.crc32(content), len(data), len(content), len(name), 0
        )
        head = b"PK\3\4" + common + name
        # Made on Unix; no comment, first disk, no attributes but a regular file's mode.
        attributes = struct.pack("<HHHII", 0, 0, 0, (stat.S_IFREG | 0o644) << 16, offset)
        directory.append(b"PK\1\2\x14\x03" + common + attributes + name)
        parts += [head, data]
        offset += len(head) + len(data)
    entries = b"".join(directory)
    count = len(directory)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(entries), offset, 0)
    return b"".join([*parts, entries, end])


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()
