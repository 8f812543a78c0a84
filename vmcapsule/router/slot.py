"""The route of jobs that are packed in their slots: the routed job is the source itself, with
the execute point's program in the place of its own.

HTCondor does for it what it does for any job; what happens in the slot is
`vmcapsule.slot.packed`.  Nothing is made here but an ad.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Mapping

from vmcapsule import contract
from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.classad.text import references
from vmcapsule.config import Config
from vmcapsule.errors import AdError, GuestError
from vmcapsule.job.attributes import (
    SOURCE_PREFIX,
    belongs_to_source,
    is_accounting,
    is_submitted,
)
from vmcapsule.job.source import SourceJob
from vmcapsule.job.text import is_url, join_v2
from vmcapsule.router.matching import beyond_never, machine_attrs
from vmcapsule.router.route import HELD_WITHOUT_UPDATE_S, REMOVED_WHEN_HELD, InSlot
from vmcapsule.router.user_log import told_logs
from vmcapsule.slot import starter
from vmcapsule.slot.entry import ROUTED
from vmcapsule.slot.packed import share
from vmcapsule.template.likeness import likeness
from vmcapsule.template.template import load

#: What an ad template may say otherwise in VmCapsuleMaxTries.
_MAX_TRIES = 3
#: What HTCondor measures while a job runs: of the routed job it is QEMU's.
_MEASURED = frozenset(
    {"memoryusage", "residentsetsize", "imagesize", "diskusage", "executablesize"}
)
#: What is otherwise in the routed ad than in its source's, for which it is asked in the slot.
_STOOD_IN = (
    *("Cmd", "TransferExecutable", "Args", "Arguments", "Environment", "Env"),
    "WantRemoteUpdates",
    *("TransferInput", "Requirements", "UserLog", "ClusterId", "ProcId", "GlobalJobId"),
    # The JobRouter takes it out of every ad.
    "CoreSize",
)


def routed_ad(job: SourceJob, template: Ad, config: Config) -> Ad:
    """Make the routed ad: the ad template, and of the source what that does not say.

    Raises `TemplateError` for a template VM that cannot be read and `AdError` for what cannot
    stand in an ad.
    """
    like = likeness(load(config.template))
    changes = {
        **_stand_in(job, config, like),
        **_requests(job, config),
        **_matching(job, template, config, like),
        **_ends(template),
        **told_logs(job.logs),
        # The starter tells the job, and the JobRouter the source: both go on counting.
        "NumJobStarts": job.job_starts,
        # condor_q shows these: the routed job beside its source, all of them in one line.
        "JobDescription": quote(f"capsule of {job.job_id}"),
        "JobBatchName": quote("vmcapsule"),
        "VmCapsuleFormat": contract.FORMAT,
        "VmCapsuleSourceJobId": quote(job.job_id),
    }
    kept = {name: text for name, text in job.attributes if _goes_along(name, template)}
    return template.with_({**kept, **_aside(job, changes), **changes})


def _goes_along(name: str, template: Ad) -> bool:
    is_asked = is_accounting(name) or is_submitted(name) or not belongs_to_source(name)
    return is_asked and name not in template


def _stand_in(job: SourceJob, config: Config, like: str) -> dict[str, Value]:
    """The program for the job's own, which it is given; of the job's environment nothing."""
    told = dict((name.lower(), text) for name, text in job.attributes)
    words = [*_options(job, config, like), "--", _command(job)]
    v1 = "arguments" not in told and "args" in told
    if v1 and any(set(word) & set(" \t'\"") for word in words):
        raise AdError(
            f"the executable '{job.executable}' has a blank or a quote in its name",
            "write its arguments in the new syntax, in double quotes",
        )
    name, prefix = ("Args", " ".join(words)) if v1 else ("Arguments", join_v2(words))
    changes: dict[str, Value] = {
        # The machine knows where it has it.
        "Cmd": quote(f"$$({starter.PROGRAM_PATH})"),
        "TransferExecutable": False,
        name: quote(f"{prefix} {job.text(name) or ''}".rstrip()),
        "Environment": quote(""),
        # A run that was none is told to the queue, which hears of no end of the job then.
        "WantRemoteUpdates": True,
    }
    if job.transfer_executable:
        inputs = [_program(job), job.text("TransferInput")]
        changes["TransferInput"] = quote(",".join(filter(None, inputs)))
    return changes


def _command(job: SourceJob) -> str:
    if not job.transfer_executable:
        return job.executable
    return f"./{Path(job.executable).name}"


def _program(job: SourceJob) -> str:
    """The job's executable as a file to transfer: first, so that others may replace it."""
    path = job.executable if is_url(job.executable) else str(job.iwd / job.executable)
    if "," in path:
        raise AdError(
            f"the executable '{path}' has a comma in its path, which separates in lists of "
            "files",
            "give it another name",
        )
    return path


