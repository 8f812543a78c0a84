"""The one file that is shipped with a routed job: this package as a runnable archive.

An execute point has a copy of it too, with which its startd probes the machine.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
import zipfile
from pathlib import Path
from typing import Optional

from vmcapsule.accelerator import PROBE_KERNEL
from vmcapsule.errors import SpaceError

PROGRAM = "vmcapsule-execute.pyz"
#: Where an execute point has it, unless its administrator says otherwise.
PROGRAM_HOME = Path("/usr/local/libexec") / PROGRAM
_SHEBANG = b"#!/usr/bin/env python3\n"
_ENTRY = "entry.py"
#: Not needed where capsules are only booted.
_LEFT_OUT = ("images",)


def write_program(folder: Path) -> Path:
    """Write `PROGRAM` into ``folder``: Python's standard library is all that it needs.

    The same sources give the same bytes (the format is zipapp's, PEP 441).
    """
    target = folder / PROGRAM
    target.write_bytes(_archive(None))
    target.chmod(0o755)
    return target


def write_probe(target: Path, kernel: Optional[Path]) -> None:
    """Write the same program as ``target``, with the kernel that it tries KVM with.

    Raises `SpaceError` where it cannot be written or the kernel not be read.
    """
    try:
        data = _archive(kernel.read_bytes() if kernel else None)
        fd, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        aside = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            aside.chmod(0o755)
            aside.replace(target)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SpaceError(
            f"cannot write the program '{target}': {error.strerror or error}",
            "name a file in a folder that you may write to",
        ) from error


def _archive(kernel: Optional[bytes]) -> bytes:
    package = Path(__file__).resolve().parent
    data = io.BytesIO()
    data.write(_SHEBANG)
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(package.rglob("*.py")):
            inner = path.relative_to(package)
            if inner.parts[0] not in _LEFT_OUT:
                _add(archive, f"vmcapsule/{inner.as_posix()}", path.read_bytes())
        _add(archive, "__main__.py", (package / _ENTRY).read_bytes())
        if kernel is not None:
            _add(archive, f"vmcapsule/{PROBE_KERNEL}", kernel)
    return data.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data)
