"""The machine, as the process that runs it: the same program, under the job's owner.

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
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Mapping, Optional

from vmcapsule.capsule.record import UNREPORTED_SIGNAL
from vmcapsule.errors import ConfigError, ToolError, UsageError, one_line
from vmcapsule.named import NamedTuple
from vmcapsule.slot import hypervisor
from vmcapsule.slot.ending import FROM_OUTSIDE
from vmcapsule.slot.gahp.dialogue import KVM, Asked, State
from vmcapsule.slot.gahp.log import log
from vmcapsule.vm import confinement, vmrun

#: By this word `vmcapsule.slot.entry` knows that the program is the child of a gahp.
CHILD = "machine"
#: How long it is waited for that the child has made what is handed back whatever happens.
READY_TIMEOUT_S = 20.0
#: How long a machine has to end before it is killed.
STOP_TIMEOUT_S = 5.0
#: The same where VMware has to be asked first whether it runs, and then to switch it off.
VMWARE_STOP_TIMEOUT_S = 60.0
#: How long one has to stand still: VMware's has to be asked for that.
PAUSE_TIMEOUT_S = 60.0
_WAIT_S = 0.05
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


def owner_at(folder: Path) -> Owner:
    """Whose a job's folder is; `UsageError` where it is nobody's but root's."""
    try:
        about = folder.lstat()
    except OSError as error:
        raise UsageError(f"'{folder}': {error.strerror}", "name a job's folder") from error
    if not stat.S_ISDIR(about.st_mode) or about.st_uid == 0:
        raise UsageError(f"'{folder}' is not a job's folder", "name one")
    return Owner(about.st_uid, about.st_gid, _groups(about.st_uid, about.st_gid))


def identity_of(owner: Owner) -> dict[str, Any]:
    """What `subprocess.Popen` is given, so that the process is the owner's."""
    if owner.uid is None:
        return {}
    return {"user": owner.uid, "group": owner.gid, "extra_groups": owner.groups}


def hypervisor_or_why() -> str:
    """What is to run the machine, or why that is not known; for the child to tell.

    It does not ask itself: as its user it would be told what the user has configured.
    """
    try:
        return hypervisor.chosen()
    except (ConfigError, ToolError) as error:
        return one_line(str(error))


def _stands_still(pid: int) -> bool:
    """Does a child of ours stand still, or has it ended?"""
    flags = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, flags) is not None


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
        self._ready: Optional[int] = None
        self._stop_timeout_s = STOP_TIMEOUT_S
        self._is_paused = self._is_ready = self._has_failed = False
        #: Was it ended because the starter said so?
        self.was_stopped = False

    def start(self, asked: Asked) -> None:
        """Start it, and wait until it has made ready: what fails later is in its status.

        Where it cannot be started at all, the guest has not reported: an error now would
        have HTCondor take the VM universe out of service.
        """
        # A job of KVM's has nothing that VMware could run.
        is_kvms = (asked.vm_type or "").lower() == KVM
        product = hypervisor.QEMU if is_kvms else hypervisor_or_why()
        if product in vmrun.PRODUCTS:
            self._stop_timeout_s = VMWARE_STOP_TIMEOUT_S
        wanted = (asked.memory_mib, asked.cpus, int(asked.snapshot))
        given = [*(str(each or 0) for each in wanted), product]
        ready, says_ready = os.pipe()
        os.set_blocking(ready, False)
        try:
            self._process = self._started(says_ready, given)
        except (ToolError, OSError) as error:
            log(f"the machine cannot be started: {error}")
            self._has_failed = True
        finally:
            os.close(says_ready)
        # It stays open: who is late says it all the same.
        self._ready = ready
        select.select([ready], [], [], READY_TIMEOUT_S)

    def _started(self, says_ready: int, given: list[str]) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-I", self._program, CHILD, str(says_ready), *given]
        return subprocess.Popen(
            # It ends with this process, and its QEMU with it.
            confinement.tied(program),
            stdin=subprocess.DEVNULL,
            # What we print on ours is the conversation.
            stdout=sys.stderr,
            pass_fds=(says_ready,),
            start_new_session=True,
            **identity_of(self._owner),
        )

    @property
    def pid(self) -> int:
        """The child's, and nobody else's even after its end; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    @property
    def status(self) -> Optional[int]:
        """How it ended, as `subprocess.Popen.returncode`; None: it did not, or never began.

        One that was not ready was not yet our program, and its end is not the job's.
        """
        if self._has_failed:
            return -UNREPORTED_SIGNAL
        returncode = self._returncode()
        if returncode is not None and not self._was_ready():
            log(f"the machine's process ended before it was ready, status {returncode}")
            self._has_failed = True
            return -UNREPORTED_SIGNAL
        return returncode

    def _returncode(self) -> Optional[int]:
        """How the process ended.  It is not waited for: as long as we live no other process
        gets its number, by which the starter watches it."""
        if self._process is None:
            return None
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        found = os.waitid(os.P_PID, self._process.pid, flags)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def _was_ready(self) -> bool:
        """Did the child, which has ended, say that it was ready?"""
        if self._ready is not None:
            # Not to be waited for: of a user's process the user's others can open its files.
            with contextlib.suppress(BlockingIOError):
                self._is_ready = bool(os.read(self._ready, 1))
            os.close(self._ready)
            self._ready = None
        return self._is_ready

    @property
    def state(self) -> State:
        """How it is now."""
        if self._process is None or self.status is not None:
            return State.ENDED
        return State.PAUSED if self._is_paused else State.RUNNING

    def pause(self) -> None:
        """As by Ctrl-Z: it has its QEMU stand still, and itself; that is waited for.

        Told to go on before, it would stand still for ever after.
        """
        self._send(signal.SIGTSTP)
        self._is_paused = True
        until = time.monotonic() + PAUSE_TIMEOUT_S
        while self._process is not None and not _stands_still(self._process.pid):
            if time.monotonic() > until:
                log("the machine's process was told to stand still, and does not")
                return
            time.sleep(_WAIT_S)

    def go_on(self) -> None:
        """Run again."""
        self._send(signal.SIGCONT)
        self._is_paused = False

    def stop(self) -> None:
        """End it, and wait until it has ended: soon, or at once."""
        if self.state is not State.ENDED:
            self.was_stopped = True
            self._end(signal.SIGTERM)

    def stop_from_outside(self) -> None:
        """The same for who is not the starter: the run did not report, and is repeated."""
        if self.state is not State.ENDED:
            self._end(FROM_OUTSIDE)
            # Else it has ended by itself at last, as the job did.
            self._has_failed = self._returncode() in (-FROM_OUTSIDE, -signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        self._send(number)
        # One that stands still is told when it goes on.
        self._send(signal.SIGCONT)
        until = time.monotonic() + self._stop_timeout_s
        while self._returncode() is None:
            if time.monotonic() > until:
                self._send(signal.SIGKILL)
            time.sleep(_WAIT_S)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)
