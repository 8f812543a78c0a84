"""The JobRouter's hooks as commands: ads on standard input, attributes on standard output.

A hook that fails is no way to tell anybody anything: the JobRouter repeats a failing
TRANSLATE for ever and loses the job of a failing FINALIZE.  So whatever goes wrong is told
in an ad, and only what cannot be (nobody sent one) becomes an exit status.
"""

from __future__ import annotations

import sys
from typing import Optional

from vmcapsule.classad import lenient
from vmcapsule.classad.ads import Ad
from vmcapsule.cli import report
from vmcapsule.config import Config
from vmcapsule.errors import (
    AdError,
    InternalError,
    VmCapsuleError,
    from_os,
    one_line,
)
from vmcapsule.job.source import id_of
from vmcapsule.router import event_log


def translate(arguments: object) -> int:
    """``vmcapsule translate``: one routed ad on standard output, written last."""
    from vmcapsule.router.translate import held_ad
    from vmcapsule.router.translate import translate as work

    text = report.read_stdin()
    config: Optional[Config] = None
    try:
        config = report.configuration()
        done = work(text, config)
    except Exception as error:  # noqa: BLE001 - see the module's text
        failure = _failure(error)
        above, below = lenient.frame(text)
        _log(config, event_log.TRANSLATE, _job_of(below or above), f"failed: {failure}")
        held = held_ad(text, failure)
        if held is None:
            raise failure from error
        _complain(failure)
        _print(held)
        return 0
    folder = done.capsule.folder if done.capsule else None
    event = f"translated into {folder}" if folder else "translated"
    _log(config, event_log.TRANSLATE, done.job_id, event)
    try:
        _print(done.ad)
    except BaseException:
        # Nobody got the ad, so nobody will ever ask for the capsule.
        if folder:
            from vmcapsule.capsule import making

            making.remove(folder)
        raise
    return 0


def finalize(arguments: object) -> int:
    """``vmcapsule finalize``: the exit attributes on standard output, written last."""
    from vmcapsule.router.finalize import finalize as work
    from vmcapsule.router.finalize import undelivered

    text = report.read_stdin()
    config = _configuration()
    try:
        ad, job_exit = work(text)
        how = report.describe_exit(job_exit) if job_exit else "by HTCondor, or before"
        event = f"delivered: {how}"
    except Exception as error:  # noqa: BLE001 - see the module's text
        failure = _failure(error)
        try:
            ad = undelivered(text, failure)
        except AdError:
            _log(config, event_log.EXIT, "?", f"failed: {failure}")
            raise failure from error
        _complain(failure)
        event = f"not delivered: {failure}"
    _log(config, event_log.EXIT, _job_of(lenient.frame(text)[0]), event)
    _print(ad)
    return 0


def cleanup(arguments: object) -> int:
    """``vmcapsule cleanup``: prints nothing.

    What could not be removed is left to 'vmcapsule gc': the JobRouter would run a failing
    hook for ever, and hold the source job meanwhile.
    """
    from vmcapsule.router.cleanup import cleanup as work

    text = report.read_stdin()
    config = _configuration()
    try:
        job_id, event = work(text)
    except Exception as error:  # noqa: BLE001 - see the module's text
        failure = _failure(error)
        _complain(failure)
        job_id = lenient.told(text).string("VmCapsuleSourceJobId") or "?"
        event = f"left to gc: {failure}"
    _log(config, event_log.EXIT, job_id, event)
    return 0


def update(arguments: object) -> int:
    """``vmcapsule update``: as the hook, which does without all the rest."""
    from vmcapsule.router.update import main

    return main()


def _failure(error: Exception) -> VmCapsuleError:
    """Any error as one of ours; a fault of vmcapsule's own with its traceback on stderr."""
    if isinstance(error, VmCapsuleError):
        return error
    if isinstance(error, OSError):
        return from_os(error)
    import traceback  # seldom needed

    traceback.print_exception(type(error), error, error.__traceback__)
    return InternalError(
        f"vmcapsule itself failed: {type(error).__name__}: {error}",
        "report this with the text on standard error (in a pool: JobRouterLog)",
    )


def _configuration() -> Optional[Config]:
    """What only the log needs of FINALIZE and CLEANUP, which do their work without it, too."""
    try:
        return report.configuration()
    except Exception as error:  # noqa: BLE001 - see the module's text
        _complain(_failure(error))
        return None


def _log(config: Optional[Config], kind: str, job_id: str, event: str) -> None:
    """Tell an event to one of the logs, where there is one."""
    for log in event_log.logs_of(config) if config else ():
        if log.kind == kind:
            event_log.tell(log, job_id, event)


def _complain(error: VmCapsuleError) -> None:
    """Tell whoever reads standard error: a person, or JobRouterLog."""
    print(f"vmcapsule: {one_line(str(error))}", file=sys.stderr)


def _job_of(text: str) -> str:
    """The id of the job whose ad is in ``text``, which need not be one that can be parsed."""
    ad = lenient.told(text)
    return id_of(ad) if "ClusterId" in ad else "?"


def _print(ad: Ad) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(ad.long_form().encode(errors="surrogateescape"))
    sys.stdout.flush()
