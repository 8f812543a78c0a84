"""Where benchmarks work: a folder that goes when they end, and the files they work on."""

from __future__ import annotations

import compileall
import contextlib
import os
import shutil
import site
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

from bench.measure import Command, command
from vmcapsule.config import Config, load_config
from vmcapsule.disk.disk import Disk
from vmcapsule.disk.new_disk import NewDisk, empty

CHECKOUT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
GIB = 1 << 30
#: Where a data disk's partition begins.
OFFSET_BYTES = MIB
#: How large a template's data disk is unless its builder is told.
TEMPLATE_DISK_BYTES = 4 * GIB
#: mtools as they come, whatever this machine's or user's configuration says.
MTOOLS = {"MTOOLSRC": "/dev/null", "LC_ALL": "C.UTF-8"}

#: As pip writes it.
_PROGRAM = """\
#!{python}
import sys
from vmcapsule.cli.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""


@dataclass(frozen=True)
class Sizes:
    """How much work there is."""

    rounds: int
    large_bytes: int
    files: int
    file_bytes: int
    grow_files: tuple[int, ...]
    grow_bytes: tuple[int, ...]
    template_disk_bytes: int
    inputs_bytes: int
    boots: int
    jobs: tuple[int, ...]
    short_jobs: int
    running: int


FULL = Sizes(
    rounds=7,
    large_bytes=GIB,
    files=2000,
    file_bytes=20_000,
    grow_files=(1, 10, 100, 1000, 10_000),
    grow_bytes=(MIB, 16 * MIB, 256 * MIB, GIB, 4 * GIB),
    template_disk_bytes=8 * GIB,
    inputs_bytes=100_000_000,
    boots=5,
    jobs=(1, 10, 50, 200),
    short_jobs=3,
    running=10_000,
)
QUICK = Sizes(
    rounds=3,
    large_bytes=64 * MIB,
    files=100,
    file_bytes=20_000,
    grow_files=(1, 10),
    grow_bytes=(MIB, 4 * MIB),
    template_disk_bytes=GIB,
    inputs_bytes=1_000_000,
    boots=1,
    jobs=(1, 4),
    short_jobs=1,
    running=100,
)


@dataclass(frozen=True)
class Place:
    """What a row is given."""

    scratch: Path
    sizes: Sizes
    config: Config
    #: What is timed: see `install`.
    installation: Path
    say: Callable[[str], None] = lambda words: None

    def vmcapsule(self, *arguments: object, stdin: str = "") -> Command:
        """The command, as it is installed, with capsules made in our scratch folder."""
        program = self.installation / "bin" / "vmcapsule"
        return command(program, *arguments, stdin=stdin, env=self.environment)

    def python(self, *arguments: object) -> Command:
        """The Python that all of ours runs with."""
        return command(self._python, *arguments, env=self.environment)

    def hook(self, name: str, stdin: str, ad_template: str = "kvm-gahp") -> Command:
        """One of the JobRouter's hooks, started as HTCondor does it, for a route's jobs."""
        chosen = {"_CONDOR_VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": ad_template}
        return command(CHECKOUT / "hooks" / name, stdin=stdin, env=self.environment | chosen)

    def driver(self, name: str, *arguments: object) -> Command:
        """One of ``bench/drivers``."""
        return self.python(CHECKOUT / "bench" / "drivers" / f"{name}.py", *arguments)

    @property
    def _python(self) -> Path:
        return self.installation / "bin" / "python3"

    @property
    def capsules(self) -> Path:
        """Where capsules are made."""
        return self.scratch / "capsules"

    @property
    def environment(self) -> dict[str, str]:
        """What makes programs use the installation, and what it was told to use."""
        knobs = {
            "TEMPLATE": self.config.template,
            "SCRATCH_DIR_PREFIX": self.capsules,
            "CACHE_DIR": self.config.cache,
            "CONDOR_CLASSAD_TEMPLATE": "kvm-gahp",
        }
        return {
            # A hook begins with "#!/usr/bin/env python3".
            "PATH": f"{self._python.parent}:{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": "",
            "CONDOR_CONFIG": "ONLY_ENV",
            # An installation is compiled, whatever this shell says.
            "PYTHONDONTWRITEBYTECODE": "",
            **{f"_CONDOR_VM_CAPSULE_{name}": str(value) for name, value in knobs.items()},
        }


@contextlib.contextmanager
def made_place(sizes: Sizes, say: Callable[[str], None]) -> Iterator[Place]:
    """A `Place` below the cache folder, removed whatever happens."""
    config = load_config()
    for part in ("vmcapsule", "bench"):
        # As pip does it; a program that finds nothing compiled pays for it at every start.
        compileall.compile_dir(CHECKOUT / part, quiet=1)
    config.cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=config.cache))
    try:
        yield Place(folder, sizes, config, install(folder / "installation"), say)
    finally:
        shutil.rmtree(folder)


def install(folder: Path) -> Path:
    """Make an installation of this checkout for a user: a Python that finds it on its path.

    A developer's is slower than any user's: at every start of Python it imports what finds
    an editable package, and whatever else a developer's tools have in ``.pth`` files.
    """
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Of a folder that is named here, Python reads no .pth files.
    paths = "\n".join([str(CHECKOUT), *site.getsitepackages()])
    (packages / "vmcapsule.pth").write_text(f"{paths}\n")
    program = folder / "bin" / "vmcapsule"
    program.write_text(_PROGRAM.format(python=folder / "bin" / "python3"))
    program.chmod(0o755)
    return folder


@contextlib.contextmanager
def folder_for(place: Place, name: str) -> Iterator[Path]:
    """A folder for one row, discarded at its end."""
    folder = place.scratch / name
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        discard(place, folder)


def discard(place: Place, folder: Path) -> None:
    """Empty a folder's files and put it aside, to be removed when all is done.

    Where thousands of files were removed minutes ago ext4 looks long for an inode for each
    new one, and who comes next would pay for it.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)
    (place.scratch / "discarded").mkdir(exist_ok=True)
    folder.rename(place.scratch / "discarded" / os.urandom(8).hex())


def fresh(*paths: Path) -> None:
    """Remove files and folders that an earlier round made."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def make_tree(folder: Path, files: int, file_bytes: int) -> Path:
    """Fill a new folder with files of bytes that do not compress, nor are alike.

    Their names are short: mcopy takes minutes to find a free short name for each of a
    thousand long ones that begin alike.
    """
    folder.mkdir()
    for number in range(files):
        with (folder / f"f{number:05}").open("wb") as file:
            left = file_bytes
            while left > 0:
                left -= file.write(os.urandom(min(left, 8 * MIB)))
    return folder


def empty_disk(path: Path, size_bytes: int, *, growable: bool = False) -> Disk:
    """Make an empty data disk; a flat one's image is ``NAME-flat.vmdk`` beside it."""
    fresh(*path.parent.glob(f"{path.stem}*.vmdk"))
    disk = NewDisk(empty(size_bytes, OFFSET_BYTES), {})
    with disk.made(path, travels=growable):
        pass
    return Disk.at(path)


def disk_bytes_for(files: int, file_bytes: int) -> int:
    """How large a data disk is for a tree: as in a template, or larger where it must be."""
    size_bytes = 128 * MIB + files * (file_bytes + 64 * 1024)
    return max(TEMPLATE_DISK_BYTES, -(-size_bytes // MIB) * MIB)
