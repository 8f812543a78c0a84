"""The whole way of a job in its slot: packed, run by a machine, put back; it ends as the job.

What takes the job's place here is started as the job is: in its sandbox, as its owner, with
its arguments, environment and streams.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path
from types import FrameType
from typing import Iterator, Optional

from vmcapsule.capsule.booting import boot_capsule
from vmcapsule.capsule.record import Capsule
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.errors import ExecFailed, VmCapsuleError
from vmcapsule.guest import extract
from vmcapsule.guest.exit_record import JobExit, read_exit
from vmcapsule.slot.ending import die
from vmcapsule.slot.packed.carry import Settings, make
from vmcapsule.slot.packed.found import Found
from vmcapsule.slot.packed.put_back import append, put_back
from vmcapsule.slot.starter import read_slot
from vmcapsule.template.template import load
from vmcapsule.vm.watch import last_line

STOPS = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP),
    # By which a job's kill_sig may ask it to end.
    *(signal.SIGUSR1, signal.SIGUSR2),
)


def run(found: Found, template: Path, settings: Settings) -> JobExit:
    """Run a job in a machine of ``template``; say how it ended, or die as it is told to.

    Whatever is raised is not the job's end: `vmcapsule.slot.entry` tells HTCondor so.
    """
    for number in STOPS:
        signal.signal(number, _stop)
    try:
        with _aside(found.here) as folder:
            return _run(found, template, settings, folder)
    except KeyboardInterrupt as stop:
        die(int(stop.args[0]))


def end(job_exit: JobExit) -> int:
    """Return the exit code of a job, or die by the signal that it died by."""
    if job_exit.exit_signal is not None:
        die(job_exit.exit_signal)
    return job_exit.exit_code or 0


@contextlib.contextmanager
def _aside(here: Path) -> Iterator[Path]:
    """A folder in the sandbox that the job does not see, and that is gone in the end."""
    folder = Path(tempfile.mkdtemp(prefix=".vmcapsule-", dir=here))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(found: Found, template: Path, settings: Settings, folder: Path) -> JobExit:
    made = make(found, load(template), settings, folder)
    told = read_slot(found.here, dict(found.environment))
    try:
        boot_capsule(made, cache=folder, timeout_s=made.timeout_s, kvm=told.kvm)
        return _back(found, made)
    except VmCapsuleError as error:
        if made.console.is_file() and not isinstance(error, ExecFailed):
            error.message += last_line(made.console)
        raise


def _back(found: Found, made: Capsule) -> JobExit:
    """Bring back what the job left; say how it ended."""
    with DataDisk(made.data_disk, None).opened(made.folder, made.data_bytes) as volume:
        job_exit = read_exit(volume)
        outputs = extract.read_outputs(volume, job_exit)
        streams = dict.fromkeys(filter(None, (found.stdout, found.stderr)))
        omit = [*streams, *found.omit]
        put_back(volume, outputs, job_exit, os.fspath(found.here), omit)
        for fd, name in ((1, found.stdout), (2, found.stderr)):
            if name in streams:
                del streams[name]
                append(volume, outputs, name, fd)
    return job_exit


def _stop(number: int, frame: Optional[FrameType]) -> None:
    """End like by Ctrl-C, so that QEMU goes first.  A second one would be in the way."""
    for each in STOPS:
        signal.signal(each, lambda *_: None)
    raise KeyboardInterrupt(number)
