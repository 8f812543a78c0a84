"""What a gahp has to say, for the log of the slot's starter."""

from __future__ import annotations

import sys

from vmcapsule.slot.ending import say


def log(text: str) -> None:
    """A line for the starter's log.  Nothing of the job's ad, which has secrets."""
    # It is the starter's pipe, which may be full or gone: the job matters more.
    say(f"vmcapsule-vm-gahp: {text}", sys.stderr)
