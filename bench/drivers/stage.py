"""``stage.py TREE DISK``: pack a folder's tree onto a data disk."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path


def main(tree: Path, disk: Path) -> None:
    """Do what packing a job's inputs does, begun as a hook begins."""
    gc.disable()
    from vmcapsule.disk.data_disk import DataDisk
    from vmcapsule.guest import staging
    from vmcapsule.transfer import sandbox

    load = staging.packed(sandbox.tree(str(tree), tree.name), texts=())
    staging.stage(load, DataDisk(disk))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
    # As a hook ends.
    os._exit(0)
