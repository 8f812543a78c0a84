"""One job on one machine: pack it, boot it, deliver what it left.  No pool is needed."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Callable, Iterator, Mapping, Optional

from vmcapsule.capsule import making, naming, states
from vmcapsule.capsule.booting import boot_capsule
from vmcapsule.capsule.delivery import deliver_from
from vmcapsule.capsule.packing import pack, plan
from vmcapsule.capsule.record import Capsule
from vmcapsule.config import Config
from vmcapsule.errors import GuestError, OutputMissing, VmCapsuleError
from vmcapsule.guest.exit_record import JobExit
from vmcapsule.job.source import SourceJob
from vmcapsule.named import NamedTuple
from vmcapsule.template.tarball import HTCondorTarball
from vmcapsule.template.template import Template

Progress = Callable[[str], None]


class RunResult(NamedTuple):
    """What became of a job: how it ended, where its outputs are, where the time went."""

    job_id: str
    exit: JobExit
    outputs: tuple[str, ...]
    phases_s: Mapping[str, float]
    accelerator: str
    capsule: Optional[Path]


class _Clock:
    """Collects how long each phase took."""

    def __init__(self) -> None:
        self.phases_s: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.phases_s[name] = round(time.monotonic() - started, 3)


def run_job(
    job: SourceJob,
    template: Template,
    config: Config,
    *,
    tarball: Optional[HTCondorTarball],
    timeout_s: Optional[float],
    keep: bool = False,
    progress: Progress = lambda phase: None,
) -> RunResult:
    """Run ``job`` in a VM and deliver its outputs; under HTCondor with a ``tarball``.

    ``progress`` is told the name of each phase as it begins.  The capsule is removed at
    the end unless ``keep`` is set or its outputs could not be delivered.
    """
    clock = _Clock()
    progress("packing")
    with clock.phase("pack"):
        made = pack(plan(job, template, config, tarball, naming.RUN))
    with states.locked(made.folder):
        return _run_packed(made, job, config, timeout_s, keep, progress, clock)


def _run_packed(
    made: Capsule,
    job: SourceJob,
    config: Config,
    timeout_s: Optional[float],
    keep: bool,
    progress: Progress,
    clock: _Clock,
) -> RunResult:
    has_run = False
    try:
        progress("booting")
        with clock.phase("boot"):
            kind = boot_capsule(
                made, cache=config.cache, timeout_s=timeout_s, alive=lambda: progress("running")
            )
        has_run = True
        progress("delivering")
        with clock.phase("deliver"):
            job_exit, outputs = deliver_from(made, job)
        kept = made.folder if keep else None
        phases_s = _phases(clock.phases_s, job_exit)
        result = RunResult(job.job_id, job_exit, outputs, phases_s, kind, kept)
    except BaseException as error:
        _dispose(made, keep or (has_run and _is_undelivered(error)), error)
        raise
    if keep:
        states.keep(made.folder)
    else:
        making.remove(made.folder)
    return result


def _phases(host: Mapping[str, float], job_exit: JobExit) -> dict[str, float]:
    """The host's phases with the guest's, which happen within 'boot', set in."""
    inside = {f"guest {name}": seconds for name, seconds in job_exit.phases_s.items()}
    return {"pack": host["pack"], "vm": host["boot"], **inside, "deliver": host["deliver"]}


def _is_undelivered(error: BaseException) -> bool:
    """Whether outputs may be there that did not arrive, whatever stood in their way.

    Not so where the guest says that there are none, or the job left too few.
    """
    return not isinstance(error, (GuestError, OutputMissing))


def _dispose(made: Capsule, keep: bool, error: BaseException) -> None:
    if not keep:
        making.remove(made.folder)
        return
    states.keep(made.folder)
    if isinstance(error, VmCapsuleError):
        error.message = f"{error.message} [the capsule is kept: {made.folder}]"
    elif isinstance(error, KeyboardInterrupt):
        number = error.args[0] if error.args else signal.SIGINT
        error.args = (number, f"the capsule is kept: {made.folder}")
