"""A capsule that runs ``true``, beside a kernel that does nothing but power off.

The floor has the same kernel, command line, disks and QEMU options; its initrd holds
busybox and turns the machine off at once.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path

from bench.measure import Contender, alternate, command, timed
from bench.place import Place, folder_for, fresh
from bench.results import OURS, Measure, Outcome, at_most
from vmcapsule.capsule.record import load_capsule
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.errors import ToolError
from vmcapsule.guest import bundle
from vmcapsule.guest.exit_record import read_exit
from vmcapsule.images.initrd import CpioEntry, cpio
from vmcapsule.process import find
from vmcapsule.vm import accelerator, boot

FLOOR = "floor"
_INIT = b"#!/bin/busybox sh\nexec /bin/busybox poweroff -f\n"


def floor_initrd() -> bytes:
    """An initrd that powers the machine off."""
    busybox = Path(find("busybox")).read_bytes()
    return cpio(
        [
            CpioEntry("bin", stat.S_IFDIR | 0o755),
            CpioEntry("dev", stat.S_IFDIR | 0o755),
            CpioEntry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
            CpioEntry("bin/busybox", stat.S_IFREG | 0o755, busybox),
            CpioEntry("init", stat.S_IFREG | 0o755, _INIT),
        ]
    )


def contenders(place: Place, runner: str, folder: Path) -> list[Contender]:
    """``vmcapsule boot`` of a capsule that was just packed, and the floor."""
    ours, floor = folder / "ours", folder / "floor"

    def pack(target: Path) -> None:
        fresh(target)
        timed(place.driver("pack", runner, target))

    pack(floor)
    made = load_capsule(floor)
    (folder / "floor.img").write_bytes(floor_initrd())
    machine = boot.Machine(
        system_disk=made.system_disk,
        data_disk=made.data_disk,
        cpus=made.cpus,
        memory_mib=made.memory_mib,
        accelerator=accelerator.choose(made.kernel, place.config.cache),
        kernel=made.kernel,
        initrd=folder / "floor.img",
        cmdline=made.cmdline,
    )
    qemu = command(
        *boot.qemu_command(machine, folder / "floor.log"), env={"TMPDIR": str(folder)}
    )
    return [
        Contender(OURS, place.vmcapsule("boot", ours), lambda: pack(ours)),
        Contender(FLOOR, qemu),
    ]


def direct(place: Place) -> Outcome:
    """The job is started by the guest's own script."""
    return _row(place, bundle.DIRECT, "boot, run true, power off: direct", 2.0)


def condor(place: Place) -> Outcome:
    """The job runs under the guest's personal HTCondor."""
    return _row(place, bundle.CONDOR, "boot, run true, power off: HTCondor", 5.0)


def _row(place: Place, runner: str, what: str, bound: float) -> Outcome:
    with folder_for(place, f"boot-{runner}") as folder:
        runs = alternate(contenders(place, runner, folder), place.sizes.boots, budget_s=600)
        _check(folder / "ours", runner)
    return Outcome((Measure(what, runs, (at_most(runs, FLOOR, bound),)),))


def _check(folder: Path, runner: str) -> None:
    """The guest really ran the job; `ToolError` where not."""
    made = load_capsule(folder)
    with DataDisk(made.data_disk).opened(made.folder) as volume:
        job_exit = read_exit(volume)
    if (job_exit.runner, job_exit.exit_code) != (runner, 0):
        raise ToolError(f"the guest reported {json.dumps(job_exit.runner)}, {job_exit.status}")
