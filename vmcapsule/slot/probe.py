"""Can this execute point run capsules?  What its startd asks, and advertises.

Runs from the startd's cron as the user who runs HTCondor's daemons, out of the one file
that `vmcapsule.slot.program` writes.  The answer is printed as attributes; "no" is an answer
too, and comes with its reason.
"""

from __future__ import annotations

import os
import pkgutil
import re
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Optional, Sequence

from vmcapsule import process
from vmcapsule.errors import ToolError
from vmcapsule.named import NamedTuple
from vmcapsule.slot.advertise import UPDATE, literal, paths
from vmcapsule.slot.starter import (
    HAS_VM_CAPSULE,
    KVM_WORKS,
    NETWORK_WORKS,
    PROGRAM_PATH,
    QEMU_VERSION,
    REASON,
    TEMPLATE_REASON,
)
from vmcapsule.vm import accelerator, confinement
from vmcapsule.vm.accelerator import PROBE_KERNEL, QEMU
from vmcapsule.vm.boot import MACHINE

ASK_TIMEOUT_S = 15
_OLD_CONFIGURATION = (
    "the startd's configuration is older than the program; print it anew with 'vmcapsule "
    "config --execute'"
)


class Answer(NamedTuple):
    """What an execute point can do; ``reasons`` say why not, if something it cannot."""

    has_capsule: bool
    qemu_version: Optional[str] = None
    #: None: it could not be found out.
    kvm: Optional[bool] = None
    network: Optional[bool] = None
    reasons: tuple[str, ...] = ()


def main(arguments: Sequence[str]) -> int:
    """Print the answer as attributes; return 0 always.

    ``arguments`` are those of a configuration from before there was `vmcapsule.slot.templates`.
    """
    signal.signal(signal.SIGTERM, _stop)
    try:
        answer = ask()
    except KeyboardInterrupt as stop:
        return 128 + int(stop.args[0])
    if arguments:
        print(f"{TEMPLATE_REASON} = {literal(_OLD_CONFIGURATION)}")
    print("\n".join(lines(answer)), flush=True)
    return 0


def lines(answer: Answer) -> list[str]:
    """The attributes in ClassAd syntax, each on every run: none is left from an earlier."""
    return [
        f"{HAS_VM_CAPSULE} = {literal(answer.has_capsule)}",
        f"{QEMU_VERSION} = {literal(answer.qemu_version)}",
        f"{KVM_WORKS} = {literal(answer.kvm)}",
        f"{NETWORK_WORKS} = {literal(answer.network)}",
        f"{PROGRAM_PATH} = {paths([Path(sys.argv[0]).absolute()])}",
        f"{REASON} = {literal('; '.join(answer.reasons) or None)}",
        UPDATE,
    ]


def ask() -> Answer:
    """Look for QEMU and what it is needed with, and try KVM and a network."""
    try:
        version = qemu_version()
    except ToolError as error:
        return Answer(False, reasons=(str(error),))
    with tempfile.TemporaryDirectory(prefix="vmcapsule-probe-") as scratch:
        kvm, no_kvm = _kvm(_kernel(Path(scratch)))
    network, no_network = _network()
    reasons = tuple(reason for reason in (no_kvm, no_network) if reason)
    return Answer(True, version, kvm, network, reasons)


def qemu_version() -> str:
    """The version of this machine's QEMU; `ToolError` where no guest runs with it."""
    process.find("setpriv")
    version = _version()
    _check_machine()
    return version


def _version() -> str:
    printed = process.run([QEMU, "--version"], timeout_s=ASK_TIMEOUT_S).stdout
    match = re.search(r"version ([0-9][0-9.]*[0-9])", printed.decode(errors="replace"))
    if match is None:
        raise ToolError(f"'{QEMU} --version' does not say its version: {printed[:80]!r}")
    return match.group(1)


def _check_machine() -> None:
    command = [QEMU, *confinement.SANDBOX, "-machine", "help"]
    printed = process.run(command, timeout_s=ASK_TIMEOUT_S).stdout
    known = [line.split(" ", 1)[0] for line in printed.decode(errors="replace").splitlines()]
    if MACHINE not in known:
        raise ToolError(
            f"{QEMU} has no machine '{MACHINE}', which capsules need",
            "install QEMU 7.2 or a newer one that has it still",
        )


def _kvm(kernel: Optional[Path]) -> tuple[Optional[bool], Optional[str]]:
    """Does KVM work (None: unknown), and if not for sure, why?"""
    if not accelerator.DEVICE.exists():
        return False, f"there is no {accelerator.DEVICE} here"
    if not accelerator.is_permitted():
        # A job's user may be permitted: the job finds out for itself then.
        who = f"the user with number {os.geteuid()}"
        return None, f"{who} may not use {accelerator.DEVICE}, so KVM was not tried"
    if kernel is None:
        return None, "this program was written without a kernel to try KVM with"
    if accelerator.probe_kvm(kernel):
        return True, None
    return False, f"{accelerator.DEVICE} is there, but no guest runs with it"


def _network() -> tuple[bool, Optional[str]]:
    """Can a guest have a network, and if not, why?"""
    try:
        confinement.check_network()
    except ToolError as error:
        return False, str(error)
    return True, None


def _kernel(scratch: Path) -> Optional[Path]:
    try:
        data = pkgutil.get_data("vmcapsule", PROBE_KERNEL)
    except OSError:
        return None
    if data is None:
        return None
    kernel = scratch / PROBE_KERNEL
    kernel.write_bytes(data)
    return kernel


def _stop(number: int, frame: Optional[FrameType]) -> None:
    """The startd ends us: QEMU and the scratch folder go too."""
    raise KeyboardInterrupt(number)
