"""Start a capsule under QEMU and wait until it has powered itself off."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import IO, Callable, Iterator, Optional, Sequence

from vmcapsule import contract, process
from vmcapsule.disk.disk import Disk
from vmcapsule.errors import LINE_CHARS_MAX, ToolError, one_line
from vmcapsule.named import NamedTuple
from vmcapsule.vm import events, line
from vmcapsule.vm.accelerator import KVM, QEMU
from vmcapsule.vm.confinement import SANDBOX, check_network, confined
from vmcapsule.vm.watch import Watch, check_panic

POLL_S = 0.2
#: A fixed machine, so that a saved state can be resumed on another host one day.
MACHINE = "pc-q35-7.2"
#: What QEMU says whose builder left seccomp out.
_NO_SANDBOX = "-sandbox support is not enabled"
#: Emulating five-level page tables is slow, and nothing here needs them.
TCG_CPU = "max,la57=off"


class Machine(NamedTuple):
    """What to boot and with what.  No job is mentioned: any disk with a system will do."""

    system_disk: Path
    data_disk: Path
    cpus: int
    memory_mib: int
    accelerator: str
    kernel: Optional[Path] = None
    initrd: Optional[Path] = None
    cmdline: str = ""
    network: bool = False
    #: A raw disk whose content nobody needs when the machine is off.
    work_disk: Optional[Path] = None
    #: The pipes of a line to the guest: the ``path`` of a `vmcapsule.vm.line.Line`.
    line: Optional[Path] = None


def boot(
    machine: Machine,
    *,
    console: Path,
    scratch: Path,
    timeout_s: Optional[float] = None,
    alive: Callable[[], None] = lambda: None,
) -> float:
    """Run the machine until it powers off; return how many seconds that took.

    The system disk is never written: changes go to a throw-away layer under ``scratch``.
    The console's output goes to the file ``console``.  ``alive`` is called once, when
    the guest has mounted its data disk.  The machine dies with this process.

    Raises `GuestTimeout` when it does not power off within ``timeout_s`` seconds (or does
    not mount its data disk in time), `GuestError` when its kernel panics, `SpaceError` when
    there is no more room for what it writes, and `ToolError` when QEMU cannot run it, or
    this machine not give it a network.
    """
    if machine.network:
        check_network()
    started = time.monotonic()
    console.write_bytes(b"")
    watch = Watch(console, Disk.at(machine.data_disk).files, timeout_s)
    # QEMU's complaints go to a file: a pipe that nobody reads could fill and stop it.
    with tempfile.TemporaryFile(dir=scratch) as complaints, events.events(scratch) as told:
        command = qemu_command(machine, console)
        with _running(command, scratch, complaints, told) as qemu, _pausing_with_us(qemu):
            while not _ended(qemu):
                told.check()
                watch.look(alive)
        _check_end(qemu.returncode, console, complaints)
    return time.monotonic() - started


def qemu_command(machine: Machine, console: Path) -> list[str]:
    """The argument list that boots ``machine``."""
    kvm = machine.accelerator == KVM
    argv = [
        process.find(QEMU), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        *SANDBOX,
        *events.OPTIONS,
        "-machine", f"{MACHINE},accel={machine.accelerator}",
        "-cpu", "host" if kvm else TCG_CPU,
        "-smp", str(machine.cpus), "-m", str(machine.memory_mib),
        "-chardev", f"file,id=console,path={_escape(console)}", "-serial", "chardev:console",
        "-drive", _drive(machine.system_disk, machine, "snapshot=on"),
        "-drive", _drive(machine.data_disk, machine, "cache=writeback"),
        *_work_drive(machine),
        "-device", "virtio-rng-pci",
        *(line.options(machine.line, contract.LINE_PORT) if machine.line else []),
        "-nic", "user,model=virtio-net-pci" if machine.network else "none",
    ]  # fmt: skip
    if machine.kernel is not None:
        argv += ["-kernel", str(machine.kernel), "-append", machine.cmdline]
        if machine.initrd is not None:
            argv += ["-initrd", str(machine.initrd)]
    return confined(argv, network=machine.network)


def _drive(disk: Path, machine: Machine, option: str) -> str:
    return f"driver=vmdk,{_file(disk, machine)},{option},{events.ON_ERROR}"


def _work_drive(machine: Machine) -> list[str]:
    """Last of all, so that no other disk has another name for it in the guest."""
    if machine.work_disk is None:
        return []
    file = _file(machine.work_disk, machine)
    return ["-drive", f"driver=raw,{file},cache=unsafe,discard=unmap,{events.ON_ERROR}"]


def _file(disk: Path, machine: Machine) -> str:
    # A guest that boots from its boot sector may be old: it gets the disks it knows.
    interface = "virtio" if machine.kernel is not None else "ide"
    return f"file.driver=file,file.filename={_escape(disk)},if={interface}"


def _escape(path: Path) -> str:
    """QEMU's options are separated by commas; one in a name is doubled."""
    return str(path).replace(",", ",,")


@contextlib.contextmanager
def _running(
    argv: Sequence[str], scratch: Path, complaints: IO[bytes], told: events.Events
) -> Iterator[subprocess.Popen[bytes]]:
    qemu = subprocess.Popen(
        argv,
        stdin=told.said,
        stdout=told.heard,
        stderr=complaints,
        # The throw-away layer of the system disk is made here, and unlinked at once.
        env={**os.environ, "TMPDIR": str(scratch)},
        # Ctrl-C is for us to handle: killing the machine is then our doing.
        start_new_session=True,
    )
    try:
        yield qemu
    finally:
        # With a network QEMU is not the process that was started, but of its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(qemu.pid, signal.SIGKILL)
        qemu.wait()


@contextlib.contextmanager
def _pausing_with_us(qemu: subprocess.Popen[bytes]) -> Iterator[None]:
    """What stops us as Ctrl-Z does stops the machine too, until we go on."""

    def pause(number: int, frame: Optional[FrameType]) -> None:
        os.killpg(qemu.pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.killpg(qemu.pid, signal.SIGCONT)

    before = signal.signal(signal.SIGTSTP, pause)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)


def _ended(qemu: subprocess.Popen[bytes]) -> bool:
    """Wait a moment for QEMU to end; say whether it has."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        qemu.wait(timeout=POLL_S)
    return qemu.returncode is not None


def _check_end(returncode: int, console: Path, complaints: IO[bytes]) -> None:
    if returncode != 0:
        complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - LINE_CHARS_MAX))
        text = one_line(complaints.read().decode(errors="replace"))
        raise ToolError(
            f"QEMU ended with status {returncode}: {text or 'it said nothing'}",
            "install a QEMU that was built with seccomp"
            if _NO_SANDBOX in text
            else "see whether this machine has the memory the job asks for",
        )
    check_panic(console)
