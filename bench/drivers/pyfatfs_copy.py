"""``pyfatfs_copy.py in|out TREE IMAGE OFFSET``: copy with pyfatfs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pyfatfs.PyFatFS import PyFatFS


def main(way: str, tree: Path, image: Path, offset_bytes: int) -> None:
    """Copy a folder of files into the volume, or such a folder out of it."""
    with PyFatFS(str(image), offset=offset_bytes) as volume:
        if way == "in":
            volume.makedir(tree.name)
            for path in sorted(tree.iterdir()):
                with path.open("rb") as source:
                    volume.upload(f"/{tree.name}/{path.name}", source)
        else:
            tree.mkdir()
            for name in volume.listdir(f"/{tree.name}"):
                with volume.openbin(f"/{tree.name}/{name}") as source:
                    with (tree / name).open("wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
