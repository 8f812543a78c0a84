"""Where a routed job may run: where its capsule can, and where its source itself could."""

from __future__ import annotations

import re
from typing import Optional

from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.classad.carry import carried
from vmcapsule.classad.text import has_alternative
from vmcapsule.job.attributes import SOURCE_PREFIX, is_accounting, is_of_life
from vmcapsule.job.source import SourceJob
from vmcapsule.job.text import split_list

#: What no machine ever meets, alone or first of all.
_NEVER = r"(?ai)\A([\s(]*)\(\s*(?:false|0)\s*\)\s*&&\s*|\A\s*\(?\s*(?:false|0)\s*\)?\s*\Z"


def matching(job: SourceJob, template: Ad, requirements: str) -> dict[str, Value]:
    """Requirements, Rank and JobMachineAttrs, and what the source's refer to.

    What a source requires of a machine it requires of the one on which its capsule runs.
    ``requirements`` are the capsule's where the ad template has none.
    """
    capsules = template.expr("Requirements") or requirements
    # What its own expressions say of the source, its number and its requests, goes along.
    own = {"Requirements": beyond_never(job.policy.requirements), "Rank": job.policy.rank}
    found = carried(
        job.attributes,
        {name: text for name, text in own.items() if text},
        SOURCE_PREFIX,
        _stays,
    )
    required = found.get("Requirements")
    found["Requirements"] = f"({capsules}) && ({required})" if required else capsules
    return {**found, **machine_attrs(job, template)}


def beyond_never(requirements: Optional[str]) -> Optional[str]:
    """What is required beside ``requirements = false`` of a submit file.

    By that a user says that the job is to be routed, and never to be run as it is.
    condor_submit has put it into parentheses, and what the job needs behind it.
    """
    if not requirements:
        return requirements
    never = re.match(_NEVER, requirements)
    if never is None or has_alternative(requirements, never.end()):
        return requirements
    return (never[1] or "") + requirements[never.end() :] or None


def _stays(name: str) -> bool:
    """Has the routed job this as its source has it, or else has a life of its own?

    That it does not itself ask to be routed is what keeps a source from being run as it is.
    """
    return is_accounting(name) or is_of_life(name)


def machine_attrs(job: SourceJob, template: Ad) -> dict[str, Value]:
    """What is noted of the last machines, so that expressions can avoid them: of both."""
    if not job.policy.machine_attrs:
        return {}
    theirs = split_list(template.string("JobMachineAttrs") or "")
    names = {name.lower(): name for name in (*job.policy.machine_attrs, *theirs)}
    length = template.integer("JobMachineAttrsHistoryLength") or 0
    return {
        "JobMachineAttrs": quote(",".join(sorted(names.values()))),
        "JobMachineAttrsHistoryLength": max(length, job.policy.machine_attrs_history),
    }
