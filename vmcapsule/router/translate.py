"""The TRANSLATE_JOB hook: a source ad in, the routed job's ad out, its capsule on disk."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Optional

from vmcapsule.classad import lenient
from vmcapsule.classad.ads import Ad, Value, parse_ad, quote, split_translate
from vmcapsule.config import Config
from vmcapsule.errors import (
    InputError,
    TooLarge,
    VmCapsuleError,
    one_line,
)
from vmcapsule.job.policy import read_logs
from vmcapsule.job.refusals import refuse, refuse_in_slot
from vmcapsule.job.source import id_of, read_job
from vmcapsule.named import NamedTuple
from vmcapsule.resources import resource
from vmcapsule.router.route import HELD_WITHOUT_UPDATE_S, REMOVED_WHEN_HELD, InSlot
from vmcapsule.router.routes import check_fits, read_ad_template, route_of
from vmcapsule.router.user_log import told_logs

if TYPE_CHECKING:
    from vmcapsule.capsule.record import Capsule

#: A held routed ad is to fit into what the JobRouter reads by default, whatever the job is.
_REASON_CHARS_MAX = 500
_PATH_BYTES_MAX = 1024


class Routed(NamedTuple):
    """A routed job's ad, its source's id, and the capsule that was made for it, if one was."""

    ad: Ad
    job_id: str
    capsule: Optional[Capsule]


def translate(text: str, config: Config) -> Routed:
    """Make the routed ad for the job ad in ``text``, and where its kind has one the capsule.

    ``text`` is what the JobRouter sends (route, ``------``, ad), a plain job ad or the
    output of ``condor_q -long``.  Nothing is left behind when it fails.
    """
    asked, source = split_translate(text)
    file = config.ad_template_of(asked.string("Name") if asked is not None else None)
    ad_template = read_ad_template(file)
    # The ad template's own universe says what is made: nothing is packed before it is known.
    route = route_of(ad_template)
    job = read_job(source, refuse_in_slot if isinstance(route, InSlot) else refuse)
    if asked is not None:
        check_fits(route, file, asked)
    check = partial(_check_length, limit_bytes=config.pipe_buffer_max_bytes)
    if isinstance(route, InSlot):
        ad = route.routed_ad(job, ad_template, config)
        if asked is not None:
            check(ad)
        return Routed(ad, job.job_id, None)
    from vmcapsule.router import by_capsule  # a third of what the hook imports

    if asked is None:
        ad, made = by_capsule.by_hand(job, route, ad_template, config)
    else:
        ad, made = by_capsule.for_router(job, route, ad_template, config, check)
    return Routed(ad, job.job_id, made)


def _check_length(ad: Ad, limit_bytes: int) -> None:
    """Raise `TooLarge` for an ad of which the JobRouter would read the beginning only.

    It takes PIPE_BUFFER_MAX bytes of a hook's output (``condor_daemon_core.V6``); a line
    that is cut off there fails, or changes, the job.
    """
    size_bytes = len(ad.long_form().encode(errors="surrogateescape"))
    if size_bytes > limit_bytes:
        raise TooLarge(
            f"the job's ad has {size_bytes} bytes, the JobRouter takes "
            f"PIPE_BUFFER_MAX = {limit_bytes}",
            "raise PIPE_BUFFER_MAX and restart HTCondor, or give the job fewer and "
            "shorter attributes",
        )


def held_ad(text: str, error: VmCapsuleError) -> Optional[Ad]:
    """A routed ad that is held at once, saying why, for a job that cannot be translated.

    The UPDATE_JOB_INFO hook holds it, with the error's own hold code: PeriodicHold has but
    one.  The JobRouter mirrors the hold on the source job, whose owner reads the reason there;
    of a hook that merely fails nobody is told, and it is run again and again.  None when it
    is not the JobRouter that asks: it sends a route above the ad.
    """
    route, below = lenient.frame(text)
    if below is None or not route.strip():
        return None
    # What cannot be parsed is a reason for a hold, too.
    source = lenient.told(below)
    changes: dict[str, Value] = {
        **_printable(source),
        "Cmd": quote("/bin/false"),
        "TransferExecutable": False,
        "Requirements": False,
        "VmCapsuleHoldReason": quote(one_line(f"vmcapsule: {error}", _REASON_CHARS_MAX)),
        "VmCapsuleHoldReasonCode": error.hold_code,
        "VmCapsuleHoldReasonSubCode": _subcode(error),
        # Where there is no UPDATE_JOB_INFO hook.
        "PeriodicHold": f"time() - QDate > {HELD_WITHOUT_UPDATE_S}",
        "PeriodicHoldReason": "VmCapsuleHoldReason",
        "PeriodicHoldSubCode": error.exit_status,
        "PeriodicRemove": REMOVED_WHEN_HELD,
        "VmCapsuleSourceJobId": quote(id_of(source)),
    }
    return parse_ad(resource("templates/slot.classad").read_text(encoding="utf-8")).with_(
        changes
    )


def _printable(source: Ad) -> dict[str, Value]:
    """What a held routed ad has of its source: what anybody's tools can read, and no more
    than the JobRouter does."""
    texts = {name: source.string(name) for name in ("Owner", "Iwd")}
    made = {name: quote(text) for name, text in texts.items() if text}
    return {
        name: text
        for name, text in {**made, **told_logs(read_logs(source))}.items()
        if str(text).isprintable() and len(str(text).encode()) <= _PATH_BYTES_MAX
    }


def _subcode(error: VmCapsuleError) -> int:
    """Of an input that cannot be read the errno, as HTCondor's shadow has it."""
    cause = error.__cause__
    if isinstance(error, InputError) and isinstance(cause, OSError):
        return cause.errno or error.exit_status
    return error.exit_status
