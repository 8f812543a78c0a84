"""``python -m bench.drivers.extract DISK FOLDER NAME``: deliver what was staged there."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.drivers.stage import job_of
from vmcapsule import contract, extract


def main(disk: Path, folder: Path, name: str) -> None:
    """Do what delivering a job's outputs does; the packed inputs stand for them."""
    job = job_of(folder, "TransferOutput", name)
    with extract.opened(disk, None, disk.parent) as opened:
        files = extract.read_index(opened, contract.INPUT_INDEX, contract.INPUT_PACK)
        extract.deliver(opened, files, job, "bench")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute(), sys.argv[3])
