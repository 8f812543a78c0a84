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
from vmcapsule.errors import ToolError, VmCapsuleError, one_line
from vmcapsule.named import NamedTuple
from vmcapsule.slot.starter import (
    HAS_VM_CAPSULE,
    KVM_WORKS,
    NETWORK_WORKS,
    PROGRAM_PATH,
    QEMU_VERSION,
    REASON,
    TEMPLATE_PATHS,
    TEMPLATES,
)
from vmcapsule.template.likeness import likeness
from vmcapsule.template.template import load
from vmcapsule.vm import accelerator, confinement
from vmcapsule.vm.accelerator import PROBE_KERNEL, QEMU
from vmcapsule.vm.boot import MACHINE

ASK_TIMEOUT_S = 15
_REASON_CHARS_MAX = 400


class Answer(NamedTuple):
    """What an execute point can do; ``reasons`` say why not, if something it cannot."""

    has_capsule: bool
    qemu_version: Optional[str] = None
    #: None: it could not be found out.
    kvm: Optional[bool] = None
    network: Optional[bool] = None
    #: (likeness, folder) of the templates that are here.
    templates: tuple[tuple[str, Path], ...] = ()
    reasons: tuple[str, ...] = ()


def main(folders: Sequence[str]) -> int:
    """Print the answer as attributes, templates in ``folders`` among it; return 0 always."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        answer = ask([Path(folder) for folder in folders])
    except KeyboardInterrupt as stop:
        return 128 + int(stop.args[0])
    print("\n".join(lines(answer)), flush=True)
    return 0


def lines(answer: Answer) -> list[str]:
    """The attributes in ClassAd syntax, each on every run: none is left from an earlier."""
    return [
        f"{HAS_VM_CAPSULE} = {literal(answer.has_capsule)}",
        f"{QEMU_VERSION} = {literal(answer.qemu_version)}",
        f"{KVM_WORKS} = {literal(answer.kvm)}",
        f"{NETWORK_WORKS} = {literal(answer.network)}",
        f"{TEMPLATES} = {literal(','.join(like for like, _ in answer.templates))}",
        f"{TEMPLATE_PATHS} = {_paths([folder for _, folder in answer.templates])}",
        f"{PROGRAM_PATH} = {_paths([Path(sys.argv[0]).absolute()])}",
        f"{REASON} = {literal('; '.join(answer.reasons) or None)}",
        # The startd tells the collector at once.
        "- update:true",
    ]


def ask(folders: Sequence[Path] = ()) -> Answer:
    """Look for QEMU and what it is needed with, for templates, and try KVM and a network."""
    try:
        version = qemu_version()
    except ToolError as error:
        return Answer(False, reasons=(str(error),))
    with tempfile.TemporaryDirectory(prefix="vmcapsule-probe-") as scratch:
        kvm, no_kvm = _kvm(_kernel(Path(scratch)))
    network, no_network = _network()
    templates, lacking = _templates(folders)
    reasons = tuple(reason for reason in (no_kvm, no_network, *lacking) if reason)
    return Answer(True, version, kvm, network, templates, reasons)


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


def _templates(folders: Sequence[Path]) -> tuple[tuple[tuple[str, Path], ...], list[str]]:
    """Which templates are in ``folders``, and what is wrong with others."""
    found, wrong = [], []
    for folder in folders:
        # One that is not there is no fault: jobs may bring their own.
        if folder.is_dir():
            try:
                found.append((likeness(load(folder)), folder.absolute()))
            except VmCapsuleError as error:
                wrong.append(error.message)
    return tuple(found), wrong


def _paths(paths: Sequence[Path]) -> str:
    """Paths as a list in an ad, undefined where one cannot stand in it."""
    texts = [str(path) for path in paths]
    plain = all(re.fullmatch(r'[^"\\,\x00-\x1f\x7f-\U0010ffff]+', text) for text in texts)
    return f'"{",".join(texts)}"' if plain else "undefined"


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


def literal(value: object) -> str:
    """A ClassAd literal: a string in printable ASCII and of bounded length, or as it is."""
    if value is None:
        return "undefined"
    if isinstance(value, bool):
        return str(value).lower()
    text = one_line(str(value), _REASON_CHARS_MAX).translate({ord('"'): "'", ord("\\"): "/"})
    return '"' + text.encode("ascii", "replace").decode() + '"'


def _stop(number: int, frame: Optional[FrameType]) -> None:
    """The startd ends us: QEMU and the scratch folder go too."""
    raise KeyboardInterrupt(number)
