"""The machine that the figures are of: what they depend on, and nothing that names it."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Dict, Optional

from vmcapsule import process
from vmcapsule.errors import ToolError
from vmcapsule.vm import accelerator


def describe(scratch: Path, kernel: Optional[Path], cache: Path) -> Dict[str, str]:
    """Describe this machine; ``scratch`` is where the work is done."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{_memory_gib()} GiB",
        "file system": _file_system(scratch),
        "Linux": platform.release(),
        "system": _system(),
        "Python": platform.python_version(),
        "QEMU": _version("qemu-system-x86_64", r"version ([\d.]+)"),
        "mtools": _version("mcopy", r"mtools\) ([\d.]+)"),
        "virtual machines": "KVM"
        if accelerator.choose(kernel, cache) == accelerator.KVM
        else "emulated (TCG)",
    }


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1) if match else platform.machine()


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _file_system(folder: Path) -> str:
    """The kind of the file system that ``folder`` lies in (proc(5), mountinfo)."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = left.split()[4]
        inside = str(folder) == mount or str(folder).startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    return kind


def _system() -> str:
    match = re.search(r'^PRETTY_NAME="(.+)"$', _os_release(), re.MULTILINE)
    return match.group(1) if match else sys.platform


def _os_release() -> str:
    path = Path("/etc/os-release")
    return path.read_text() if path.exists() else ""


def _version(program: str, pattern: str) -> str:
    try:
        said = process.run([program, "--version"], timeout_s=20).stdout.decode()
    except ToolError:
        return "not installed"
    match = re.search(pattern, said)
    return match.group(1) if match else "unknown"
