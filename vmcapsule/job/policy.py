"""What a source ad says of its job's matching and end: expressions, as text."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Optional

from vmcapsule.classad.ads import Ad
from vmcapsule.errors import AdError
from vmcapsule.job.text import split_list
from vmcapsule.named import NamedTuple

_SUCCESS = ("JobSuccessExitCode", "JobSuccessExitSignal", "JobSuccessExitBySignal")


class Policy(NamedTuple):
    """Expressions that are evaluated while the job waits and when it has ended.

    None for one that the ad has not, and for a rank that prefers nothing.  ``success`` holds
    (name, expression) of what the others call success.  ``machine_attrs`` are names of what
    they are told of the last ``machine_attrs_history`` machines (JobMachineAttrs).
    """

    requirements: Optional[str]
    rank: Optional[str]
    on_exit_hold: Optional[str]
    on_exit_hold_reason: Optional[str]
    on_exit_hold_subcode: Optional[str]
    on_exit_remove: Optional[str]
    max_retries: Optional[str]
    success: tuple[tuple[str, str], ...]
    machine_attrs: tuple[str, ...]
    machine_attrs_history: int


class Logs(NamedTuple):
    """Where a job's events are written, by full path; None for no log and for one in XML."""

    user: Optional[str] = None
    nodes: Optional[str] = None


def read_policy(ad: Ad) -> Policy:
    """The policy of a source ad."""
    rank = ad.expr("Rank")
    return Policy(
        requirements=ad.expr("Requirements"),
        # condor_submit's default, which says nothing.
        rank=None if rank in ("0", "0.0") else rank,
        on_exit_hold=ad.expr("OnExitHold"),
        on_exit_hold_reason=ad.expr("OnExitHoldReason"),
        on_exit_hold_subcode=ad.expr("OnExitHoldSubCode"),
        on_exit_remove=ad.expr("OnExitRemove"),
        max_retries=ad.expr("JobMaxRetries"),
        success=tuple((name, text) for name in _SUCCESS for text in [ad.expr(name)] if text),
        machine_attrs=split_list(ad.string("JobMachineAttrs") or ""),
        machine_attrs_history=ad.integer("JobMachineAttrsHistoryLength") or 0,
    )


def read_logs(ad: Ad) -> Logs:
    """The logs that a source ad names; an attribute that is no string costs no job."""
    logs = Logs()
    with contextlib.suppress(AdError):
        folder = Path(ad.string("Iwd") or "/")
        user, nodes = ad.string("UserLog"), ad.string("DAGManNodesLog")
        if user and not ad.boolean("UserLogUseXML"):
            logs = logs._replace(user=str(folder / user))
        if nodes:
            logs = logs._replace(nodes=str(folder / nodes))
    return logs
