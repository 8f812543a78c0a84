"""What an execute point's job wrapper says: the machine's settings, and the job's command."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Sequence

from vmcapsule.errors import UsageError
from vmcapsule.slot.packed import run
from vmcapsule.slot.packed.carry import Settings


def main(arguments: Sequence[str]) -> int:
    """Run a job in a machine; return its exit code."""
    try:
        args = parser().parse_args(arguments)
    except SystemExit:  # a wrapper of another version, say: that is no job's end
        raise UsageError(
            f"the job wrapper says '{' '.join(arguments)}'", "write wrapper and program anew"
        ) from None
    # What was kept from us, and is the job's.
    os.environ.update(item.partition("=")[::2] for item in args.set)
    settings = Settings(args.network, args.require_kvm, args.timeout, args.memory_overhead_mib)
    return run.main(args.template, settings, args.command)


def parser() -> argparse.ArgumentParser:
    """What may be said: ``templates/job-wrapper.sh`` does."""
    made = argparse.ArgumentParser(prog="vmcapsule packed", description=__doc__)
    made.add_argument("--template", type=Path, required=True)
    made.add_argument("--network", action="store_true")
    made.add_argument("--require-kvm", action="store_true")
    made.add_argument("--timeout", type=float)
    made.add_argument("--memory-overhead-mib", type=int, default=256)
    made.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    made.add_argument("command", nargs="+")
    return made
