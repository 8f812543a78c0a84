"""Where the files that are not Python are found: in a checkout or beside an installation."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from vmcapsule.errors import ToolError


def resource(relative: str) -> Path:
    """Return the path of a data file such as ``guest/condor-init.py``.

    A checkout has them at its top level; an installation under ``share/vmcapsule`` of
    the environment it was installed in.
    """
    homes = [
        Path(__file__).resolve().parent.parent,
        Path(sysconfig.get_path("data")) / "share" / "vmcapsule",
    ]
    for home in homes:
        if (home / relative).exists():
            return home / relative
    looked = " and ".join(str(home) for home in homes)
    raise ToolError(
        f"the installation of vmcapsule lacks '{relative}' (looked in {looked})",
        "install vmcapsule again",
    )
