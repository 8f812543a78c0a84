"""What the ad of a routed job says of its source: the ad as the source has it, and so on.

The JobRouter's hook has put our program in the job's place, and set aside what was there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterable, Iterator, Mapping, Optional

from vmcapsule.classad import text as lex
from vmcapsule.errors import AdError, TemplateError
from vmcapsule.job import text as job_text
from vmcapsule.job.attributes import SOURCE_PREFIX
from vmcapsule.slot import starter
from vmcapsule.slot.packed.share import Room, wish_of

_LINE = re.compile(r"[ \t]*(\w+)[ \t]*=[ \t]*(.*)", re.ASCII)


def source_ad(routed: str, overhead_mib: int) -> str:
    """The ad of a routed job with what its source has in place of what stands in for it."""
    asked = Room(*(starter.number(routed, name) for name in ("RequestMemory", "RequestDisk")))
    wish = wish_of(asked, overhead_mib)
    # Numbers by now: they were evaluated when the job was matched.
    own = {
        **({"RequestMemory": wish.memory_mib} if asked.memory_mib else {}),
        **({"RequestDisk": wish.disk_kib} if asked.disk_kib else {}),
    }
    lines = _lines(with_(routed, own))
    prefix = SOURCE_PREFIX.lower()
    for lower, (name, text) in [*lines.items()]:
        if lower.startswith(prefix):
            del lines[lower]
            lines[lower[len(prefix) :]] = (name[len(prefix) :], text)
    said = (item for item in lines.values() if item[1].lower() != "undefined")
    return _text(said)


def with_(ad: str, changes: Mapping[str, int]) -> str:
    """An ad with other numbers in place of those that it has; none is added."""
    known = {name.lower(): str(value) for name, value in changes.items()}
    return _text((name, known.get(lower, text)) for lower, (name, text) in _lines(ad).items())


def has(ad: str, name: str) -> bool:
    """Is there such an attribute?"""
    return name.lower() in _lines(ad)


def wants_updates(source: str) -> bool:
    """May the job change its ad at once, and read it, by chirp?  As ``JICShadow`` reads it."""
    names = ("WantRemoteUpdates", "WantIOProxy")
    name = next((name for name in names if has(source, name)), names[0])
    return _lines(source).get(name.lower(), (name, "false"))[1].lower() == "true"


def _lines(ad: str) -> dict[str, tuple[str, str]]:
    matches = filter(None, map(_LINE.fullmatch, ad.split("\n")))
    return {match[1].lower(): (match[1], match[2].strip()) for match in matches}


def _text(lines: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{name} = {text}\n" for name, text in lines)


def environment(source: str, given: Mapping[str, str], cpus: int) -> dict[str, str]:
    """The environment that a starter would give to the source; ``given`` is the stand-in's.

    A starter's own variables go before the job's, but for those by which a program is told
    how many threads to start: they are the job's to say.  Raises `AdError`.
    """
    variables = _variables(source)
    counts = {name for name, value in given.items() if value == str(cpus)}
    kept = {name: value for name, value in variables.items() if name in counts and value}
    return {**variables, **given, **kept}


def template_here(machine_ad: str, like: str) -> Path:
    """Where this machine has the template of this likeness; raises `TemplateError`."""
    for one, path in _templates_here(machine_ad):
        if one == like:
            return Path(path)
    raise TemplateError(
        f"this machine has no template of the likeness {like}",
        "publish it ('vmcapsule template publish'), or copy VM_CAPSULE_TEMPLATE there",
    )


def any_template_here(machine_ad: str) -> Path:
    """Where this machine has the first of its templates; raises `TemplateError`."""
    for _, path in _templates_here(machine_ad):
        return Path(path)
    raise TemplateError(
        "this machine has no template",
        "have jobs require HasVMCapsuleWrapper; see VMCapsuleTemplateReason of the machine",
    )


def _templates_here(machine_ad: str) -> Iterator[tuple[str, str]]:
    """(likeness, path) of the templates that the machine says that it has."""
    said = (_string(machine_ad, name) for name in (starter.TEMPLATES, starter.TEMPLATE_PATHS))
    likes, paths = ((text or "").split(",") for text in said)
    return ((like, path) for like, path in zip(likes, paths) if path)


def _variables(source: str) -> dict[str, str]:
    """What the job's own ad says: V2 goes before V1, also where it is empty."""
    said = {name: _string(source, name) for name in ("Environment", "Env", "EnvDelim")}
    try:
        if said["Environment"] is not None:
            return job_text.environment_v2(said["Environment"])
        return job_text.environment_v1(said["Env"] or "", said["EnvDelim"] or "")
    except ValueError as error:
        raise AdError(f"the job's environment: {error}", "correct it") from error


def _string(source: str, name: str) -> Optional[str]:
    _, text = _lines(source).get(name.lower(), (name, "undefined"))
    return lex.literal_string(text)
