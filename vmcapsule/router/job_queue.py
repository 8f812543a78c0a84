"""What the access point's queue says of capsules and their jobs; asked of HTCondor's tools."""

from __future__ import annotations

import json
import re
from typing import Any, Optional, Sequence

from vmcapsule.classad.ads import quote
from vmcapsule.errors import ToolError, one_line
from vmcapsule.named import NamedTuple

IDLE, RUNNING, REMOVED, COMPLETED, HELD = 1, 2, 3, 4, 5
_TIMEOUT_S = 120
_PATH_CHARS_MAX = 4096
#: As the schedd makes it (``schedd.cpp``, ``qmgmt.cpp``): its name is a host's, or one that
#: is configured, an @ and a host's.  The time may be switched off.
_GLOBAL_JOB_ID = re.compile(r"(?P<schedd>.+?)#(?P<job>\d+\.\d+)(#\d+)?", re.DOTALL | re.ASCII)
#: Above what condor_q prints for people.
_HEAD = re.compile(r"^-- Schedd: (?P<schedd>\S+) : ", re.MULTILINE)


class Needed(NamedTuple):
    """What the queue of ``schedd`` needs: folders by path, source jobs by GlobalJobId.

    A source job that the JobRouter manages may have a capsule that is not submitted yet.
    """

    schedd: str
    folders: frozenset[str]
    sources: frozenset[str]


def needed() -> Needed:
    """Ask the schedd of this machine; raises `ToolError` when it does not answer."""
    schedd = _schedd()
    ads = _ask(
        ["condor_q", "-allusers"],
        # A user may have put anything at all there, also what would fill our memory.
        f"isString(VmCapsuleDir) && size(VmCapsuleDir) < {_PATH_CHARS_MAX}"
        ' || Managed =?= "External"',
        ["VmCapsuleDir", "GlobalJobId", "Managed"],
    )
    return Needed(
        schedd,
        folders=frozenset(str(ad["VmCapsuleDir"]) for ad in ads if "VmCapsuleDir" in ad),
        sources=frozenset(
            str(ad.get("GlobalJobId")) for ad in ads if ad.get("Managed") == "External"
        ),
    )


def schedd_of(global_job_id: Optional[str]) -> Optional[str]:
    """The name of the schedd that has given a job its GlobalJobId; None: it does not say."""
    match = _GLOBAL_JOB_ID.fullmatch(global_job_id or "")
    return match["schedd"].lower() if match else None


def _schedd() -> str:
    """The name of the schedd that condor_q asks, from the head of what it prints."""
    from vmcapsule import process

    command = ["condor_q", "-allusers", "-totals", "-constraint", "false"]
    answer = process.run(command, timeout_s=_TIMEOUT_S).stdout.decode(errors="replace")
    match = _HEAD.search(answer)
    if match is None:
        raise ToolError(
            f"'condor_q -totals' does not name its schedd: {one_line(answer)[:200]}",
            "see what it prints",
        )
    return match["schedd"].lower()


def status_of(global_job_id: str) -> Optional[int]:
    """The JobStatus of a job in the queue or its history, None when it is in neither.

    Raises `ToolError` when the schedd does not answer.
    """
    constraint = f"GlobalJobId == {quote(global_job_id)}"
    for command in (["condor_q", "-allusers"], ["condor_history", "-limit", "1"]):
        for ad in _ask(command, constraint, ["JobStatus"]):
            status = ad.get("JobStatus")
            return status if isinstance(status, int) else None
    return None


def hold_of(global_job_id: str) -> Optional[dict[str, Any]]:
    """Why a job is held (``HoldReason`` and its codes), None for one that is not.

    Raises `ToolError` when the schedd does not answer.
    """
    match = _GLOBAL_JOB_ID.fullmatch(global_job_id)
    # By its number a schedd finds it among 100,000.
    job = [match["job"]] if match else []
    constraint = f"GlobalJobId == {quote(global_job_id)} && JobStatus == {HELD}"
    names = ["HoldReason", "HoldReasonCode", "HoldReasonSubCode"]
    found = _ask(["condor_q", "-allusers", *job], constraint, names)
    return found[0] if found else None


def _ask(command: Sequence[str], constraint: str, attributes: Sequence[str]) -> list[Any]:
    from vmcapsule import process  # seldom needed, and slow to import

    argv = [*command, "-json", "-attributes", ",".join(attributes), "-constraint", constraint]
    # HTCondor prints strings as their bytes are: one that is not UTF-8 is not others' trouble.
    answer = process.run(argv, timeout_s=_TIMEOUT_S).stdout.decode(errors="surrogateescape")
    try:
        ads = json.loads(answer, strict=False) if answer.strip() else []
    except (ValueError, RecursionError) as error:
        raise ToolError(
            f"'{command[0]} -json' printed no JSON: {error}", "see what it prints"
        ) from error
    return [ad for ad in ads if isinstance(ad, dict)]
