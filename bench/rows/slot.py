"""A job with a large file that leaves one as large, packed in its slot: what that takes there
beside the files themselves.

Its outputs fill the disk that it requests.  What is used is looked at again and again: files
that are removed already and still open count as well.  Timed is what is done with the files
before its machine runs and after that, beside a copy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Iterator, NamedTuple

from bench.measure import Run, command, timed
from bench.place import MIB, Place, folder_for, fresh, make_tree
from bench.results import OURS, Measure, Outcome, Target, at_most
from bench.rows.staging import CP
from vmcapsule.classad.ads import parse_ad
from vmcapsule.errors import ToolError
from vmcapsule.slot.packed.share import request_disk
from vmcapsule.slot.program import PROGRAM, write_program

_RUNS = 3
_EVERY_S = 0.02
#: How many times between two looks at the disk there is one at the processes.
_DISK_EVERY = 10
_MACHINE_AD = """\
Cpus = 1
Memory = 768
Disk = {disk_kib}
VMCapsuleKVM = false
VMCapsuleTemplates = "bench"
VMCapsuleTemplatePaths = "{template}"
"""


class Seen(NamedTuple):
    """What was seen of a run: when its machine was there first and last, bytes at the most."""

    first_s: float
    last_s: float
    peak_bytes: int


class Slot(NamedTuple):
    """What a run in a slot took: seconds without its machine, bytes at the most."""

    around_s: float
    peak_bytes: int


def large(place: Place) -> Outcome:
    """One large file in, one as large out."""
    size_bytes = place.sizes.large_bytes
    with folder_for(place, "slot") as folder:
        tree = make_tree(folder / "tree", 1, size_bytes)
        copied, ours, peak_bytes = [], [], 0
        for number in range(_RUNS):
            fresh(folder / "copied", folder / "sandbox")
            os.sync()
            copied.append(timed(command("cp", "-r", tree, folder / "copied")))
            found = _in_slot(place, folder / "sandbox", tree, size_bytes)
            ours.append(Run(found.around_s))
            peak_bytes = max(peak_bytes, found.peak_bytes)
            place.say(f"run {number + 1} of {_RUNS}")
    runs = {OURS: tuple(ours), CP: tuple(copied)}
    what = f"in a slot: {size_bytes // MIB} MiB in, {size_bytes // MIB} MiB out"
    disk = Target("MiB of disk, of those it claims", peak_bytes / MIB, _claimed_mib(size_bytes))
    return Outcome(
        (
            Measure(f"{what}, without the machine", runs, (at_most(runs, CP, 2.4),)),
            Measure(f"{what}: at the peak", {}, (disk,)),
        )
    )


def _claimed_mib(size_bytes: int) -> float:
    """What is asked of a slot for a job whose files, in and out, fill what it requests."""
    asked = f"RequestDisk = {request_disk(str(2 * size_bytes // 1024))}"
    return (parse_ad(asked).integer("RequestDisk") or 0) / 1024


def _in_slot(place: Place, sandbox: Path, tree: Path, size_bytes: int) -> Slot:
    """Run a job in a sandbox that is as HTCondor's file transfer leaves it."""
    sandbox.mkdir()
    shutil.copy(tree / "f00000", sandbox / "in")
    program = sandbox / "condor_exec.exe"
    program.write_text("#!/bin/sh\ncp in out\n")
    program.chmod(0o755)
    ad = _MACHINE_AD.format(disk_kib=8 * size_bytes // 1024, template=place.config.template)
    (sandbox / ".machine.ad").write_text(ad)
    (sandbox / ".job.ad").write_text("ClusterId = 1\nProcId = 0\n")
    ours = write_program(sandbox.parent / PROGRAM)
    argv: list[str | Path] = [ours, "packed", "--timeout=900", "--", program]
    os.sync()
    started_s = time.monotonic()
    env = {"PATH": os.environ["PATH"]}
    with subprocess.Popen(argv, cwd=sandbox, env=env) as process:
        seen = _watched(process, sandbox)
    ended_s = time.monotonic()
    if process.returncode != 0 or not seen.first_s:
        raise ToolError(f"the job in the slot ended with {process.returncode}")
    if (sandbox / "out").stat().st_size != size_bytes:
        raise ToolError("the job's output has not come back")
    return Slot(seen.first_s - started_s + ended_s - seen.last_s, seen.peak_bytes)


def _watched(process: subprocess.Popen[bytes], sandbox: Path) -> Seen:
    first_s = last_s = 0.0
    peak_bytes = looks = 0
    while process.poll() is None:
        if _has_machine(process.pid):
            last_s = time.monotonic()
            first_s = first_s or last_s
        if looks % _DISK_EVERY == 0:
            peak_bytes = max(peak_bytes, _used_bytes(sandbox, process.pid))
        looks += 1
        time.sleep(_EVERY_S)
    return Seen(first_s, last_s, peak_bytes)


def _has_machine(pid: int) -> bool:
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/exe").readlink().name.startswith("qemu-system"):
                return True
    return False


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
