"""What runs in a vanilla slot: boots the capsule that came with it, and ends as the job did.

It is shipped with the routed job as one file (see `vmcapsule.program`) and needs only
Python's standard library and QEMU there.  Its own exit status is the job's: the same
code, or death by the same signal.  Retries, ``on_exit_hold`` and the like, which
HTCondor evaluates when the routed job exits, so stay true.

When the guest did not report (it died, hung, or its disk is damaged), this program dies
by `capsule.UNREPORTED_SIGNAL`, which nothing else sends, and the routed ad has the run
repeated.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn, Optional

from vmcapsule import capsule, extract
from vmcapsule.disk.vmdk import read_vmdk
from vmcapsule.errors import VmCapsuleError, one_line
from vmcapsule.run import boot_capsule


def main() -> int:
    """Boot the capsule in the current folder; return the job's exit code."""
    signal.signal(signal.SIGTERM, _stop)
    here = Path.cwd()
    try:
        made = arrived(capsule.load(here), here)
        kind = boot_capsule(made, cache=here, timeout_s=None)
        with extract.opened(
            made.data_disk, made.part_offset_bytes, here, made.data_bytes
        ) as disk:
            job_exit = extract.read_exit(disk)
            extract.read_outputs(disk, job_exit)
        hand_back(made)
    except (VmCapsuleError, OSError) as error:
        print(f"vmcapsule: {one_line(str(error))}", file=sys.stderr, flush=True)
        hand_back_nothing(here, str(error))
        die(capsule.UNREPORTED_SIGNAL)
    print(f"job {made.job_id}: status {job_exit.status} ({kind})", flush=True)
    if job_exit.exit_signal is not None:
        die(job_exit.exit_signal)
    return job_exit.exit_code or 0


def arrived(made: capsule.Capsule, here: Path) -> capsule.Capsule:
    """The capsule with every file where file transfer put it: by base name, ``here``."""

    def moved(path: Optional[Path]) -> Optional[Path]:
        return here / path.name if path is not None else None

    return replace(
        made,
        folder=here,
        data_disk=here / made.data_disk.name,
        system_disk=here / made.system_disk.name,
        kernel=moved(made.kernel),
        initrd=moved(made.initrd),
    )


def hand_back(made: capsule.Capsule) -> None:
    """Put the data disk's files where the routed job's output list finds them.

    Under another name than they came: the capsule on the access point keeps its own
    until the outputs are delivered, so that a run can be repeated.
    """
    returned = made.folder / capsule.RETURNED
    returned.mkdir(exist_ok=True)
    for file in read_vmdk(made.data_disk).files:
        file.rename(returned / file.name)


def hand_back_nothing(here: Path, reason: str) -> None:
    """Leave the folder that the output list names, with nothing but the reason in it.

    Without it file transfer would fail and hold the job before it could be run again.
    """
    returned = here / capsule.RETURNED
    returned.mkdir(exist_ok=True)
    (returned / "reason.txt").write_text(one_line(reason) + "\n", errors="backslashreplace")


def die(number: int) -> NoReturn:
    """End by a signal, as the job did, without a core file of our own."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL) if number not in _UNCATCHABLE else None
    os.kill(os.getpid(), number)
    # A signal that is ignored by default does not kill: tell it as a shell would.
    os._exit(128 + number)


_UNCATCHABLE = (signal.SIGKILL, signal.SIGSTOP)


def _stop(number: int, frame: Optional[FrameType]) -> None:
    """The starter ends us when the job is removed, held or evicted."""
    raise KeyboardInterrupt(number)
