"""The JOB_FINALIZE hook: source and routed ad in, outputs delivered, exit attributes out."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Optional

from vmcapsule.capsule import delivery, states
from vmcapsule.capsule.record import ISOLATION, RETURNED, VMWARE, Capsule, load_capsule
from vmcapsule.capsule.states import State
from vmcapsule.classad import lenient
from vmcapsule.classad.ads import Ad, parse_ad, quote, split_finalize
from vmcapsule.config import check_scratch
from vmcapsule.errors import AdError, OutputMissing, VmCapsuleError, one_line
from vmcapsule.files import open_regular, read_regular
from vmcapsule.guest.exit_record import JobExit
from vmcapsule.job.source import id_of
from vmcapsule.router.route import IN_SLOT
from vmcapsule.slot import starter

#: In the source ad: its outputs arrived, whatever becomes of the capsule.
_DELIVERED = "VmCapsuleDelivered"
#: In the source ad: what was delivered, and HTCondor's own attribute for that.
_OUTPUTS = "VmCapsuleOutputs"
_SPOOLED = "SpooledOutputFiles"
#: In the source ad: was its guest's processor real or emulated?
_ISOLATION = "VmCapsuleIsolation"
#: As `vmcapsule.vm.accelerator` names them, which a hook has no time to import.
_ISOLATIONS = (b"kvm", b"tcg", VMWARE.encode())
_OUTPUTS_CHARS_MAX = 1 << 20
_UNDEFINED = "undefined"


def finalize(text: str) -> tuple[Ad, Optional[JobExit]]:
    """Deliver the outputs of the routed job whose ads are in ``text``, once.

    ``text`` is what the JobRouter sends: source ad, ``------``, routed ad.  The ad
    returned has the exit attributes for the source job.  The capsule stays, marked as
    delivered, so that the hook can be repeated: the JobRouter does so after a restart.
    Then nothing is written again; where even the capsule is gone, the source ad has it all.
    """
    source, routed = split_finalize(text)
    if routed.boolean(IN_SLOT):
        return measured(routed), None
    folder = routed.string("VmCapsuleDir")
    if folder is None:
        raise AdError(
            "the routed ad has no VmCapsuleDir",
            "give the ad that 'vmcapsule translate' printed",
        )
    if source.boolean(_DELIVERED) and not Path(folder).exists():
        names = source.expr(_OUTPUTS) or _UNDEFINED
        return parse_ad(f"{_DELIVERED} = true\n{_SPOOLED} = {names}"), None
    # Whatever is configured now: there the capsule is.
    check_scratch(Path(folder).parent)
    made = load_capsule(Path(folder))
    job_id = id_of(source)
    if made.job_id != job_id:
        raise AdError(
            f"the capsule '{folder}' is of job {made.job_id}, not of {job_id}",
            "give the source ad that belongs to the routed ad",
        )
    with states.locked(made.folder):
        if made.state is State.DELIVERED:
            job_exit = delivery.exit_of(made)
            delivery.check_missing(job_exit)
        else:
            job_exit, _ = delivery.deliver_from(made, delivery.job_of(made))
        names = _outputs(made, source)
        more = {_OUTPUTS: names, _SPOOLED: names, _ISOLATION: _isolation(made)}
    return exit_attributes(job_exit).with_(more), job_exit


def measured(routed: Ad) -> Ad:
    """What the guest of a job that was packed in its slot measured: HTCondor did the rest.

    How the job ended is the routed job's, which the JobRouter copies.
    """
    lines = [
        f"{name} = {text}"
        for name, text in (
            ("RemoteUserCpu", routed.expr(starter.USED_USER_CPU)),
            ("RemoteSysCpu", routed.expr(starter.USED_SYSTEM_CPU)),
            ("ResidentSetSize", routed.expr(starter.USED_RESIDENT_KIB)),
            ("ImageSize", routed.expr(starter.USED_IMAGE_KIB)),
            ("DiskUsage", routed.expr(starter.USED_DISK_KIB)),
            ("SpooledOutputFiles", routed.expr(_SPOOLED)),
        )
        if text is not None
    ]
    by_chirp = [f"{name} = {routed.expr(name)}" for name in routed.names if _is_chirps(name)]
    # The JobRouter reads PIPE_BUFFER_MAX bytes of us, and loses a job of which that is cut.
    lines += by_chirp if sum(map(len, by_chirp)) < _OUTPUTS_CHARS_MAX else []
    isolation = routed.string(starter.ISOLATION) or ""
    if isolation.encode() in _ISOLATIONS:
        lines.append(f"{_ISOLATION} = {quote(isolation)}")
    dumped = routed.expr(starter.CORE_DUMPED)
    if dumped is not None and routed.boolean("ExitBySignal"):
        lines.append(f"JobCoreDumped = {str(dumped == '1').lower()}")
    return parse_ad("\n".join(lines))


def _is_chirps(name: str) -> bool:
    """Was this put into the ad by the job itself, by chirp, and not by us?"""
    lower = name.lower()
    return lower.startswith("chirp") and not lower.startswith(starter.OURS_BY_CHIRP)


def _outputs(made: Capsule, source: Ad) -> str:
    """What was delivered, as condor_transfer_data is told of a spooled job's outputs.

    The JobRouter gives the source the routed job's list, which names our returned disk.
    """
    if "SUBMIT_Iwd" not in source:
        return _UNDEFINED
    names = ",".join(delivery.top_names(made))
    # Without a list all that is new is sent.  The guest chose the names, of which not all can
    # stand in an ad, and the JobRouter reads PIPE_BUFFER_MAX bytes of us.
    fits = names.isprintable() and len(names) < _OUTPUTS_CHARS_MAX
    return quote(names) if fits else _UNDEFINED


def _isolation(made: Capsule) -> str:
    """What kept the guest from its machine, as the slot said."""
    try:
        said = read_regular(made.folder / RETURNED / ISOLATION, max(map(len, _ISOLATIONS)))
    except OSError:
        # A capsule that was booted by hand, or by an older program.
        return _UNDEFINED
    return quote(said.decode("ascii")) if said in _ISOLATIONS else _UNDEFINED


def undelivered(text: str, error: VmCapsuleError) -> Ad:
    """The exit attributes of a job whose outputs could not be delivered.

    The JobRouter loses a job whose JOB_FINALIZE hook fails, so that is told in the ad:
    ``ExitCode`` is the error's exit status and ``ExitReason`` says what happened.  A note
    beside the user's log says how to get the outputs.  The ads need not be ones that can be
    parsed.  Raises `AdError` when there is no line of dashes between them.
    """
    above, below = lenient.frame(text)
    if below is None:
        raise AdError("there is no line of dashes between two ads", "send both ads")
    source, routed = lenient.told(above), lenient.told(below)
    job_id = id_of(source)
    reason = one_line(f"vmcapsule: {error}")
    folder = routed.string("VmCapsuleDir")
    has_all = isinstance(error, OutputMissing)
    remedy = f"Deliver its outputs with: vmcapsule extract {job_id}\n" if folder else ""
    note = Path(source.string("Iwd") or "", f"{source.string('UserLog')}.vmcapsule")
    if "UserLog" in source and note.is_absolute():
        _leave_note(note, f"Job {job_id}: {reason}\n{'' if has_all else remedy}")
    names = _UNDEFINED
    if has_all and folder:
        # Whatever happens, the JobRouter is to get an ad.
        with contextlib.suppress(VmCapsuleError, OSError):
            names = _outputs(load_capsule(Path(folder)), source)
    lines = [
        f"{_DELIVERED} = {str(has_all).lower()}",
        f"{_OUTPUTS} = {names}",
        f"{_SPOOLED} = {names}",
        "ExitBySignal = false",
        f"ExitCode = {error.exit_status}",
        f"ExitReason = {quote(reason)}",
    ]
    return parse_ad("\n".join(lines))


def _leave_note(note: Path, text: str) -> None:
    """Append to a file; a note that cannot be left is not worth a job."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    try:
        with os.fdopen(open_regular(note, flags, 0o644), "wb") as file:
            file.write(text.encode(errors="backslashreplace"))
    except OSError as error:
        print(
            f"vmcapsule: warning: cannot leave a note: {one_line(str(error))}", file=sys.stderr
        )