def _options(job: SourceJob, config: Config, like: str) -> Iterator[str]:
    """How `vmcapsule.slot.packed.arguments` is told of what is configured here."""
    yield ROUTED
    yield f"--template-like={like}"
    yield f"--memory-overhead-mib={config.memory_overhead_mib}"
    if job.transfer_executable:
        yield "--executable"
    if config.network:
        yield "--network"
    if config.require_kvm or job.require_kvm:
        yield "--require-kvm"
    if config.timeout_s is not None:
        yield f"--timeout={config.timeout_s:g}"


def _requests(job: SourceJob, config: Config) -> dict[str, Value]:
    """What the job asks for and what its machine needs beside it, as expressions still."""
    memory = _wish(job, "RequestMemory", job.request_memory_mib)
    disk = _wish(job, "RequestDisk", job.request_disk_kib)
    return {
        "RequestMemory": share.request_memory(memory, config.memory_overhead_mib),
        "RequestDisk": share.request_disk(disk),
    }


def _wish(job: SourceJob, name: str, value: int) -> str:
    """A request, which may change as the job is run again; not with what our program used."""
    text = job.expr(name)
    return str(value) if text is None or references(text) & _MEASURED else text


def _matching(job: SourceJob, template: Ad, config: Config, like: str) -> dict[str, Value]:
    """Where it may run: where the job could that it is, and where such jobs can."""
    demands = [f'stringListMember("{like}", TARGET.{starter.TEMPLATES}) =?= true']
    if config.network:
        demands.append(f"TARGET.{starter.NETWORK_WORKS} =?= true")
    if config.require_kvm or job.require_kvm:
        demands.append(f"TARGET.{starter.KVM_WORKS} =?= true")
    wanted = [template.expr("Requirements"), beyond_never(job.policy.requirements)]
    all_of = [f"({text})" for text in (*wanted, *demands) if text]
    changes: dict[str, Value] = {"Requirements": " && ".join(all_of)}
    if job.policy.rank is not None:
        changes["Rank"] = job.policy.rank
    return {**changes, **machine_attrs(job, template)}


def _ends(template: Ad) -> dict[str, Value]:
    """When it is held, or goes: its source's own periodic expressions the router evaluates."""
    tries = template.integer("VmCapsuleMaxTries") or _MAX_TRIES
    runs = f"({starter.UNREPORTED} ?: 0)"
    vain = f"JobStatus == 1 && {runs} >= {tries}"
    vainly = (
        f'strcat("vmcapsule: the guest did not report in ", {runs}, " runs; the last was on ", '
        f"{starter.UNREPORTED_REASON})"
    )
    asked = f"{starter.HOLD_CODE} isnt undefined"
    late = f"{asked} && time() - EnteredCurrentStatus > {HELD_WITHOUT_UPDATE_S}"

    def own(name: str, otherwise: str) -> str:
        return template.expr(name) or otherwise

    def why(hold: str, exit_status: str, name: str) -> str:
        rest = f"ifThenElse({vain}, {exit_status}, {own(name, 'undefined')})"
        return f"ifThenElse({asked}, {hold}, {rest})"

    return {
        "PeriodicHold": f"({own('PeriodicHold', 'false')}) || ({vain}) || ({late})",
        "PeriodicHoldReason": why(starter.HOLD_REASON, vainly, "PeriodicHoldReason"),
        "PeriodicHoldSubCode": why(
            starter.HOLD_SUBCODE, str(GuestError.exit_status), "PeriodicHoldSubCode"
        ),
        "PeriodicRemove": f"({own('PeriodicRemove', 'false')}) || ({REMOVED_WHEN_HELD})",
    }


def _aside(job: SourceJob, changes: Mapping[str, Value]) -> dict[str, Value]:
    """What the source has in place of what is changed: its job finds that in its ad."""
    return {
        SOURCE_PREFIX + name: job.expr(name) or "undefined"
        for name in _STOOD_IN
        if name in changes or job.expr(name)
    }


ROUTE = InSlot(
    universe=5,
    vm_type="",
    universe_name="VANILLA",
    routed_ad=routed_ad,
)
