"""What a gahp has to say, for the log of the slot's starter."""

from __future__ import annotations

import sys


def log(text: str) -> None:
    """A line for the starter's log.  Nothing of the job's ad, which has secrets."""
    try:
        print(f"vmcapsule-vm-gahp: {text}", file=sys.stderr, flush=True)
    except OSError:
        # It is the starter's pipe, which may be full or gone: the job matters more.
        return
