"""A sandbox of many files packed or delivered by a process that says what memory it took.

``python -m tests.unit.sandbox_memory stage|deliver_some DISK FOLDER`` prints KiB.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable

from tests.unit.edits import stage_onto
from vmcapsule import contract
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.guest import extract, staging
from vmcapsule.transfer import sandbox


def stage(disk: Path, folder: str) -> None:
    load = staging.packed(sandbox.tree(folder, "tree"), texts=())
    stage_onto(load, DataDisk(disk))


def deliver_some(disk: Path, folder: str) -> None:
    """Of so many files it takes long to write all: those of a few folders."""
    deliver(disk, folder, wanted=lambda path: path.startswith("tree/folder-00"))


def deliver(disk: Path, folder: str, wanted: Callable[[str], bool] = lambda path: True) -> None:
    with DataDisk(disk).opened(disk.parent) as volume:
        files = extract.read_index(volume, contract.INPUT_INDEX, contract.INPUT_PACK)
        done = extract.deliver(
            volume, files, lambda path: f"{folder}/{path}" if wanted(path) else None, "token"
        )
    assert done.left_over == {}


if __name__ == "__main__":
    {"stage": stage, "deliver_some": deliver_some}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
    status = Path("/proc/self/status").read_text().splitlines()
    [most] = [line.split()[1] for line in status if line.startswith("VmHWM:")]
    print(most)
