"""A machine run by VMware, through its own command ``vmrun``.

The commands are those of "Using vmrun to Control Virtual Machines" for Workstation, Player
and Server 1: ``vmrun -T PRODUCT start|stop|pause|unpause VMX`` and ``list``, and of
Workstation ``snapshot VMX NAME``.  Tried with a stand-in that answers as documented, never
with the product itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Iterator, Optional, Sequence

from vmcapsule import process
from vmcapsule.vm.watch import Watch, check_panic

PROGRAM = "vmrun"
#: What ``-T`` may name of the products that take the path of a .vmx and no password.
PRODUCTS = ("ws", "player", "server1")
#: Which of them has a command for a snapshot with a name; and ours.
_WITH_SNAPSHOTS = ("ws",)
SNAPSHOT = "vmcapsule"
POLL_S = 2.0
#: Starting one includes VMware's own daemon, and a look at the disks.
START_TIMEOUT_S = 300.0
ASK_TIMEOUT_S = 60.0


def is_here() -> bool:
    """Has this machine VMware's command?"""
    return shutil.which(PROGRAM) is not None


def run(
    product: str,
    vmx: Path,
    *,
    data_disk: Sequence[Path],
    console: Path,
    timeout_s: Optional[float] = None,
) -> None:
    """Run the machine of a .vmx until it has powered off.

    ``data_disk`` are the files of its data disk.  VMware's processes are not this one's
    children: whatever ends us, short of SIGKILL, has them stop the machine first.  Raises
    `ToolError`, and what `vmcapsule.vm.watch.Watch` does.
    """
    console.touch()
    watch = Watch(console, data_disk, timeout_s)
    with _started(product, vmx), _pausing_with_us(product, vmx):
        while is_running(product, vmx):
            time.sleep(POLL_S)
            watch.look(lambda: None)
    check_panic(console)


def snapshot(product: str, vmx: Path) -> None:
    """Have what the machine writes go to redo logs beside its disks, where VMware can."""
    if product in _WITH_SNAPSHOTS:
        _ask(product, "snapshot", vmx, SNAPSHOT)


def is_running(product: str, vmx: Path) -> bool:
    """Is this very file's machine among those that run?"""
    listed = _ask(product, "list").splitlines()
    place = vmx.resolve()
    return any(Path(os.fsdecode(line)).resolve() == place for line in listed[1:] if line)


def stop(product: str, vmx: Path) -> None:
    """Switch it off at once, if it runs."""
    if is_running(product, vmx):
        _ask(product, "stop", vmx, "hard")


@contextlib.contextmanager
def _started(product: str, vmx: Path) -> Iterator[None]:
    try:
        command: list[process.Arg] = [PROGRAM, "-T", product, "start", vmx, "nogui"]
        process.run(command, timeout_s=START_TIMEOUT_S)
        yield
    finally:
        stop(product, vmx)


@contextlib.contextmanager
def _pausing_with_us(product: str, vmx: Path) -> Iterator[None]:
    """What stops us as Ctrl-Z does stops the machine too, until we go on."""

    def pause(number: int, frame: Optional[FrameType]) -> None:
        _ask(product, "pause", vmx)
        os.kill(os.getpid(), signal.SIGSTOP)
        _ask(product, "unpause", vmx)

    before = signal.signal(signal.SIGTSTP, pause)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)


def _ask(product: str, *words: process.Arg) -> bytes:
    return process.run([PROGRAM, "-T", product, *words], timeout_s=ASK_TIMEOUT_S).stdout
