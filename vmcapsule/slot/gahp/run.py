"""What the process of a gahp's machine does: it boots the capsule that came with a job, and
ends as the job did.

Its own exit status is the job's: the same code, or death by the same signal.  Retries,
``on_exit_hold`` and the like, which HTCondor evaluates when the routed job exits, so stay true.

When the guest did not report (it died, hung, or its disk is damaged), this process dies
by `UNREPORTED_SIGNAL`, which nothing else sends, and the routed ad has the run
repeated.  What happened, and how often, goes into the job's ad by chirp where that is
not switched off; `vmcapsule.router.at_exit` makes a hold and its reason of it.  A program
that the guest's system does not start is not tried again: the job waits, and is held.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Callable, Iterable, Mapping, Optional, Union

from vmcapsule.capsule.booting import boot_capsule
from vmcapsule.capsule.record import (
    CONSOLE,
    HANDED_BACK,
    ISOLATION,
    RETURNED,
    UNREPORTED_SIGNAL,
    WANTED,
    Capsule,
    load_capsule,
)
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.disk import Disk
from vmcapsule.errors import ExecFailed, ToolError, VmCapsuleError, one_line
from vmcapsule.guest import extract, staging
from vmcapsule.guest.exit_record import JobExit, as_reported, read_exit
from vmcapsule.slot import chirp
from vmcapsule.slot import starter as slot
from vmcapsule.slot.ending import FROM_OUTSIDE, details, die, say
from vmcapsule.slot.gahp.return_disk import write_return
from vmcapsule.slot.starter import Slot, read_slot
from vmcapsule.transfer.entries import FOLDER
from vmcapsule.vm.watch import last_line

#: By what we are ended.
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_REASON_CHARS_MAX = 300
#: The folder beside the returned disk for what HTCondor shall tell of by failing on it.
_UNSENT = "unsent"


def in_qemu(made: Capsule, told: Slot) -> str:
    """Boot what came with QEMU; return the accelerator's name."""
    return boot_capsule(made, cache=made.folder, timeout_s=made.timeout_s, kvm=told.kvm)


def main(run: Callable[[Capsule, Slot], str]) -> int:
    """Boot the capsule in the current folder; return the job's exit code.

    ``run`` boots it, waits until it has powered off, and returns what kept the guest from
    the machine, as `ISOLATION` has it.  `FROM_OUTSIDE` says that the run is to be repeated.
    """
    for number in STOPS:
        signal.signal(number, _stop)
    here = Path.cwd()
    try:
        job_exit = _run_or_die(here, run)
    except KeyboardInterrupt as stop:
        if stop.args[0] == FROM_OUTSIDE:
            hand_back_nothing(here, "the vm-gahp was ended from outside")
            die(UNREPORTED_SIGNAL)
        # Removed, held or evicted: nothing is transferred then, and nothing shall be.
        shutil.rmtree(here / RETURNED, ignore_errors=True)
        die(int(stop.args[0]))
    if job_exit.exit_signal is not None:
        if job_exit.exit_signal == signal.SIGKILL:
            here_told = read_slot(here, os.environ)
            _chirp({slot.KILLED_RUN: here_told.completions + 1}, here_told)
        die(job_exit.exit_signal)
    return job_exit.exit_code or 0


def _run_or_die(here: Path, run: Callable[[Capsule, Slot], str]) -> JobExit:
    """Run the capsule ``here``; say how its job ended, or die saying that it did not."""
    try:
        made, told = arrived(load_capsule(here), here), read_slot(here, os.environ)
        disk = DataDisk(made.data_disk, made.part_offset_bytes)
        if told.starts:
            staging.tell_starts(told.starts, disk)
        kind = run(made, told)
        with disk.with_redo_log(here).opened(here, made.data_bytes) as volume:
            job_exit = read_exit(volume)
            outputs = extract.read_outputs(volume, job_exit)
            made = made._replace(data_disk=write_return(volume, outputs, made, aside(here)))
        hand_back(made, job_exit, {entry.path: entry.kind for entry in outputs.entries})
        (here / RETURNED / ISOLATION).write_text(kind)
        # Last: from here on the disk is this run's.
        (here / RETURNED / HANDED_BACK).write_text("yes\n")
    except Exception as error:  # whatever failed, it is not the job's end
        reason = _reason(error, here / CONSOLE)
        say(f"vmcapsule: {reason}", sys.stderr)
        hand_back_nothing(here, reason, _details(error))
        tell(error, reason, read_slot(here, os.environ))
        die(UNREPORTED_SIGNAL)
    say(f"job {made.job_id}: status {job_exit.status} ({kind})", sys.stdout)
    return job_exit


def _details(error: Exception) -> str:
    """Where a fault of our own lies, for who is to mend it; nothing for what can happen."""
    if isinstance(error, (VmCapsuleError, OSError)):
        return ""
    told = details()
    say(told, sys.stderr)
    return told


def aside(here: Path) -> Path:
    """A new folder for what is to be handed back."""
    folder = here / "outgoing"
    folder.mkdir()
    return folder


def arrived(made: Capsule, here: Path) -> Capsule:
    """The capsule with every file where file transfer put it: by base name, ``here``."""

    def moved(path: Optional[Path]) -> Optional[Path]:
        return here / path.name if path is not None else None

    return made._replace(
        folder=here,
        data_disk=here / made.data_disk.name,
        system_disk=here / made.system_disk.name,
        vmx=moved(made.vmx),
        kernel=moved(made.kernel),
        initrd=moved(made.initrd),
    )


