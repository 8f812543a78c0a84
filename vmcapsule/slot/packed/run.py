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
from typing import Callable, Iterator, Optional

from vmcapsule import contract
from vmcapsule.capsule.booting import boot_capsule
from vmcapsule.capsule.record import Capsule
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.errors import ExecFailed, VmCapsuleError
from vmcapsule.guest import extract
from vmcapsule.guest.exit_record import JobExit, read_exit
from vmcapsule.named import NamedTuple
from vmcapsule.slot.ending import die
from vmcapsule.slot.packed.carry import STARTERS_OWN, Settings, make
from vmcapsule.slot.packed.found import Found
from vmcapsule.slot.packed.links import Links
from vmcapsule.slot.packed.live import Live, Stream
from vmcapsule.slot.packed.put_back import append, put_back
from vmcapsule.slot.packed.shells import open_in
from vmcapsule.slot.packed.usage import Usage
from vmcapsule.slot.starter import read_slot
from vmcapsule.template.cache import in_use
from vmcapsule.template.template import load
from vmcapsule.vm import line
from vmcapsule.vm.line import Line
from vmcapsule.vm.watch import last_line

STOPS = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP),
    # By which a job's kill_sig may ask it to end.
    *(signal.SIGUSR1, signal.SIGUSR2),
)


class Run(NamedTuple):
    """A run to the job's end, and by what its machine was one: the accelerator's name."""

    job_exit: JobExit
    isolation: str


def run(found: Found, template: Path, settings: Settings) -> Run:
    """Run a job in a machine of ``template``; say how it ended, or die as it is told to.

    Signals are the job's once it runs.  Whatever is raised is not the job's end:
    `vmcapsule.slot.entry` tells HTCondor so.
    """
    _at_signals(lambda number, _: _stop(number))
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(in_use(template))
            folder = stack.enter_context(_aside(found.here))
            ours = stack.enter_context(line.made(folder / "line"))
            shells = stack.enter_context(open_in(found.here))
            usage = [Usage(found.chirp.config)] if found.chirp else []
            live = Live(ours, _streams(found), Links(found.chirp), shells, *usage)
            _at_signals(lambda number, _: None if live.send_signal(number) else _stop(number))
            made = make(found, load(template), settings, folder)
            with live.listening():
                isolation = _boot(found, made, ours)
            return Run(_back(found, made, live), isolation)
    except KeyboardInterrupt as stop:
        die(int(stop.args[0]))


def _at_signals(handler: Callable[[int, Optional[FrameType]], object]) -> None:
    for number in STOPS:
        signal.signal(number, handler)


def _streams(found: Found) -> dict[bytes, Stream]:
    """The job's own in its slot; both in one where they go to one file."""
    streams = {contract.LINE_STDOUT: Stream(1)} if found.stdout else {}
    if found.stderr not in (None, found.stdout):
        streams[contract.LINE_STDERR] = Stream(2)
    return streams


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


def _boot(found: Found, made: Capsule, ours: Line) -> str:
    told = read_slot(found.here, dict(found.environment))
    try:
        return boot_capsule(
            made,
            cache=made.folder,
            timeout_s=made.timeout_s,
            kvm=told.kvm,
            line=ours.path,
        )
    except VmCapsuleError as error:
        if made.console.is_file() and not isinstance(error, ExecFailed):
            error.message += last_line(made.console)
        raise


def _back(found: Found, made: Capsule, live: Live) -> JobExit:
    """Bring back what the job left; say how it ended."""
    names = {contract.LINE_STDOUT: found.stdout, contract.LINE_STDERR: found.stderr}
    with DataDisk(made.data_disk, None).opened(made.folder, made.data_bytes) as volume:
        job_exit = read_exit(volume)
        outputs = extract.read_outputs(volume, job_exit)
        omit = [*filter(None, names.values()), *found.omit, *STARTERS_OWN]
        put_back(volume, outputs, job_exit, os.fspath(found.here), omit)
        for kind, stream in live.streams.items():
            append(volume, outputs, str(names[kind]), stream)
    return job_exit


def _stop(number: int) -> None:
    """End like by Ctrl-C, so that QEMU goes first.  A second one would be in the way."""
    _at_signals(lambda *_: None)
    raise KeyboardInterrupt(number)
