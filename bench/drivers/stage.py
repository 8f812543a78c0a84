"""``stage.py TREE DISK FOLDER``: pack a tree onto a data disk like DISK, in FOLDER."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path


def main(tree: Path, disk: Path, folder: Path) -> None:
    """Do what packing a job's inputs does, begun as a hook begins."""
    gc.disable()
    from vmcapsule.disk.data_disk import DataDisk
    from vmcapsule.guest import staging
    from vmcapsule.transfer import sandbox

    load = staging.packed(sandbox.tree(str(tree), tree.name), texts=())
    like = DataDisk(disk)
    staging.stage(load, like, folder, like.look().size_bytes, travels=False)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
    # As a hook ends.
    os._exit(0)
