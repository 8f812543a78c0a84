"""Job, capsule and ad template to the routed job's ad.  Pure: nothing is read or written.

The ad template says what kind of job is made (its ``JobUniverse`` and ``JobVMType``) and
is kept verbatim but for what the job and its capsule decide.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Mapping, NamedTuple, Sequence

from vmcapsule import contract
from vmcapsule.capsule.record import RETURNED, UNREPORTED_SIGNAL, WANTED
from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.classad.text import rename
from vmcapsule.errors import AdError, ConfigError, GuestError
from vmcapsule.job.attributes import belongs_to_source
from vmcapsule.job.source import SourceJob
from vmcapsule.router.user_log import logs_of
from vmcapsule.slot.starter import (
    HOLD_CODE,
    HOLD_REASON,
    HOLD_SUBCODE,
    UNREPORTED,
    UNREPORTED_REASON,
    UNREPORTED_RUN,
)

_KNOB = "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE"
_VANILLA_UNIVERSE = 5
_VM_UNIVERSE = 13
#: What an ad template for vanilla jobs may say otherwise in VmCapsuleMaxTries.
_MAX_TRIES = 3
#: How long a hold is left to the UPDATE_JOB_INFO hook, which gives it its own code.
HELD_WITHOUT_UPDATE_S = 120
#: PeriodicRemove of routed jobs.  A held one only stands in the way of its source, which
#: is released and routed anew, as soon as the JobRouter has mirrored the hold there: the
#: UPDATE_JOB_INFO hook marks that.  Without that hook, after a while.
REMOVED_WHEN_HELD = (
    "JobStatus == 5 && (VmCapsuleHoldSeen =?= true || time() - EnteredCurrentStatus > 600)"
)

#: Names that identify the job that the template's dump described, which never was; the
#: JobRouter and the schedd give the routed job its own.
_OF_THE_DUMP = (
    "ClusterId",
    "ProcId",
    "GlobalJobId",
    "Owner",
    "User",
    "JobStatus",
    "QDate",
    "EnteredCurrentStatus",
    "JobSubmitFile",
    "JobSubmitMethod",
    "CondorVersion",
    "CondorPlatform",
    # The router writes the source's log and mails its owner; the routed job does neither.
    "UserLog",
    "DAGManNodesLog",
    "NotifyUser",
)
#: Matchmaking and accounting are the source's, where it says anything.
_COPIED = (
    "Owner",
    "JobPrio",
    "JobLeaseDuration",
    "NiceUser",
    "Rank",
    "ConcurrencyLimits",
    "AcctGroup",
    "AcctGroupUser",
    "AccountingGroup",
    "MaxJobRetirementTime",
)
#: What a job says of its success, under names that mean nothing to a starter: HTCondor 25's
#: does not transfer the outputs of a job that failed by them, and ours are the disk.
_SUCCESS = {
    f"jobsuccessexit{what.lower()}": f"VmCapsuleSuccessExit{what}"
    for what in ("Code", "Signal", "BySignal")
}
#: Where the template has no Requirements of its own: what condor_submit would have added.
_VM_REQUIREMENTS = (
    '(TARGET.Arch == "X86_64") && (TARGET.HasVM =?= true)'
    " && (TARGET.VM_Type == MY.JobVMType) && (TARGET.VM_AvailNum > 0)"
    " && (TARGET.Disk >= RequestDisk) && (TARGET.TotalMemory >= MY.JobVMMemory)"
    " && (TARGET.VM_Memory >= MY.JobVMMemory) && (TARGET.HasFileTransfer)"
)


class CapsuleFacts(NamedTuple):
    """What a routed ad says of a capsule: files by base name, all in ``folder``.

    ``vmdk_files`` are all files of the disks there, extents among them; ``size_kib`` is what
    they take up together; ``memory_mib`` includes what the guest needs for itself.
    ``program`` is what boots the capsule in a vanilla slot, ``shared_files`` are the
    template's that go with it, by full path, and ``wanted_outputs`` what the job must leave.
    """

    folder: Path
    vmx: str
    vmdk_files: tuple[str, ...]
    other_files: tuple[str, ...]
    memory_mib: int
    cpus: int
    size_kib: int
    network: bool = False
    program: str = ""
    shared_files: tuple[Path, ...] = ()
    wanted_outputs: tuple[str, ...] = ()


def routed_ad(job: SourceJob, template: Ad, capsule: CapsuleFacts) -> Ad:
    """Make the routed job's ad.

    Raises `ConfigError` for a template of a kind that is not known and `AdError` for
    file names that an ad cannot carry.
    """
    make = _MAKERS[kind_of(template)]
    kept = template.without(_OF_THE_DUMP)
    changes: dict[str, Value] = dict(_from_source(job, kept))
    changes.update(_common(job, kept, capsule))
    changes.update(make(job, kept, capsule))
    return kept.with_(changes)


def kind_of(template: Ad) -> Kind:
    """What an ad template makes, told by its own universe and JobVMType.

    Raises `ConfigError` for a kind that is not known.
    """
    try:
        universe, kind = template.integer("JobUniverse"), template.string("JobVMType")
    except AdError as error:
        raise ConfigError(
            f"{_KNOB}: {error.message}", f"correct the ad that {_KNOB} names"
        ) from error
    if universe is None:
        raise ConfigError(
            f"{_KNOB}: the ad has no JobUniverse", "make it with 'condor_submit -dump'"
        )
    found = (universe, (kind or "").lower())
    if found not in _MAKERS:
        what = f"JobUniverse = {universe}" + (f", JobVMType = {kind}" if kind else "")
        known = "JobUniverse = 5, or JobUniverse = 13 and JobVMType = vmware"
        raise ConfigError(
            f"{_KNOB}: no capsule can be made for an ad with {what}", f"use one with {known}"
        )
    return found


def _from_source(job: SourceJob, template: Ad) -> dict[str, Value]:
    """The user's own attributes, and what the routed job has in common with the source.

    OnExitHold, OnExitRemove and JobMaxRetries stay behind here: a job of the VM universe
    always ends with ExitCode 0, so they would judge the wrong status.  The periodic
    expressions stay too: the router evaluates the source's.
    """
    copied = {name.lower() for name in _COPIED}
    if job.ad.expr("Rank") in ("0", "0.0"):
        copied.remove("rank")  # condor_submit's default, which says nothing
    return {
        name: text
        for name, text in job.ad.attributes
        if name.lower() in copied or not (belongs_to_source(name) or name in template)
    }


def _common(job: SourceJob, template: Ad, capsule: CapsuleFacts) -> dict[str, Value]:
    memory_kib = capsule.memory_mib * 1024
    own_remove = template.expr("PeriodicRemove") or "false"
    return {
        "Iwd": quote(str(capsule.folder)),
        # In the VM universe only a label; condor_q shows it.
        "Cmd": quote(_label(job)),
        # condor_q shows these: the routed job beside its source, all of them in one line.
        "JobDescription": quote(f"capsule of {job.job_id}"),
        "JobBatchName": quote("vmcapsule"),
        "TransferExecutable": False,
        "In": quote("/dev/null"),
        "Out": quote("/dev/null"),
        "Err": quote("/dev/null"),
        "JobNotification": 0,
        "PeriodicRemove": REMOVED_WHEN_HELD
        if own_remove.lower() in ("false", "0", "undefined")
        else f"({own_remove}) || ({REMOVED_WHEN_HELD})",
        "RequestCpus": capsule.cpus,
        "RequestMemory": capsule.memory_mib,
        # A suspended VM's memory is saved beside its disks.
        "RequestDisk": capsule.size_kib + memory_kib,
        "DiskUsage": capsule.size_kib + memory_kib,
        "ExecutableSize": memory_kib,
        "ImageSize": memory_kib,
        "TransferInputSizeMB": -(-capsule.size_kib // 1024),
        "VmCapsuleDir": quote(str(capsule.folder)),
        "VmCapsuleFormat": contract.FORMAT,
        "VmCapsuleSourceJobId": quote(job.job_id),
        **logs_of(job.ad),
    }


def _qemu(job: SourceJob, template: Ad, capsule: CapsuleFacts) -> dict[str, Value]:
    """A vanilla job that boots the capsule in its slot and ends as the guest's job did.

    So the source's OnExitHold and OnExitRemove (and with it max_retries) judge the right
    status here.  A run whose guest did not report is repeated, then held.
    """
    paths = [str(capsule.folder / name) for name in (*capsule.vmdk_files, *capsule.other_files)]
    paths += [str(path) for path in capsule.shared_files]
    outputs = [RETURNED, *(f"{WANTED}/{item}" for item in capsule.wanted_outputs)]
    return {
        "Cmd": quote(str(capsule.folder / capsule.program)),
        "TransferExecutable": True,
        "Out": quote("execute.out"),
        "Err": quote("execute.err"),
        "TransferInput": _list(paths),
        "TransferOutput": _list(outputs),
        "PreserveRelativePaths": True,
        "ShouldTransferFiles": quote("YES"),
        "WhenToTransferOutput": quote("ON_EXIT"),
        "RequestDisk": 2 * capsule.size_kib + job.request_disk_kib,
        # The starter tells the job, and the JobRouter the source: both go on counting.
        "NumJobStarts": job.ad.integer("NumJobStarts") or 0,
        **_held_for_the_slot(template),
        **_at_exit(job, template.integer("VmCapsuleMaxTries") or _MAX_TRIES),
    }


def _held_for_the_slot(template: Ad) -> dict[str, Value]:
    """The hold that `vmcapsule.slot.execute` asks for, where there is no UPDATE_JOB_INFO hook.

    Meanwhile the job matches no machine (see the template's Requirements).
    """
    asked = f"{HOLD_CODE} isnt undefined"
    late = f"{asked} && time() - EnteredCurrentStatus > {HELD_WITHOUT_UPDATE_S}"
    return {
        "PeriodicHold": f"({template.expr('PeriodicHold') or 'false'}) || ({late})",
        **{
            name: f"ifThenElse({asked}, {told}, {template.expr(name) or 'undefined'})"
            for name, told in (
                ("PeriodicHoldReason", HOLD_REASON),
                ("PeriodicHoldSubCode", HOLD_SUBCODE),
            )
        },
    }


def _at_exit(job: SourceJob, tries: int) -> dict[str, Value]:
    """What becomes of a job in a slot that has ended: the source's own policy, unless
    the guest did not report.

    `vmcapsule.slot.execute` counts such runs by chirp.  Where it could not, the job's
    completions stand for them, so that there is an end in any case.
    """
    silent = f"ExitBySignal =?= true && ExitSignal =?= {UNREPORTED_SIGNAL}"
    told = f"{UNREPORTED_RUN} =?= NumJobCompletions"
    runs = f"ifThenElse({told}, {UNREPORTED}, NumJobCompletions)"
    why = f'ifThenElse({told}, strcat("; the last was on ", {UNREPORTED_REASON}), "")'
    reason = f'strcat("vmcapsule: the guest did not report in ", {runs}, " runs", {why})'

    def unless_silent(then: str, name: str, default: str) -> str:
        policy = rename(job.ad.expr(name) or default, _SUCCESS)
        return f"ifThenElse({silent}, {then}, {policy})"

    success = {
        _SUCCESS[name.lower()]: text
        for name, text in job.ad.attributes
        if name.lower() in _SUCCESS
    }
    changes: dict[str, Value] = {
        **success,
        "OnExitRemove": unless_silent("false", "OnExitRemove", "true"),
        "OnExitHold": unless_silent(f"{runs} >= {tries}", "OnExitHold", "false"),
        "OnExitHoldReason": unless_silent(reason, "OnExitHoldReason", "undefined"),
        "OnExitHoldSubCode": unless_silent(
            str(GuestError.exit_status), "OnExitHoldSubCode", "undefined"
        ),
    }
    retries = job.ad.expr("JobMaxRetries")
    if retries is not None:
        # Compared with NumJobCompletions, in which runs without a report count too.
        changes["JobMaxRetries"] = f"({retries}) + ({UNREPORTED} ?: 0)"
    return changes


def _vmware(job: SourceJob, template: Ad, capsule: CapsuleFacts) -> dict[str, Value]:
    """A VMware job of the VM universe (HTCondor up to 9.11)."""
    # In the folder in which HTCondor starts the VM all of them lie, by base name.
    disks = (*capsule.vmdk_files, *(path.name for path in capsule.shared_files))
    files = (capsule.vmx, *capsule.vmdk_files, *capsule.other_files)
    paths = [str(capsule.folder / name) for name in files]
    paths += [str(path) for path in capsule.shared_files]
    changes: dict[str, Value] = {
        "JobVMType": quote("vmware"),
        "JobVMMemory": capsule.memory_mib,
        "JobVM_VCPUS": capsule.cpus,
        "JobVMNetworking": capsule.network,
        "JobVMCheckpoint": False,
        "VMPARAM_VMware_Dir": quote(str(capsule.folder)),
        "VMPARAM_VMware_VMX_File": quote(capsule.vmx),
        "VMPARAM_VMware_VMDK_Files": _list(disks),
        "VMPARAM_VMware_Transfer": True,
        # With a snapshot the guest's writes would come back as a redo log that only
        # VMware can read; without one the data disk itself comes back with the outputs.
        "VMPARAM_VMware_SnapshotDisk": False,
        "TransferInput": _list(paths),
        "ShouldTransferFiles": quote("YES"),
        "WhenToTransferOutput": quote("ON_EXIT"),
    }
    if "Requirements" not in template:
        changes["Requirements"] = _VM_REQUIREMENTS
    return changes


#: Universe and JobVMType of an ad template.
Kind = tuple[int, str]
QEMU: Kind = (_VANILLA_UNIVERSE, "")
VMWARE: Kind = (_VM_UNIVERSE, "vmware")
_MAKERS: Mapping[Kind, Callable[[SourceJob, Ad, CapsuleFacts], Mapping[str, Value]]] = {
    QEMU: _qemu,
    VMWARE: _vmware,
}


def _label(job: SourceJob) -> str:
    return "vmcapsule " + job.executable.rsplit("/", 1)[-1]


def _list(names: Sequence[str]) -> str:
    for name in names:
        if "," in name:
            raise AdError(
                f"the capsule's file '{name}' has a comma in its path, which separates in ads",
                "use no commas in VM_CAPSULE_SCRATCH_DIR_PREFIX and in the template's names",
            )
    return quote(",".join(names))
