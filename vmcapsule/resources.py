"""Where the files that are not Python are found: in a checkout or beside an installation."""

from __future__ import annotations

from pathlib import Path

from vmcapsule.errors import ToolError


def resource(relative: str) -> Path:
    """Return the path of a data file such as ``guest/condor-init.py``.

    A checkout has them at its top level; an installation under ``share/vmcapsule`` of
    the environment it was installed in.
    """
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / relative).exists():
        return checkout / relative
    import sysconfig  # slow to import

    installed = Path(sysconfig.get_path("data")) / "share" / "vmcapsule"
    if (installed / relative).exists():
        return installed / relative
    looked = f"{checkout} and {installed}"
    raise ToolError(
        f"the installation of vmcapsule lacks '{relative}' (looked in {looked})",
        "install vmcapsule again",
    )
