"""Job, capsule and ad template to the routed job's ad: what all kinds of them have in common.

The ad template is kept verbatim but for what the job and its capsule decide; what its kind
decides is its `Route`'s.  Pure: nothing is read or written.
"""

from __future__ import annotations

from vmcapsule import contract
from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.job.source import SourceJob
from vmcapsule.router.at_exit import at_exit
from vmcapsule.router.matching import matching
from vmcapsule.router.route import REMOVED_WHEN_HELD, CapsuleFacts, Route
from vmcapsule.router.user_log import told_logs

#: What an ad template may say otherwise in VmCapsuleMaxTries.
_MAX_TRIES = 3
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


def routed_ad(job: SourceJob, route: Route, template: Ad, capsule: CapsuleFacts) -> Ad:
    """Make the routed job's ad; ``route`` is what the ad template makes.

    Raises `AdError` for file names that an ad cannot carry.
    """
    kept = template.without(_OF_THE_DUMP)
    changes: dict[str, Value] = dict(_from_source(job, kept))
    changes.update(_common(job, kept, capsule))
    changes.update(sizes(job, route, capsule))
    changes.update(matching(job, kept, route.requirements))
    if capsule.demands:
        demands = [f"({demand})" for demand in capsule.demands]
        changes["Requirements"] = " && ".join([f"({changes['Requirements']})", *demands])
    if route.unreported is not None:
        tries = kept.integer("VmCapsuleMaxTries") or _MAX_TRIES
        changes.update(at_exit(job, tries, route.unreported))
    changes.update(route.attributes(job, kept, capsule))
    return kept.with_(changes)


def sizes(job: SourceJob, route: Route, capsule: CapsuleFacts) -> dict[str, Value]:
    """What a routed ad says of how large things are, known when the capsule is packed."""
    return {
        "RequestDisk": route.request_disk_kib(job, capsule),
        "DiskUsage": capsule.size_kib + capsule.memory_mib * 1024,
        "TransferInputSizeMB": -(-capsule.size_kib // 1024),
    }


def _from_source(job: SourceJob, template: Ad) -> dict[str, Value]:
    """The user's own attributes, and what the routed job has in common with the source.

    The periodic expressions stay behind: the router evaluates the source's.
    """
    changes: dict[str, Value] = {
        name: text for name, text in job.custom if name not in template
    }
    changes.update(job.accounting)
    return changes


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
        "ExecutableSize": memory_kib,
        "ImageSize": memory_kib,
        "VmCapsuleDir": quote(str(capsule.folder)),
        "VmCapsuleFormat": contract.FORMAT,
        "VmCapsuleSourceJobId": quote(job.job_id),
        **told_logs(job.logs),
    }


def _label(job: SourceJob) -> str:
    return "vmcapsule " + job.executable.rsplit("/", 1)[-1]
