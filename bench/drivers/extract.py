"""``python -m bench.drivers.extract DISK FOLDER``: deliver what was staged there."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from vmcapsule import contract, extract


def main(disk: Path, folder: str) -> None:
    """Do what delivering a job's outputs does; the packed inputs stand for them."""
    with extract.opened(disk, None, disk.parent) as opened:
        files = extract.read_index(opened, contract.INPUT_INDEX, contract.INPUT_PACK)
        extract.deliver(opened, files, lambda path: f"{folder}/{path}", "bench")


if __name__ == "__main__":
    # As a hook begins and ends.
    gc.disable()
    main(Path(sys.argv[1]), sys.argv[2])
    os._exit(0)
