"""The UPDATE_JOB_INFO hook: says of a held routed job that the JobRouter has seen the hold.

It runs at every poll for every routed job, so it imports nothing and mostly prints
nothing.  What it prints is put into the routed job's ad, and the same poll mirrors the
hold on the source job; the routed job, which has then done its duty, removes itself by
its PeriodicRemove.  So a released source job is routed anew.
"""

import sys

#: A routed ad is far smaller.
_BYTES_MAX = 64 << 20


def main() -> int:
    """Read a routed ad on standard input; print what is to change in it."""
    lines = sys.stdin.buffer.read(_BYTES_MAX).split(b"\n")
    held = any(line.replace(b" ", b"").lower() == b"jobstatus=5" for line in lines)
    if held:
        print("VmCapsuleHoldSeen = true")
    return 0