def hand_back(
    made: Capsule, job_exit: JobExit, came: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Put the data disk's files where the routed job's output list finds them.

    ``came`` has the kind of each output, by its path.

    Under another name than they came: the capsule on the access point keeps its own
    until the outputs are delivered, so that a run can be repeated.  For an output that
    file transfer could not send natively there is a stand-in that it cannot send either.
    """
    returned = made.folder / RETURNED
    returned.mkdir(exist_ok=True)
    for file in Disk.at(made.data_disk).files:
        file.rename(returned / file.name)
    lacking = {os.path.normpath(item) for item in job_exit.missing_outputs}
    vouched: list[str] = []
    # The guest names the first few that are missing.  HTCondor tells of the first that it
    # does not find, so what comes before that one is not to be missed, come or not (a socket
    # that was listed is no fault).
    all_left = True
    for item in _wanted(made):
        all_left = all_left and as_reported(item) not in lacking
        if all_left or item in came:
            vouched.append(item)
    for item in _deepest_first(vouched):
        _vouch_for(item, made.folder, is_folder=came.get(item) == FOLDER)
    # Of several, HTCondor tells of the first only.
    for path, why in job_exit.unsent_outputs[:1]:
        _put_unsendable(returned / _UNSENT / plain(path), why)


def _put_unsendable(place: Path, why: int) -> None:
    """Make what file transfer fails to send, saying why: a link to a folder, or a file
    that nobody may read."""
    place.parent.mkdir(exist_ok=True)
    if why == errno.EISDIR:
        place.symlink_to(".")
    else:
        place.touch(0)


def plain(path: str) -> str:
    """The last part of a path that the guest chose, as a name that any folder can have."""
    name = re.sub(r"[^\w.+-]", "_", path.rpartition("/")[2], flags=re.ASCII)[-100:]
    return name if name.strip(".") else "_"


def _wanted(made: Capsule) -> list[str]:
    return [item for item in made.wanted_outputs.split(",") if item]


def _deepest_first(items: Iterable[str]) -> list[str]:
    """Listed outputs, those in a folder before the folder, which may be listed too."""
    return sorted(items, key=lambda item: (-item.count("/"), item))


def _vouch_for(item: str, here: Path, *, is_folder: bool = False) -> None:
    """Let file transfer find what it is to find of an output that is there."""
    place = here / WANTED / item
    (place if is_folder else place.parent).mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.touch()


def begin_return(here: Path) -> None:
    """Make the folder that goes back, which says that this run has handed nothing back yet."""
    (here / RETURNED).mkdir(exist_ok=True)
    (here / RETURNED / HANDED_BACK).write_bytes(b"")


def hand_back_nothing(here: Path, reason: str, details: str = "") -> None:
    """Leave what the output list names, with nothing but the reason in it.

    Without that file transfer would fail and hold the job before it could be run again.  What
    cannot be made, on a full disk, is left out.
    """
    returned = here / RETURNED
    shutil.rmtree(returned, ignore_errors=True)
    with contextlib.suppress(OSError):
        begin_return(here)
        text = f"{reason}\n{details}"
        (returned / "reason.txt").write_text(text, errors="backslashreplace")
    with contextlib.suppress(VmCapsuleError):  # no capsule came, so nothing else is listed
        for item in _deepest_first(_wanted(load_capsule(here))):
            with contextlib.suppress(OSError):
                _vouch_for(item, here)


def _reason(error: Exception, console: Path) -> str:
    """What went wrong, in one line of bounded length, with the guest's last words."""
    message = error.message if isinstance(error, VmCapsuleError) else str(error)
    if not isinstance(error, (VmCapsuleError, OSError)):
        message = f"{type(error).__name__}: {message}"
    reason = one_line(message, _REASON_CHARS_MAX)
    if isinstance(error, ExecFailed) or "Kernel panic" in message or "console" in message:
        return reason
    if not console.is_file():
        return reason
    return one_line(reason + last_line(console))


def tell(error: Exception, reason: str, here: Slot) -> None:
    """Put into the job's ad that its guest did not report, or not of a run, and why."""
    where = f"{here.machine or socket.gethostname()}: {reason}"
    changes: dict[str, Union[int, str]] = {}
    if isinstance(error, ExecFailed):
        changes = {
            slot.HOLD_REASON: f"vmcapsule: {where}",
            slot.HOLD_SUBCODE: error.number,
            slot.HOLD_CODE: error.hold_code,
        }
    changes = {
        **changes,
        slot.AVOID_UNTIL: int(time.time()) + slot.AVOID_S,
        slot.UNREPORTED_REASON: where,
        slot.UNREPORTED: here.unreported + 1,
        # Last: it says that the others are there.
        slot.UNREPORTED_RUN: here.completions + 1,
    }
    # The routed ad does without: it counts the job's completions then.
    _chirp(changes, here)


def _chirp(changes: Mapping[str, Union[int, str]], here: Slot) -> None:
    try:
        chirp.set_delayed(changes, here.chirp)
    except ToolError as refused:
        say(f"vmcapsule: warning: {one_line(str(refused))}", sys.stderr)


def _stop(number: int, frame: Optional[FrameType]) -> None:
    """End like by Ctrl-C, so that QEMU goes first.  A second one would be in the way."""
    for each in STOPS:
        signal.signal(each, lambda *_: None)
    raise KeyboardInterrupt(number)
