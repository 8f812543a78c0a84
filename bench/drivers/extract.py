"""``extract.py DISK FOLDER``: deliver what was staged there."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path


def main(disk: Path, folder: str) -> None:
    """Do what delivering a job's outputs does; the packed inputs stand for them."""
    gc.disable()
    from vmcapsule import contract
    from vmcapsule.disk.data_disk import DataDisk
    from vmcapsule.guest import extract

    with DataDisk(disk).opened(disk.parent) as volume:
        files = extract.read_index(volume, contract.INPUT_INDEX, contract.INPUT_PACK)
        extract.deliver(volume, files, lambda path: f"{folder}/{path}", "bench")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    # As a hook ends.
    os._exit(0)
