"""Whether KVM really runs a guest here: known only by running one.

``/dev/kvm`` may exist and answer, and a guest still never get anywhere (nested
virtualization without hardware support).  A boot sector is not proof either: such a
machine can run real-mode code and fail at the first newer instruction.  So the probe
boots the kernel that will be used, with no root file system: it is to print its banner,
panic and reset, upon which QEMU ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Optional

from vmcapsule import process
from vmcapsule.atomic import write_file
from vmcapsule.errors import ToolError
from vmcapsule.vm.confinement import SANDBOX, confined

KVM, TCG = "kvm", "tcg"
QEMU = "qemu-system-x86_64"
DEVICE = Path("/dev/kvm")
PROBE_TIMEOUT_S = 20
#: The kernel to probe with in a package that has one, as a file of this name.
PROBE_KERNEL = "probe-kernel"
BANNER = b"Linux version"
#: A probe of a KVM that does not work takes all its time, so that of several templates in
#: turns each is to be asked once.
_KERNELS_MAX = 16
_SAMPLE_BYTES = 64 << 10


def choose(
    kernel: Optional[Path],
    cache: Path,
    works: Optional[bool] = None,
    aside: Optional[Path] = None,
) -> str:
    """Return `KVM` where a probe has shown that it works with ``kernel``, else `TCG`.

    ``works`` is the answer where somebody else has probed this machine; whether this user
    may use KVM is looked at all the same.  Else the answer is remembered in ``cache``, for
    each of the last few kernels, until the machine or QEMU changes.  Without a kernel to
    probe with, emulation is chosen: slow is better than never.  A probe's own files lie for
    a moment in ``aside``, or where the environment has temporary ones.
    """
    if kernel is None or not is_permitted():
        return TCG
    if works is not None:
        return KVM if works else TCG
    key = _key(kernel)
    path = cache / "kvm-probe.json"
    known = _remembered(path)
    if not isinstance(known.get(key), bool):
        answer = probe_kvm(kernel, aside)
        # The latest last, of which the first are forgotten.
        known = dict([*known.items(), (key, answer)][-_KERNELS_MAX:])
        # Where the cache is not ours to write, the next run asks again.
        with contextlib.suppress(OSError):
            _remember(path, known)
    return KVM if known[key] is True else TCG


def is_permitted() -> bool:
    """May this user use KVM, where there is any?"""
    return os.access(DEVICE, os.R_OK | os.W_OK)


def probe_kvm(kernel: Path, aside: Optional[Path] = None) -> bool:
    """Boot ``kernel`` under KVM and see whether it comes up and resets by itself."""
    with tempfile.TemporaryDirectory(prefix="vmcapsule-kvm-", dir=aside) as scratch:
        console = Path(scratch) / "console"
        argv = [
            process.find(QEMU), *SANDBOX,
            "-machine", "q35,accel=kvm", "-cpu", "host", "-m", "256",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-serial", f"file:{console}",
            "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1 root=/dev/none",
        ]  # fmt: skip
        try:
            process.run(confined(argv, network=False), timeout_s=PROBE_TIMEOUT_S)
        except ToolError:
            return False
        return console.exists() and BANNER in console.read_bytes()


def _key(kernel: Path) -> str:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    qemu = Path(process.find(QEMU)).stat()
    return hashlib.sha256(
        repr([boot_id, qemu.st_mtime_ns, qemu.st_size, *_likeness(kernel)]).encode()
    ).hexdigest()


def _likeness(kernel: Path) -> list[object]:
    """The same for a copy of a kernel, wherever it lies: its size, its begin and its end."""
    with kernel.open("rb") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        found: list[object] = [size_bytes]
        for offset in (0, max(0, size_bytes - _SAMPLE_BYTES)):
            file.seek(offset)
            found.append(hashlib.sha256(file.read(_SAMPLE_BYTES)).hexdigest())
    return found


def _remembered(path: Path) -> dict[str, object]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(path: Path, known: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(known).encode())