def exit_attributes(job_exit: JobExit) -> Ad:
    """The attributes that tell HTCondor how a job ended.

    ``ExitCode`` and ``ExitSignal`` exclude each other, as in the starter's update ad.
    """
    by_signal = job_exit.exit_signal is not None
    lines = [f"ExitBySignal = {str(by_signal).lower()}"]
    if by_signal:
        lines.append(f"ExitSignal = {job_exit.exit_signal}")
    else:
        lines.append(f"ExitCode = {job_exit.exit_code}")
    if by_signal:
        lines.append(f"JobCoreDumped = {str(job_exit.core_dumped).lower()}")
    # What the slot used is QEMU's.
    if job_exit.image_size_kib:
        lines.append(f"ImageSize = {job_exit.image_size_kib}")
    if job_exit.disk_usage_kib:
        lines.append(f"DiskUsage = {job_exit.disk_usage_kib}")
    lines += [
        f"{_DELIVERED} = true",
        f"RemoteUserCpu = {job_exit.user_cpu_s:.6f}",
        f"RemoteSysCpu = {job_exit.system_cpu_s:.6f}",
        f"ResidentSetSize = {job_exit.max_rss_kib}",
        # As the starter of a vanilla job has it (MEMORY_USAGE_METRIC): that of a VM job says
        # what the machine got, and the JobRouter copies it while the job runs.
        "MemoryUsage = ((ResidentSetSize + 1023) / 1024)",
    ]
    return parse_ad("\n".join(lines))
