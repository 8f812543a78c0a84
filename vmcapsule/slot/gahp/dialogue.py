"""What is answered to a starter that has a VM run: the vm-gahp's protocol, and no more.

The same commands, checks and error codes as HTCondor's own gahp (``condor_vm-gahp/vmgahp.cpp``
of 23.9), but for two things.  Nothing is announced without being asked for
(``ASYNC_MODE_ON``): so a starter that reads nothing meanwhile takes the end of the gahp for
the end of the job, with its exit status.  And there is one machine.
"""

from __future__ import annotations

import enum
import re
from typing import Callable, Optional, Protocol

from vmcapsule.named import NamedTuple
from vmcapsule.slot.gahp.lines import sentence, words

GREETING = r"$VMGahpVersion: 1.0 Nov 24 2026 vmcapsule\ vm-gahp $"
#: Whose jobs are served: VMware's, and in the place of HTCondor's own gahp KVM's.
VMWARE, KVM = VM_TYPES = ("vmware", "kvm")
#: The number of the only machine.
VM_ID = 1
_NULL = "NULL"
#: What is asked for without arguments, and what with the number of a request and of a machine.
_PLAIN = ("QUIT", "VERSION", "COMMANDS", "SUPPORT_VMS", "RESULTS", "CLASSAD", "CLASSAD_END")
_OF_A_VM = (
    *("CONDOR_VM_STOP", "CONDOR_VM_SUSPEND", "CONDOR_VM_SOFT_SUSPEND", "CONDOR_VM_RESUME"),
    *("CONDOR_VM_CHECKPOINT", "CONDOR_VM_STATUS", "CONDOR_VM_GETPID"),
)
_START = "CONDOR_VM_START"
_REQUEST_MAX = 2**31 - 1
#: No machine has more; what an ad says beyond is not listened to.
_MEMORY_MIB_MAX, _CPUS_MAX = 1 << 26, 1 << 12


class State(enum.Enum):
    """How a machine is, in the words of the protocol."""

    RUNNING = "Running"
    PAUSED = "SoftSuspended"
    ENDED = "Stopped"


class Asked(NamedTuple):
    """What a job's ad says of its machine, as far as it was said in plain literals."""

    vm_type: Optional[str] = None
    memory_mib: Optional[int] = None
    cpus: Optional[int] = None
    #: Is what its guest writes to go to a redo log beside its disk?
    snapshot: bool = False


class Machine(Protocol):
    """What is talked about."""

    def start(self, asked: Asked) -> None:
        """Start it; what goes wrong is told by its end."""

    def stop(self) -> None:
        """End it, and wait until it has ended."""

    def pause(self) -> None:
        """Stand still, memory kept."""

    def go_on(self) -> None:
        """Run again."""

    @property
    def pid(self) -> int:
        """The process that is watched for what the machine uses."""

    @property
    def state(self) -> State:
        """How it is now."""


class _Refused(Exception):
    """A request that is answered with an error code."""


