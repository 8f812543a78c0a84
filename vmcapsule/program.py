"""The one file that is shipped with a routed job: this package as a runnable archive."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

PROGRAM = "vmcapsule-execute.pyz"
_SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = "from vmcapsule.execute import main\n\nraise SystemExit(main())\n"
#: Not needed where capsules are only booted.
_LEFT_OUT = ("images",)


def write_program(folder: Path) -> Path:
    """Write `PROGRAM` into ``folder``: Python's standard library is all that it needs.

    The same sources give the same bytes (the format is zipapp's, PEP 441).
    """
    package = Path(__file__).resolve().parent
    data = io.BytesIO()
    data.write(_SHEBANG)
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(package.rglob("*.py")):
            inner = path.relative_to(package)
            if inner.parts[0] not in _LEFT_OUT:
                _add(archive, f"vmcapsule/{inner.as_posix()}", path.read_text(encoding="utf-8"))
        _add(archive, "__main__.py", _MAIN)
    target = folder / PROGRAM
    target.write_bytes(data.getvalue())
    target.chmod(0o755)
    return target


def _add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, text)
