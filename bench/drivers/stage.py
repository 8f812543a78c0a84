"""``python -m bench.drivers.stage TREE DISK``: pack a folder's tree onto a data disk."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from vmcapsule import sandbox, staging


def main(tree: str, disk: Path) -> None:
    """Do what packing a job's inputs does."""
    load = staging.packed(sandbox.tree(tree, os.path.basename(tree)), texts=())  # noqa: PTH119
    staging.stage(load, disk, None, disk.parent)


if __name__ == "__main__":
    # As a hook begins and ends.
    gc.disable()
    main(sys.argv[1], Path(sys.argv[2]))
    os._exit(0)
