"""``pack.py RUNNER FOLDER``: make a capsule that runs ``true``."""

from __future__ import annotations

import sys
from pathlib import Path

from vmcapsule.capsule import naming
from vmcapsule.capsule.packing import pack, plan
from vmcapsule.classad.ads import parse_ad, quote
from vmcapsule.cli import report
from vmcapsule.guest import bundle
from vmcapsule.job.source import read_job
from vmcapsule.template.tarball import tarball_of
from vmcapsule.template.template import load


def main(runner: str, folder: Path) -> None:
    """Put the capsule at ``folder``; it runs under HTCondor or directly."""
    config = report.configuration()
    lines = [
        f"Iwd = {quote(str(folder.parent))}",
        'Cmd = "/bin/true"',
        "TransferExecutable = false",
        "JobUniverse = 5",
        "RequestMemory = 64",
        'Owner = "root"',
        "ClusterId = 1",
        "ProcId = 0",
    ]
    job = read_job(parse_ad("\n".join(lines)))
    tarball = tarball_of(config) if runner == bundle.CONDOR else None
    made = pack(plan(job, load(config.template), config, tarball, naming.RUN))
    # Its record names what is in it relative to itself.
    made.folder.rename(folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).absolute())
