"""The TRANSLATE_JOB hook: a source ad in, a capsule on disk, the routed job's ad out."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Mapping, Optional

from vmcapsule.capsule import making, naming, scratch, states
from vmcapsule.capsule.packing import pack, put_obstacles
from vmcapsule.capsule.record import RECORD, Capsule
from vmcapsule.classad.ads import Ad, Value, parse_ad, quote, split_translate
from vmcapsule.config import Config
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.disk import Disk
from vmcapsule.disk.extents import copy_sparse
from vmcapsule.errors import (
    AdError,
    ConfigError,
    InputError,
    TooLarge,
    VmCapsuleError,
    one_line,
)
from vmcapsule.job.source import SourceJob, id_of, read_job
from vmcapsule.resources import resource
from vmcapsule.router.routed_ad import (
    HELD_WITHOUT_UPDATE_S,
    QEMU,
    REMOVED_WHEN_HELD,
    VMWARE,
    CapsuleFacts,
    Kind,
    kind_of,
    routed_ad,
)
from vmcapsule.router.user_log import logs_of
from vmcapsule.slot.program import PROGRAM, write_program
from vmcapsule.template.tarball import HTCondorTarball, tarball_of
from vmcapsule.template.template import Template, load

#: What QEMU needs in the slot beside its guest's memory.
QEMU_MEMORY_MIB = 128


def translate(text: str, config: Config) -> tuple[Ad, Capsule]:
    """Make the capsule for the job ad in ``text`` and return the routed ad with it.

    ``text`` is what the JobRouter sends (route, ``------``, ad), a plain job ad or the
    output of ``condor_q -long``.  Nothing is left behind when it fails.
    """
    route, source = split_translate(text)
    job = read_job(source)
    if route is not None:
        # The router sends a job that has no run; a person may try one that is running.
        scratch.clear(config.scratch_dir_prefix, job.job_id, job.global_job_id)
    ad_template = _ad_template(config.ad_template_of(_name_of(route)))
    # The ad template's own universe says what is made: nothing is packed before it is known.
    make, facts = _WAYS[kind_of(ad_template)]
    template = load(config.template)
    made = make(job, template, config, tarball_of(config))
    try:
        ad = routed_ad(job, ad_template, facts(made, template))
        if route is not None:
            _check_length(ad, config.pipe_buffer_max_bytes)
        else:
            # Made by hand: no queue knows of it, and whoever made it removes it.
            states.keep(made.folder)
        return ad, made
    except BaseException:
        making.remove(made.folder)
        raise


def _name_of(route: Optional[Ad]) -> Optional[str]:
    return route.string("Name") if route is not None else None


def _check_length(ad: Ad, limit_bytes: int) -> None:
    """Raise `TooLarge` for an ad of which the JobRouter would read the beginning only.

    It takes PIPE_BUFFER_MAX bytes of a hook's output (``condor_daemon_core.V6``); a line
    that is cut off there fails, or changes, the job.
    """
    size_bytes = len(ad.long_form().encode(errors="surrogateescape"))
    if size_bytes > limit_bytes:
        raise TooLarge(
            f"the job's ad has {size_bytes} bytes, the JobRouter takes "
            f"PIPE_BUFFER_MAX = {limit_bytes}",
            "raise PIPE_BUFFER_MAX and restart HTCondor, or give the job fewer and "
            "shorter attributes",
        )


def held_ad(text: str, error: VmCapsuleError) -> Optional[Ad]:
    """A routed ad that is held at once, saying why, for a job that cannot be translated.

    The UPDATE_JOB_INFO hook holds it, with the error's own hold code: PeriodicHold has but
    one.  The JobRouter mirrors the hold on the source job, whose owner reads the reason there;
    of a hook that merely fails nobody is told, and it is run again and again.  None when it
    is not the JobRouter that asks: it sends a route above the ad.
    """
    try:
        route, source = split_translate(text)
    except AdError:
        return None
    if route is None:
        return None
    reason = quote(f"vmcapsule: {one_line(str(error))}")
    changes: dict[str, Value] = {
        name: source.expr(name) or "undefined" for name in ("Owner", "Iwd") if name in source
    }
    changes.update(
        {
            "Cmd": quote("/bin/false"),
            "TransferExecutable": False,
            "Requirements": False,
            "VmCapsuleHoldReason": reason,
            "VmCapsuleHoldReasonCode": error.hold_code,
            "VmCapsuleHoldReasonSubCode": _subcode(error),
            # Where there is no UPDATE_JOB_INFO hook.
            "PeriodicHold": f"time() - QDate > {HELD_WITHOUT_UPDATE_S}",
            "PeriodicHoldReason": reason,
            "PeriodicHoldSubCode": error.exit_status,
            "PeriodicRemove": REMOVED_WHEN_HELD,
            "VmCapsuleSourceJobId": quote(id_of(source)),
            **logs_of(source),
        }
    )
    return parse_ad(resource("templates/qemu.classad").read_text(encoding="utf-8")).with_(
        changes
    )


def _subcode(error: VmCapsuleError) -> int:
    """Of an input that cannot be read the errno, as HTCondor's shadow has it."""
    cause = error.__cause__
    if isinstance(error, InputError) and isinstance(cause, OSError):
        return cause.errno or error.exit_status
    return error.exit_status


