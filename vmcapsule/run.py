"""One job on one machine: pack it, boot it, deliver what it left.  No pool is needed."""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Mapping, Optional

from vmcapsule import accelerator, boot, bundle, capsule, capsule_name, extract, sandbox
from vmcapsule.config import Config
from vmcapsule.delivery import deliver_from
from vmcapsule.errors import GuestError, OutputMissing, VmCapsuleError
from vmcapsule.job import SourceJob
from vmcapsule.tarball import HTCondorTarball, is_in
from vmcapsule.template import Template

Progress = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """What became of a job: how it ended, where its outputs are, where the time went."""

    job_id: str
    exit: extract.JobExit
    outputs: tuple[Path, ...]
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
        made = pack(job, template, config, tarball, capsule_name.RUN)
    with capsule.held(made.folder):
        return _run_packed(made, job, config, timeout_s, keep, progress, clock)


def _run_packed(
    made: capsule.Capsule,
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
        made.mark(capsule.KEPT)
    else:
        capsule.remove(made.folder)
    return result


def _phases(host: Mapping[str, float], job_exit: extract.JobExit) -> dict[str, float]:
    """The host's phases with the guest's, which happen within 'boot', set in."""
    inside = {f"guest {name}": seconds for name, seconds in job_exit.phases_s.items()}
    return {"pack": host["pack"], "vm": host["boot"], **inside, "deliver": host["deliver"]}


def _is_undelivered(error: BaseException) -> bool:
    """Whether outputs may be there that did not arrive, whatever stood in their way.

    Not so where the guest says that there are none, or the job left too few.
    """
    return not isinstance(error, (GuestError, OutputMissing))


def _dispose(made: capsule.Capsule, keep: bool, error: BaseException) -> None:
    if not keep:
        capsule.remove(made.folder)
        return
    made.mark(capsule.KEPT)
    if isinstance(error, VmCapsuleError):
        error.message = f"{error.message} [the capsule is kept: {made.folder}]"
    elif isinstance(error, KeyboardInterrupt):
        number = error.args[0] if error.args else signal.SIGINT
        error.args = (number, f"the capsule is kept: {made.folder}")


def planned(
    job: SourceJob, load: bundle.Payload, template: Template, config: Config, kind: str
) -> capsule.Capsule:
    """The capsule that ``job`` will have: a folder of its own in scratch, named for its kind.

    Its system disk and kernel are the template's; its data disk has room for ``load`` and
    for the disk that the job requests.  Nothing is made yet.
    """
    name = capsule_name.new_name(kind, job.job_id, job.global_job_id)
    folder = (config.scratch_dir_prefix / name).absolute()
    return capsule.Capsule(
        folder=folder,
        data_disk=folder / template.data_disk.name,
        system_disk=template.system_disk,
        data_bytes=capsule.data_bytes_for(
            template, load.size_bytes + job.request_disk_kib * 1024
        ),
        cpus=job.request_cpus,
        memory_mib=job.request_memory_mib + config.memory_overhead_mib,
        kernel=template.kernel,
        initrd=template.initrd,
        cmdline=template.cmdline,
        part_offset_bytes=config.disk_part_offset_bytes,
        job_id=job.job_id,
        global_job_id=job.global_job_id,
        network=config.network,
        wanted_outputs=",".join(sandbox.wanted_outputs(job)),
    )


def pack(
    job: SourceJob,
    template: Template,
    config: Config,
    tarball: Optional[HTCondorTarball],
    kind: str,
    finish: Callable[[capsule.Capsule, Path], capsule.Capsule] = lambda made, aside: made,
) -> capsule.Capsule:
    """Make a capsule for ``job``: its data disk; the rest stays in the template.

    ``finish`` puts in what else is wanted, into the folder in which the capsule is being
    built, and returns the capsule as it is then.
    """
    load = bundle.payload(
        job,
        init_script=config.init_script,
        tarball=tarball,
        staged=tarball is not None and not is_in(template, tarball),
    )
    made = planned(job, load, template, config, kind)
    offset = made.part_offset_bytes
    with capsule.draft(made.folder) as aside:
        disk = capsule.put_data_disk(template, aside, made.data_bytes, offset)
        bundle.stage(load, disk, offset, aside)
        capsule.save_source_ad(job.ad.long_form(), aside)
        made = finish(made, aside)
        capsule.save(made, aside)
    return made


def boot_capsule(
    made: capsule.Capsule,
    *,
    cache: Path,
    timeout_s: Optional[float],
    alive: Callable[[], None] = lambda: None,
    kvm: Optional[bool] = None,
) -> str:
    """Boot a capsule and wait until it has powered off; return the accelerator's name.

    ``kvm`` says whether KVM works on this machine, where that is known.
    """
    kind = accelerator.choose(made.kernel, cache, kvm)
    machine = boot.Machine(
        system_disk=made.system_disk,
        data_disk=made.data_disk,
        cpus=made.cpus,
        memory_mib=made.memory_mib,
        accelerator=kind,
        kernel=made.kernel,
        initrd=made.initrd,
        cmdline=made.cmdline,
        network=made.network,
    )
    boot.boot(
        machine, console=made.console, scratch=made.folder, timeout_s=timeout_s, alive=alive
    )
    return kind
