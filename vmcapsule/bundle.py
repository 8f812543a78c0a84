"""Job and template to capsule: put what the guest needs onto the data disk."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence

from vmcapsule import contract, guest_files, sandbox
from vmcapsule.disk.extents import Extent, copy_range, write_extents
from vmcapsule.disk.fat import FatVolume
from vmcapsule.disk.fat_tree import lay_out, put_files
from vmcapsule.disk.partition import locate_fat
from vmcapsule.disk.vmdk import raw_edit
from vmcapsule.errors import ConfigError, InputError, SpaceError, TooLarge
from vmcapsule.guest_ad import guest_ad, sandbox_ad
from vmcapsule.job import SourceJob
from vmcapsule.pack import PackPlan, Pieces, plan_packs, unreadable
from vmcapsule.tarball import HTCondorTarball

CONDOR, DIRECT = "condor", "direct"


@dataclass(frozen=True)
class Payload:
    """What goes onto a data disk, whoever asked for it: small files, copies, packs."""

    texts: tuple[tuple[str, bytes], ...]
    copies: tuple[tuple[str, Path], ...]
    packs: PackPlan

    @property
    def size_bytes(self) -> int:
        """How many bytes it takes, without what a file system adds."""
        return (
            sum(len(data) for _, data in self.texts)
            + sum(path.stat().st_size for _, path in self.copies)
            + len(self.packs.index)
            + sum(self.packs.pack_sizes_bytes)
        )


def payload(
    job: SourceJob,
    *,
    init_script: Path,
    tarball: Optional[HTCondorTarball],
    staged: bool = True,
) -> Payload:
    """Collect what the guest needs to run ``job``: under HTCondor with a tarball, else not.

    The tarball itself is not among it where it is not to be ``staged``: the guest has that
    very HTCondor.
    Raises `InputError` for inputs that are missing or unreadable and `ConfigError` for
    an init script or tarball that is.
    """
    for knob, path in (
        ("VM_CAPSULE_INIT_SCRIPT_PATH", init_script),
        ("VM_CAPSULE_CONDOR_TARBALL", tarball.path if tarball else init_script),
    ):
        if not (path.is_file() and os.access(path, os.R_OK)):
            raise ConfigError(f"{knob}: there is no readable file '{path}'", f"correct {knob}")
    texts = [
        (contract.INIT_SCRIPT, init_script.read_bytes()),
        (contract.JOB_RECORD, json.dumps(job_record(job, tarball), indent=1).encode() + b"\n"),
        (contract.JOB_AD, _guest_ad(job).encode(errors="surrogateescape")),
        (contract.SANDBOX_AD, _sandbox_ad(job).encode(errors="surrogateescape")),
        (contract.MACHINE_AD, guest_files.machine_ad(job).encode()),
    ]
    zone = guest_files.localtime()
    if zone is not None:
        texts.append((contract.LOCALTIME, zone))
    if tarball:
        config = guest_files.condor_config(job, tarball.version)
        texts.append((contract.CONDOR_CONFIG, config.encode()))
    copies = [(contract.TARBALL, tarball.path)] if tarball and staged else []
    return Payload(tuple(texts), tuple(copies), plan_packs(sandbox.input_members(job)))


def job_record(job: SourceJob, tarball: Optional[HTCondorTarball]) -> dict[str, Any]:
    """The job record of `vmcapsule.contract`."""
    outputs = job.transfer_output
    return {
        "format": contract.FORMAT,
        "runner": CONDOR if tarball else DIRECT,
        "executable": sandbox.executable_name(job),
        "arguments": list(job.arguments),
        "environment": guest_files.direct_environment(job),
        "stdin": sandbox.stdin_name(job),
        "stdout": sandbox.stdout_name(job),
        "stderr": sandbox.stderr_name(job),
        "outputs": None if outputs is None else list(outputs),
        "omit": [sandbox.executable_name(job)] if job.transfer_executable else [],
        "success_status": job.success_status,
        "failure_outputs": list(job.failure_outputs),
        "time_zone": guest_files.time_zone(),
        "user": job.owner,
        "cpus": job.request_cpus,
        "memory_mib": job.request_memory_mib,
        "condor_version": tarball.version if tarball else None,
    }


def _guest_ad(job: SourceJob) -> str:
    return guest_ad(
        job,
        executable=sandbox.executable_name(job),
        stdin=sandbox.stdin_name(job),
        stdout=sandbox.stdout_name(job),
        stderr=sandbox.stderr_name(job),
    )


def _sandbox_ad(job: SourceJob) -> str:
    return sandbox_ad(job, stdout=sandbox.stdout_name(job), stderr=sandbox.stderr_name(job))


def stage(load: Payload, data_disk: Path, offset_bytes: Optional[int], scratch: Path) -> None:
    """Write ``load`` onto the vfat partition of a data disk of any vmdk form.

    Records of an earlier run that lie there are removed first.  Raises `TooLarge`,
    saying how much is needed, when the partition is too small.
    """
    texts = {**dict(load.texts), contract.INPUT_INDEX: load.packs.index}
    copies = dict(load.copies)
    packs = {
        contract.INPUT_PACK % number: size_bytes
        for number, size_bytes in enumerate(load.packs.pack_sizes_bytes)
    }
    files = {
        **{name: len(data) for name, data in texts.items()},
        **{name: path.stat().st_size for name, path in copies.items()},
        **packs,
    }
    with raw_edit(data_disk, scratch) as raw:
        offset = locate_fat(raw.fd, raw.size_bytes, offset_bytes)
        volume = FatVolume.open(raw.fd, offset)
        try:
            layout = lay_out(volume, files, remove=_stale(volume))
        except SpaceError as error:
            raise TooLarge(
                f"the data disk is too small for the job's files and HTCondor: {error.message}",
                "use a template with a larger data disk "
                "('vmcapsule template build --data-size') or send fewer inputs",
            ) from error
        places = dict(layout.places())
        for name, data in texts.items():
            write_extents(raw.fd, places[name], data)
        for name, path in copies.items():
            _fill_copy(raw.fd, places[name], path, files[name])
        _fill_packs(raw.fd, [Pieces(places[name]) for name in packs], load.packs)
        layout.write()


def tell_starts(
    starts: int, data_disk: Path, offset_bytes: Optional[int], scratch: Path
) -> None:
    """Put on a data disk how many of its job's runs began before this one."""
    with raw_edit(data_disk, scratch) as raw:
        offset = locate_fat(raw.fd, raw.size_bytes, offset_bytes)
        put_files(raw.fd, offset, {contract.RUN_AD: f"NumJobStarts = {starts}\n".encode()})


