"""What becomes of a routed job that has ended as the guest's did: its source's own policy."""

from __future__ import annotations

from vmcapsule.classad.ads import Value
from vmcapsule.classad.text import rename
from vmcapsule.errors import GuestError
from vmcapsule.job.source import SourceJob
from vmcapsule.slot.starter import UNREPORTED, UNREPORTED_REASON, UNREPORTED_RUN

#: What a job says of its success, under names that mean nothing to a starter: HTCondor 25's
#: does not transfer the outputs of a job that failed by them, and ours are the disk.
_SUCCESS = {
    f"jobsuccessexit{what.lower()}": f"VmCapsuleSuccessExit{what}"
    for what in ("Code", "Signal", "BySignal")
}


def at_exit(job: SourceJob, tries: int, silent: str) -> dict[str, Value]:
    """OnExitRemove, OnExitHold and JobMaxRetries: the source's, unless the guest did not
    report (``silent`` says when), which is tried ``tries`` times in all and then held.

    `vmcapsule.slot.gahp.run` counts such runs by chirp.  Where it could not, the job's
    completions stand for them, so that there is an end in any case.
    """
    told = f"{UNREPORTED_RUN} =?= NumJobCompletions"
    runs = f"ifThenElse({told}, {UNREPORTED}, NumJobCompletions)"
    why = f'ifThenElse({told}, strcat("; the last was on ", {UNREPORTED_REASON}), "")'
    reason = f'strcat("vmcapsule: the guest did not report in ", {runs}, " runs", {why})'
    policy = job.policy

    def unless_silent(then: str, own: str) -> str:
        return f"ifThenElse({silent}, {then}, {rename(own, _SUCCESS)})"

    changes: dict[str, Value] = {_SUCCESS[name.lower()]: text for name, text in policy.success}
    changes.update(
        {
            "OnExitRemove": unless_silent("false", policy.on_exit_remove or "true"),
            "OnExitHold": unless_silent(f"{runs} >= {tries}", policy.on_exit_hold or "false"),
            "OnExitHoldReason": unless_silent(
                reason, policy.on_exit_hold_reason or "undefined"
            ),
            "OnExitHoldSubCode": unless_silent(
                str(GuestError.exit_status), policy.on_exit_hold_subcode or "undefined"
            ),
        }
    )
    if policy.max_retries is not None:
        # Compared with NumJobCompletions, in which runs without a report count too.
        changes["JobMaxRetries"] = f"({policy.max_retries}) + ({UNREPORTED} ?: 0)"
    return changes
