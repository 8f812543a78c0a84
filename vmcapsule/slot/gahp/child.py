"""The machine, as the process that runs it: the slot's program, under the job's owner.

A gahp is root where HTCondor is.  Of what came with a job root opens nothing: the child has
become the owner before its first line runs, and root holds its pipes and its number.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import select
import signal
import subprocess
import sys
from typing import Any, Mapping, NamedTuple, Optional

from vmcapsule import process
from vmcapsule.capsule.record import UNREPORTED_SIGNAL
from vmcapsule.errors import ToolError, UsageError
from vmcapsule.slot.gahp.dialogue import Asked, State
from vmcapsule.slot.gahp.log import log

#: By this word `vmcapsule.slot.entry` knows that the program is the child of a gahp.
CHILD = "machine"
#: How long it is waited for that the child has made what is handed back whatever happens.
READY_TIMEOUT_S = 20.0
#: How long a machine has to end before it is killed.
STOP_TIMEOUT_S = 5.0
_USER, _GROUP = "VMGAHP_USER_UID", "VMGAHP_USER_GID"


class Owner(NamedTuple):
    """Who the job's processes run as; all None: as who runs this one."""

    uid: Optional[int] = None
    gid: Optional[int] = None
    groups: Optional[tuple[int, ...]] = None


def owner_of(environment: Mapping[str, str]) -> Owner:
    """Whom the starter says that the job belongs to; `UsageError` where root is not told.

    As for a vanilla job, the owner's own groups are added, by which a machine may be
    permitted to use KVM.
    """
    if os.geteuid() != 0:
        return Owner()
    uid, gid = (_positive(environment.get(name, "")) for name in (_USER, _GROUP))
    if uid is None or gid is None:
        raise UsageError(
            f"{_USER} = {environment.get(_USER)!r}, {_GROUP} = {environment.get(_GROUP)!r}: "
            "root is not told whose job it is, and runs none itself",
            "start this program as HTCondor's starter does",
        )
    return Owner(uid, gid, _groups(uid, gid))


def _positive(text: str) -> Optional[int]:
    return (
        int(text) if text.isascii() and text.isdigit() and 0 < int(text) < 2**32 - 1 else None
    )


def _groups(uid: int, gid: int) -> tuple[int, ...]:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # a slot's account need not be in any list
        return (gid,)
    members = {group.gr_gid for group in grp.getgrall() if name in group.gr_mem}
    return (gid, *sorted(members - {gid}))


class Child:
    """The one machine of a gahp: a `Machine` of its `Dialogue`."""

    def __init__(self, owner: Owner, program: str) -> None:
        self._owner = owner
        self._program = program
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._is_paused = self._has_failed = False
        #: Was it ended because the starter said so?
        self.was_stopped = False

    def start(self, asked: Asked) -> None:
        """Start it, and wait until it has made ready: what fails later is in its status.

        Where it cannot be started at all, the guest has not reported: an error now would
        have HTCondor take the VM universe out of service.
        """
        given = [str(each or 0) for each in (asked.memory_mib, asked.cpus)]
        ready, says_ready = os.pipe()
        try:
            self._process = self._started(says_ready, given)
        except (ToolError, OSError) as error:
            log(f"the machine cannot be started: {error}")
            self._has_failed = True
        finally:
            os.close(says_ready)
        with contextlib.closing(os.fdopen(ready, "rb")) as pipe:
            select.select([pipe], [], [], READY_TIMEOUT_S)

    def _started(self, says_ready: int, given: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            # The kernel kills it when this process is gone, and with it its QEMU.
            [
                *(process.find("setpriv"), "--pdeathsig", "KILL", "--"),
                *(sys.executable, "-I", self._program, CHILD, str(says_ready), *given),
            ],
            stdin=subprocess.DEVNULL,
            # What we print on ours is the conversation.
            stdout=sys.stderr,
            pass_fds=(says_ready,),
            start_new_session=True,
            **self._identity(),
        )

    def _identity(self) -> dict[str, Any]:
        if self._owner.uid is None:
            return {}
        uid, gid, groups = self._owner
        return {"user": uid, "group": gid, "extra_groups": groups}

    @property
    def pid(self) -> int:
        """The child's; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    @property
    def status(self) -> Optional[int]:
        """How it ended, as `subprocess.Popen.returncode`; None: it did not, or never began."""
        if self._has_failed:
            return -UNREPORTED_SIGNAL
        return self._process.poll() if self._process is not None else None

    @property
    def state(self) -> State:
        """How it is now."""
        if self._process is None or self.status is not None:
            return State.ENDED
        return State.PAUSED if self._is_paused else State.RUNNING

    def pause(self) -> None:
        """As by Ctrl-Z: it has its QEMU stand still, and itself."""
        self._send(signal.SIGTSTP)
        self._is_paused = True

    def go_on(self) -> None:
        """Run again."""
        self._send(signal.SIGCONT)
        self._is_paused = False

    def stop(self) -> None:
        """End it, and wait until it has ended: soon, or at once."""
        if self.state is State.ENDED or self._process is None:
            return
        self.was_stopped = True
        self._send(signal.SIGTERM)
        # One that stands still is told when it goes on.
        self._send(signal.SIGCONT)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, number: signal.Signals) -> None:
        # It has not been waited for, so its number is nobody else's.
        if self._process is not None and self.status is None:
            self._process.send_signal(number)
