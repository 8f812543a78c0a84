"""How much disk a routed job uses where it runs, at the peak, beside what it claims.

Its outputs are as large as its inputs, and fill the disk that it requests.  What is used
is looked at again and again: files that are removed already and still open count as well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Iterator

from bench.place import MIB, Place, folder_for, make_tree
from bench.results import Measure, Outcome, Target
from vmcapsule.classad.ads import Ad, parse_ad, quote
from vmcapsule.errors import ToolError
from vmcapsule.process import run

_EVERY_S = 0.2
_JOB = """\
ClusterId = 1
ProcId = 0
Owner = "nobody"
JobUniverse = 5
Iwd = {iwd}
Cmd = {cmd}
TransferInput = "in"
TransferOutput = "out"
RequestMemory = 256
RequestCpus = 1
RequestDisk = {disk_kib}
"""


def disk(place: Place) -> Outcome:
    """One large file in, one as large out."""
    size_bytes = place.sizes.large_bytes
    with folder_for(place, "slot") as folder:
        routed = _routed(place, folder, size_bytes)
        sandbox = _transferred(routed, folder / "sandbox")
        peak_bytes = _peak_bytes(sandbox, sandbox / Path(routed.string("Cmd") or "").name)
    claimed_mib = (routed.integer("RequestDisk") or 0) / 1024
    target = Target("MiB of disk, of those it claims", peak_bytes / MIB, claimed_mib)
    size_mib = size_bytes // MIB
    return Outcome(
        (Measure(f"in a slot: {size_mib} MiB in, {size_mib} MiB out", {}, (target,)),)
    )


def _routed(place: Place, folder: Path, size_bytes: int) -> Ad:
    make_tree(folder / "in", 1, size_bytes)
    program = folder / "copy.sh"
    program.write_text("#!/bin/sh\nmkdir out && cp in/* out\n")
    program.chmod(0o755)
    text = _JOB.format(
        iwd=quote(str(folder)), cmd=quote(str(program)), disk_kib=-(-size_bytes // 1024)
    )
    todo = place.vmcapsule("translate", stdin=text)
    done = run(todo.argv, stdin=text, env={**os.environ, **todo.env}, timeout_s=600)
    return parse_ad(done.stdout.decode())


def _transferred(routed: Ad, sandbox: Path) -> Path:
    """What HTCondor's file transfer leaves in a new slot."""
    sandbox.mkdir()
    for name in [*(routed.string("TransferInput") or "").split(","), routed.string("Cmd")]:
        shutil.copy(str(name), sandbox)
    return sandbox


def _peak_bytes(sandbox: Path, program: Path) -> int:
    """Run the program in the slot; the most that was in use while it ran."""
    peak_bytes = 0
    with subprocess.Popen([program], cwd=sandbox, env={"PATH": os.environ["PATH"]}) as slot:
        while slot.poll() is None:
            peak_bytes = max(peak_bytes, _used_bytes(sandbox, slot.pid))
            time.sleep(_EVERY_S)
    if slot.returncode != 0:
        raise ToolError(f"the job in the slot ended with {slot.returncode}")
    return peak_bytes


def _used_bytes(sandbox: Path, pid: int) -> int:
    blocks = {}
    for path in (*sandbox.rglob("*"), *_open_files(pid)):
        with contextlib.suppress(OSError):  # it went while we looked
            status = path.stat() if str(path).startswith("/proc") else path.lstat()
            if status.st_dev == sandbox.stat().st_dev:
                blocks[status.st_ino] = status.st_blocks
    return 512 * sum(blocks.values())


def _open_files(pid: int) -> Iterator[Path]:
    """What a process and all below it have open that no folder has any more."""
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(link.readlink()).endswith(" (deleted)"):
                    yield link
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _open_files(int(child))
