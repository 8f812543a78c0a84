"""``python -m bench.drivers.stage TREE DISK``: pack a folder's tree onto a data disk."""

from __future__ import annotations

import sys
from pathlib import Path

from vmcapsule import bundle
from vmcapsule.ads import parse_ad, quote
from vmcapsule.job import SourceJob, read_job
from vmcapsule.resources import resource


def job_of(folder: Path, attribute: str, name: str) -> SourceJob:
    """A job in ``folder`` whose files to transfer are ``name``."""
    lines = [
        f"Iwd = {quote(str(folder))}",
        'Cmd = "/bin/true"',
        "TransferExecutable = false",
        "JobUniverse = 5",
        f"{attribute} = {quote(name)}",
    ]
    return read_job(parse_ad("\n".join(lines)))


def main(tree: Path, disk: Path) -> None:
    """Do what packing a job does, without HTCondor's tarball."""
    job = job_of(tree.parent, "TransferInput", tree.name)
    load = bundle.payload(job, init_script=resource("guest/condor-init.py"), tarball=None)
    bundle.stage(load, disk, None, disk.parent)


if __name__ == "__main__":
    main(*(Path(argument).absolute() for argument in sys.argv[1:]))
