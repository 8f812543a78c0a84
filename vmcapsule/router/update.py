"""The UPDATE_JOB_INFO hook: holds a routed job with any code, which no policy in an ad can.

Its source could not be translated, or what ran in the slot has found that the job never will.

The JobRouter asks at every poll for every routed job whose source is not known to run: by
``HookKeyword``, see ``templates/router.config``.  ``hooks/update`` calls this only where the
ad has a hold or asks for one, and it imports next to nothing.  What it prints is
put into the routed job's ad, and the same poll mirrors a hold on the source job.  A held
routed job has done its duty then: the mark that the hold was seen has its PeriodicRemove
remove it, so that a released source job is routed anew.
"""

import sys
import time

#: A routed ad is far smaller.
_BYTES_MAX = 64 << 20
_IDLE, _HELD = b"1", b"5"
#: What is to be put into the ad, and how the names begin under which it is there already:
#: from `vmcapsule.router.translate.held_ad`, and from `vmcapsule.slot` by chirp.
_HOLD = (b"HoldReason", b"HoldReasonCode", b"HoldReasonSubCode")
_ASKED = (b"vmcapsule", b"chirpvmcapsule")


def main() -> int:
    """Read a routed ad on standard input; print what is to change in it."""
    ad = {}
    given = sys.stdin.buffer.read(_BYTES_MAX)
    for line in given.split(b"\n"):
        name, equals, text = line.partition(b"=")
        if equals:
            ad[name.strip().lower()] = text.strip()
    changes = []
    for prefix in _ASKED:
        asked = [ad.get(prefix + name.lower()) for name in _HOLD]
        # Not one that runs: the schedd would not stop it.
        if ad.get(b"jobstatus") == _IDLE and None not in asked:
            changes = [b"JobStatus = " + _HELD, b"EnteredCurrentStatus = %d" % time.time()]
            changes += [name + b" = " + (text or b"") for name, text in zip(_HOLD, asked)]
    is_held = bool(changes) or ad.get(b"jobstatus") == _HELD
    # Once only.  Then the job may go at any moment, and the JobRouter's failed attempt to
    # write into one that is gone takes other jobs' next changes along.
    is_new = is_held and ad.get(b"vmcapsuleholdseen") != b"true"
    if is_new:
        changes.append(b"VmCapsuleHoldSeen = true")
    sys.stdout.buffer.write(b"".join(line + b"\n" for line in changes))
    sys.stdout.flush()
    if is_new:
        _tell(b"\n".join([given.strip(), *changes, b""]))
    return 0


def _tell(ad: bytes) -> None:
    """Put the hold into the source's log, too.

    Whatever keeps it out of there must not keep the job from being held: no failure.
    """
    # Only now: they are a hundred times what a poll needs.
    from vmcapsule.classad.ads import parse_ad
    from vmcapsule.errors import one_line
    from vmcapsule.router.user_log import tell_hold

    try:
        tell_hold(parse_ad(ad.decode(errors="surrogateescape")))
    except Exception as error:  # noqa: BLE001
        print(
            f"vmcapsule: the hold is not in the user's log: {one_line(str(error))}",
            file=sys.stderr,
        )