def _stale(volume: FatVolume) -> list[str]:
    """What an earlier run left."""
    return [
        file.path
        for file in volume.walk()
        if not file.is_folder
        and (
            file.path.lower() == contract.INIT_SCRIPT
            or file.path.lower().startswith(contract.RECORD_DIR + "/")
        )
    ]


def _fill_copy(image_fd: int, extents: Sequence[Extent], source: Path, size_bytes: int) -> None:
    fd = _open_source(source, size_bytes)
    try:
        position = 0
        for extent in extents:
            copy_range(fd, position, image_fd, extent.offset_bytes, extent.length_bytes)
            position += extent.length_bytes
    finally:
        os.close(fd)


def _fill_packs(image_fd: int, packs: Sequence[Pieces], plan: PackPlan) -> None:
    """Copy the data of every packed file to its place in the image."""
    for entry in plan.entries:
        if not entry.stretches:
            continue
        fd = _open_source(plan.sources[entry.path], entry.size_bytes)
        try:
            for stretch in entry.stretches:
                position = stretch.offset
                for extent in packs[stretch.pack].part(stretch.pack_offset, stretch.length):
                    copy_range(fd, position, image_fd, extent.offset_bytes, extent.length_bytes)
                    position += extent.length_bytes
        finally:
            os.close(fd)


def _open_source(source: Path, size_bytes: int) -> int:
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(source, error) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size < size_bytes:
        os.close(fd)
        raise InputError(
            f"the input file '{source}' changed while it was packed",
            "leave a job's inputs alone until it has started",
        )
    return fd