class Dialogue:
    """One conversation: lines come in, lines go out."""

    def __init__(self, vm_type: str, machine: Machine) -> None:
        self._vm_type = vm_type
        self._machine = machine
        self._ad: Optional[dict[str, str]] = None
        self._in_ad = False
        self._is_started = False
        self._results: list[str] = []
        self._is_pid_told = False
        #: Did the starter say that it has no more to say?
        self.is_over = False
        self._is_known = False

    @property
    def may_end(self) -> bool:
        """Would the starter take our end for that of the job?

        Not for a failure to start, as before it knows the machine's process, and not for one
        to answer.
        """
        return self._is_known and not self._results

    def say(self, line: str) -> list[str]:
        """Return the answers to a line from the starter, each without its end."""
        if self._in_ad:
            return self._said_of_the_job(line)
        name, *arguments = words(line)
        name = name.upper()
        if name in _PLAIN and not arguments:
            return self._plain(name)
        if name in (*_OF_A_VM, _START) and self._are_right(name, arguments):
            self._results.append(self._result(name, *arguments))
            return ["S"]
        return ["E"]

    def _said_of_the_job(self, line: str) -> list[str]:
        if line.strip().upper() == "CLASSAD_END":
            self._in_ad = False
            return ["S"]
        name, equals, text = line.partition("=")
        key = name.strip().lower()
        if equals and key in _WANTED and self._ad is not None:
            self._ad[key] = text.strip()
        return []

    def _plain(self, name: str) -> list[str]:
        if name == "VERSION":
            return [f"S {GREETING}"]
        if name == "COMMANDS":
            return [sentence("S", _START, *_OF_A_VM, *_PLAIN)]
        if name == "SUPPORT_VMS":
            return [sentence("S", self._vm_type)]
        if name == "RESULTS":
            return self._hand_over()
        if name == "QUIT":
            self.is_over = True
        elif name == "CLASSAD":
            self._ad, self._in_ad = {}, True
        else:
            self._ad = None
        return ["S"]

    def _hand_over(self) -> list[str]:
        results, self._results = self._results, []
        self._is_known = self._is_pid_told
        return [f"S {len(results)}", *results]

    def _are_right(self, name: str, arguments: list[str]) -> bool:
        if len(arguments) != 2 or not _number(arguments[0]):
            return False
        if name == _START:
            return arguments[1].lower() == self._vm_type
        return re.fullmatch("[0-9]{1,10}", arguments[1], re.ASCII) is not None

    def _result(self, name: str, request: str, what: str) -> str:
        try:
            told = self._start() if name == _START else self._act(name, int(what))
        except _Refused as refused:
            return sentence(str(int(request)), "1", str(refused))
        self._is_pid_told = self._is_pid_told or name == "CONDOR_VM_GETPID"
        return sentence(str(int(request)), "0", *told)

    def _start(self) -> tuple[str, ...]:
        if self._ad is None:
            raise _Refused("VMGAHP_ERR_NO_JOBCLASSAD_INFO")
        asked = asked_of(self._ad)
        if asked.vm_type is None:
            raise _Refused("VMGAHP_ERR_NO_JOBCLASSAD_INFO")
        if asked.vm_type.lower() != self._vm_type:
            raise _Refused("VMGAHP_ERR_NO_SUPPORTED_VM_TYPE")
        if self._is_started:
            raise _Refused("VMGAHP_ERR_VM_INVALID_OPERATION")
        self._is_started = True
        self._machine.start(asked)
        return (str(VM_ID),)

    def _act(self, name: str, vm_id: int) -> tuple[str, ...]:
        machine, is_here = self._machine, self._is_started and vm_id == VM_ID
        if name == "CONDOR_VM_STATUS":
            return _status(machine) if is_here else (_status_word(State.ENDED),)
        if not is_here:
            raise _Refused("VMGAHP_ERR_VM_NOT_FOUND")
        if name == "CONDOR_VM_GETPID":
            return (str(machine.pid),)
        if name == "CONDOR_VM_CHECKPOINT":
            raise _Refused("VMGAHP_ERR_VM_NO_SUPPORT_CHECKPOINT")
        if machine.state is State.ENDED and name != "CONDOR_VM_STOP":
            raise _Refused("VMGAHP_ERR_VM_INVALID_OPERATION")
        deeds: dict[str, Callable[[], None]] = {
            "CONDOR_VM_STOP": machine.stop,
            # Its memory is kept where it is either way: nothing is saved beside its disks.
            "CONDOR_VM_SUSPEND": machine.pause,
            "CONDOR_VM_SOFT_SUSPEND": machine.pause,
            "CONDOR_VM_RESUME": machine.go_on,
        }
        deeds[name]()
        return (_NULL,)


def _status(machine: Machine) -> tuple[str, ...]:
    state = machine.state
    process = (f"PID={machine.pid}",) if state is State.RUNNING else ()
    return (_status_word(state), *process)


def _status_word(state: State) -> str:
    return f"STATUS={state.value}"


def _number(word: str) -> bool:
    return bool(re.fullmatch("[0-9]{1,10}", word, re.ASCII)) and 0 < int(word) <= _REQUEST_MAX


_SNAPSHOT = "vmparam_vmware_snapshotdisk"
_WANTED = ("jobvmtype", "jobvmmemory", "jobvm_vcpus", _SNAPSHOT)


def asked_of(ad: dict[str, str]) -> Asked:
    """What the expressions of an ad, by lower-case name, say: plain literals, else nothing."""
    vm_type = re.fullmatch(r'"([A-Za-z0-9_-]{1,32})"', ad.get("jobvmtype", ""))
    return Asked(
        vm_type=vm_type.group(1) if vm_type else None,
        memory_mib=_count(ad.get("jobvmmemory", ""), _MEMORY_MIB_MAX),
        cpus=_count(ad.get("jobvm_vcpus", ""), _CPUS_MAX),
        snapshot=ad.get(_SNAPSHOT, "").lower() == "true",
    )


def _count(text: str, limit: int) -> Optional[int]:
    number = int(text) if re.fullmatch("[0-9]{1,10}", text, re.ASCII) else 0
    return number if 0 < number <= limit else None