def _ad_template(path: Path) -> Ad:
    knob = "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE"
    try:
        return parse_ad(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"{knob}: cannot read '{path}': {reason}", f"correct {knob}"
        ) from error
    except AdError as error:
        raise ConfigError(
            f"{knob}: '{path}': {error.message}", "make it with 'condor_submit -dump'"
        ) from error


def pack_vm(
    job: SourceJob, template: Template, config: Config, tarball: HTCondorTarball
) -> Capsule:
    """Make a capsule for a hypervisor: a whole VM, of which it holds what is the job's.

    Its other disks stay in the template, whence HTCondor transfers them.
    """

    def finish(made: Capsule, aside: Path) -> Capsule:
        copy_sparse(template.vmx, aside / template.vmx.name)
        DataDisk(aside / made.data_disk.name).make_transferable(aside)
        return made._replace(vmx=made.folder / template.vmx.name)

    return pack(job, template, config, tarball, naming.ROUTED, finish)


def vm_facts(made: Capsule, template: Template) -> CapsuleFacts:
    """What the routed ad says of a capsule that is a whole VM."""
    data = Disk.at(made.data_disk).files
    disks = (template.system_disk, *template.other_disks)
    shared = [file for disk in disks for file in Disk.at(disk).files]
    assert made.vmx is not None
    return CapsuleFacts(
        folder=made.folder,
        vmx=made.vmx.name,
        vmdk_files=tuple(file.name for file in data),
        other_files=(),
        memory_mib=made.memory_mib,
        cpus=made.cpus,
        network=made.network,
        size_kib=sum(file.stat().st_size for file in (*data, *shared)) // 1024,
        shared_files=tuple(shared),
    )


def pack_for_slot(
    job: SourceJob, template: Template, config: Config, tarball: HTCondorTarball
) -> Capsule:
    """Make a capsule that is booted in a vanilla slot, with the program that does it.

    Its system disk and kernel stay in the template, whence HTCondor transfers them.
    """

    def finish(made: Capsule, aside: Path) -> Capsule:
        DataDisk(aside / made.data_disk.name).make_transferable(aside)
        write_program(aside)
        put_obstacles(job, aside)
        return made

    return pack(job, template, config, tarball, naming.ROUTED, finish)


def slot_facts(made: Capsule, template: Template) -> CapsuleFacts:
    """What the routed ad says of a capsule for a vanilla slot."""
    data = Disk.at(made.data_disk).files
    shared = [*Disk.at(made.system_disk).files, made.kernel, made.initrd]
    files = [file for file in shared if file is not None]
    return CapsuleFacts(
        folder=made.folder,
        vmx="",
        vmdk_files=tuple(file.name for file in data),
        other_files=(RECORD,),
        memory_mib=made.memory_mib + QEMU_MEMORY_MIB,
        cpus=made.cpus,
        network=made.network,
        size_kib=sum(file.stat().st_size for file in (*data, *files)) // 1024,
        program=PROGRAM,
        shared_files=tuple(files),
        wanted_outputs=tuple(item for item in made.wanted_outputs.split(",") if item),
    )


Pack = Callable[[SourceJob, Template, Config, HTCondorTarball], Capsule]
Facts = Callable[[Capsule, Template], CapsuleFacts]
_WAYS: Mapping[Kind, tuple[Pack, Facts]] = {
    VMWARE: (pack_vm, vm_facts),
    QEMU: (pack_for_slot, slot_facts),
}
