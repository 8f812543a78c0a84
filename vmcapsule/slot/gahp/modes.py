"""How HTCondor calls a vm-gahp: to test the machine, to run a VM, to end what is left.

``-f [-t] -M MODE [vmtype TYPE] [match FOLDER]``, as the startd and the starter do
(``condor_startd.V6/vmuniverse_mgr.cpp``, ``condor_starter.V6.1/vm_gahp_server.cpp``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional, Sequence

from vmcapsule.errors import UsageError, VmCapsuleError
from vmcapsule.named import NamedTuple
from vmcapsule.slot.ending import die
from vmcapsule.slot.gahp.dialogue import KVM, VM_TYPES
from vmcapsule.slot.gahp.log import log

TEST, STANDALONE, KILL = "0", "3", "4"


class Call(NamedTuple):
    """What was asked for."""

    mode: str
    vm_type: str = ""
    match: str = ""


def parse(arguments: Sequence[str]) -> Call:
    """What the arguments ask for; `UsageError` where HTCondor would not."""
    rest = [each for each in arguments if each not in ("-f", "-t")]
    known = dict(zip(rest[::2], rest[1::2]))
    call = Call(known.get("-M", ""), known.get("vmtype", "").lower(), known.get("match", ""))
    if len(rest) % 2 or known.keys() - {"-M", "vmtype", "match"} or call.mode not in _MODES:
        raise UsageError(
            f"'{' '.join(arguments)}' is nothing that a vm-gahp is asked",
            "leave calling it to HTCondor: 'VM_GAHP_SERVER = <this program>'",
        )
    return call


def main(arguments: Sequence[str], program: str) -> int:
    """Do what HTCondor asks; ``program`` is the file that the machine's process runs."""
    try:
        call = parse(arguments)
        status = _MODES[call.mode](call, program)
    except VmCapsuleError as error:
        log(str(error))
        return error.exit_status
    if status is not None and status < 0:
        die(-status)
    return status or 0


def _test(call: Call, program: str) -> int:
    """Tell the startd what it asks; where no machine would run, tell its log why."""
    from vmcapsule.slot.gahp.machine_ad import lines, refusal

    try:
        _check_type(call.vm_type)
        told = lines(call.vm_type)
    except VmCapsuleError as error:
        # Of what is wrong nothing else comes to the StartLog.
        told = refusal(error)
    print("\n".join(told), flush=True)
    return 0


def _standalone(call: Call, program: str) -> Optional[int]:
    from vmcapsule.slot.gahp.child import Child, owner_of
    from vmcapsule.slot.gahp.serve import serve

    vm_type = os.environ.get("VMGAHP_VMTYPE", "").lower()
    _check_type(vm_type)
    return serve(vm_type, Child(owner_of(os.environ), program))


def _kill(call: Call, program: str) -> int:
    from vmcapsule.slot.gahp.leftovers import end_all_in, end_as_owner, switch_off_all_in

    if call.vm_type == KVM:
        # Told by a name of HTCondor's for it; such a machine is QEMU's, which ends with us.
        return 0
    if not Path(call.match).is_absolute():
        raise UsageError(f"'match {call.match}' names no folder", "give a full path")
    if os.geteuid() == 0:
        # Of a startd's: it can end nothing in a folder that somebody may have in any place.
        end_as_owner(Path(call.match), [program, "-M", KILL, "match", call.match])
        return 0
    for number in end_all_in(Path(call.match)):
        log(f"killed process {number}, which was left in {call.match}")
    switch_off_all_in(Path(call.match))
    return 0


def _check_type(vm_type: str) -> None:
    if vm_type not in VM_TYPES:
        raise UsageError(
            f"there are no machines of type '{vm_type}' here",
            f"set VM_TYPE to one of {', '.join(VM_TYPES)}",
        )


_MODES = {TEST: _test, STANDALONE: _standalone, KILL: _kill}
