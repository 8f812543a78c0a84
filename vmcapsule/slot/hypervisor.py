"""Which hypervisor runs the machines of this execute point's VM universe."""

from __future__ import annotations

import os
import shutil
from typing import Optional

from vmcapsule import process
from vmcapsule.errors import ConfigError, ToolError, one_line
from vmcapsule.vm import vmrun

#: The execute point's knob: `QEMU`, or the product that ``vmrun`` is to talk to.
KNOB = "VM_CAPSULE_HYPERVISOR"
QEMU = "qemu"
_ASK = "condor_config_val"
_ASK_TIMEOUT_S = 30.0
_NOT_DEFINED = b"not defined"


def chosen() -> str:
    """`QEMU`, or one of `vmrun.PRODUCTS`: as HTCondor's configuration says.

    Where it says nothing, VMware's Workstation if its command is here, else QEMU.  Raises
    `ConfigError` for anything else, and `ToolError` where HTCondor does not say.  Who asks
    decides which configuration it is: a user may have one of their own.
    """
    said = _configured()
    if said is None:
        return vmrun.PRODUCTS[0] if vmrun.is_here() else QEMU
    if said not in (QEMU, *vmrun.PRODUCTS):
        known = ", ".join(f"'{each}'" for each in (QEMU, *vmrun.PRODUCTS))
        raise ConfigError(
            f"{KNOB} = {said}: there is no such hypervisor",
            f"set it to one of {known} in the execute point's configuration",
        )
    return said


def _configured() -> Optional[str]:
    in_environment = os.environ.get(f"_CONDOR_{KNOB}")
    if in_environment is not None or shutil.which(_ASK) is None:
        return (in_environment or "").strip().lower() or None
    # A knob that is not there is an error of its own.
    answer = process.run([_ASK, KNOB], timeout_s=_ASK_TIMEOUT_S, check=False)
    if answer.returncode != 0:
        said = answer.stderr + answer.stdout
        if _NOT_DEFINED in said.lower():
            return None
        raise ToolError(
            f"'{_ASK} {KNOB}' failed with status {answer.returncode}: "
            f"{one_line(said.decode(errors='replace'))}",
            "see what is wrong with HTCondor's configuration here",
        )
    return answer.stdout.decode(errors="replace").strip().lower() or None
