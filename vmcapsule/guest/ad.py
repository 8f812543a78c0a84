"""The job's ad as the personal HTCondor in the guest is given it."""

from __future__ import annotations

from typing import Iterable, Optional

from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.job import text as job_text
from vmcapsule.job.source import SourceJob

#: What the starter in the guest would act upon though it was meant for the access point
#: or for its shadow: file transfer, policy, logs, hooks, credentials, matchmaking.
#: (Iwd: without it a starter that has no shadow uses its scratch folder.)
_DROPPED_TEXT = """
    iwd rank userlog userlogusexml dagmannodeslog dagmannodesmask hookkeyword
    leavejobinqueue jobnotification notifyuser emailattributes
    allowedjobduration allowedexecuteduration timerremove jobmaxvacatetime jobleaseduration
    shouldtransferfiles whentotransferoutput spooledoutputfiles
    preserverelativepaths outputdestination publicinputfiles failurefiles
    x509userproxy oauthservicesneeded scitokensfile sendcredential
    wantjobrouter routedtojobid routedfromjobid routedby routename
    concurrencylimits jobmaxretries jobsuccessexitcode owner user
    globaljobid claimid claimids publicclaimid publicclaimids
"""
_DROPPED = frozenset(_DROPPED_TEXT.split())
_DROPPED_PREFIXES = (
    "transfer",
    "stream",
    "periodic",
    "onexit",
    "dagman",
    "jobmaterialize",
    "submit_",
    "acctgroup",
    "accountinggroup",
)
_EXPANDED = ("args", "arguments", "env", "environment")
_VANILLA = 5
_RUNNING = 2


def guest_ad(
    job: SourceJob,
    *,
    executable: str,
    stdin: Optional[str],
    stdout: Optional[str],
    stderr: Optional[str],
) -> str:
    """Return the text of `vmcapsule.contract.JOB_AD`, one ``Attr = expr`` a line.

    ``executable`` and the streams are named as in the job record: relative to the
    sandbox, or absolute in the guest; None for /dev/null.  All else of the source ad is
    kept verbatim, arguments and environment among it, but for what the starter would act
    upon.  The requests are the integers that the guest was made for, so that they fit.
    """
    kept = [(name, text) for name, text in job.attributes if not _is_dropped(name)]
    made: dict[str, Value] = {
        "Cmd": quote(executable),
        "In": quote(stdin or "/dev/null"),
        "Out": quote(stdout or "/dev/null"),
        "Err": quote(stderr or "/dev/null"),
        "JobUniverse": _VANILLA,
        "RequestCpus": job.request_cpus,
        "RequestMemory": job.request_memory_mib,
        # The data disk was made to hold the job; nothing else is claimed in the guest.
        "RequestDisk": 1,
        "Requirements": True,
    }
    return _sorted(_expanded(kept).with_(made)).long_form()


def sandbox_ad(job: SourceJob, *, stdout: Optional[str], stderr: Optional[str]) -> str:
    """Return the text of `vmcapsule.contract.SANDBOX_AD`: what the job finds as .job.ad.

    The source ad verbatim, with what a shadow and a starter that transfers files change in
    it (``JICShadow::initWithFileTransfer``), but for claims and addresses.
    """
    made: dict[str, Value] = {
        "JobStatus": _RUNNING,
        "CurrentHosts": 1,
        "OrigCmd": quote(job.executable),
        "OrigIwd": quote(str(job.iwd)),
        "RequestCpus": job.request_cpus,
        "RequestMemory": job.request_memory_mib,
        "RequestDisk": job.request_disk_kib,
        "CpusProvisioned": job.request_cpus,
        "MemoryProvisioned": job.request_memory_mib,
        "DiskProvisioned": job.request_disk_kib,
    }
    streams = (("Out", job.stdout, stdout), ("Err", job.stderr, stderr))
    for name, original, renamed in streams:
        if original and renamed:
            made.update({name: quote(renamed), f"Original{name}": quote(original)})
    kept = [item for item in job.attributes if "claimid" not in item[0].lower()]
    return _sorted(_expanded(kept).with_(made)).long_form()


def _expanded(attributes: Iterable[tuple[str, str]]) -> Ad:
    """An ad in which is expanded what the schedd expands when it matches a job to a machine."""
    return Ad(
        tuple(
            (name, job_text.expand_match_macros(text) if name.lower() in _EXPANDED else text)
            for name, text in attributes
        )
    )


def _is_dropped(name: str) -> bool:
    lower = name.lower()
    return lower in _DROPPED or lower.startswith(_DROPPED_PREFIXES)


def _sorted(ad: Ad) -> Ad:
    """In the order in which HTCondor's tools print an ad."""
    return Ad(tuple(sorted(ad.attributes, key=lambda item: item[0].lower())))
