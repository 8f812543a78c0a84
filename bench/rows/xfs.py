"""One large file where the file system shares blocks: XFS in a file, mounted for us alone.

Mount and processes are in namespaces that end with the process that works there, and
the loop device is freed with the mount.
"""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

from bench.measure import Contender, Runs, alternate, timed
from bench.place import CHECKOUT, GIB, Place, folder_for, make_tree
from bench.results import OURS, Measure, Outcome, Target, at_most_s
from bench.rows.staging import CP, Bench
from vmcapsule.config import load_config
from vmcapsule.errors import ToolError
from vmcapsule.process import Arg, run

_MOUNTED = 'mount -o loop "$1" "$2" && shift 2 && exec "$@"'
_BLOCKS_MIB_MAX = 8.0


def shared(place: Place) -> Outcome:
    """Mount XFS and measure on it; the reason where that cannot be had."""
    if os.geteuid() != 0:
        return Outcome(why_not="mounting needs root")
    with folder_for(place, "xfs") as folder:
        image, mount = folder / "xfs.img", folder / "mount"
        mount.mkdir()
        with image.open("wb") as file:
            file.truncate(4 * place.sizes.large_bytes + 2 * GIB)
        inside = place.python("-m", "bench.rows.xfs", mount, place.sizes.rounds).argv
        argv: list[Arg] = [
            "unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc",
            "--fork", "--kill-child", "--",
            "sh", "-c", _MOUNTED, "sh", image, mount, *inside,
            str(place.sizes.large_bytes),
        ]  # fmt: skip
        try:
            run(["mkfs.xfs", "-q", "-m", "reflink=1", image], timeout_s=120)
            env = {**os.environ, **place.environment}
            done = run(argv, timeout_s=1800, cwd=CHECKOUT, env=env)
        except ToolError as error:
            return Outcome(why_not=str(error))
    outcome: Outcome = pickle.loads(done.stdout)
    return outcome


def _inside(mount: Path, rounds: int, size_bytes: int) -> Outcome:
    """In the namespace: the same as elsewhere, and how many blocks it takes."""
    from bench.place import QUICK

    sizes = replace(QUICK, rounds=rounds, large_bytes=size_bytes)
    place = Place(mount, sizes, load_config(), Path(sys.prefix))
    bench = Bench(place, mount, 1, size_bytes)
    make_tree(bench.tree, 1, size_bytes)
    ways = (("stage", bench.staging([OURS, CP])), ("extract", bench.extraction([OURS, CP])))
    measures = []
    for verb, contenders in ways:
        runs = alternate(contenders, rounds)
        taken_mib = _new_blocks_mib(mount, contenders[0])
        measures.append(_measure(verb, size_bytes, runs, taken_mib))
    bench.check([OURS, CP])
    return Outcome(tuple(measures))


def _measure(verb: str, size_bytes: int, runs: dict[str, Runs], taken_mib: float) -> Measure:
    what = f"{verb} {size_bytes / 2**30:g} GiB on XFS"
    blocks = Target("MiB of new blocks", taken_mib, _BLOCKS_MIB_MAX)
    return Measure(what, runs, (at_most_s(runs, 0.2), blocks))


def _new_blocks_mib(mount: Path, contender: Contender) -> float:
    """How much of the file system one more run takes."""
    contender.prepare()
    before = _free_bytes(mount)
    timed(contender.command)
    return round((before - _free_bytes(mount)) / 2**20, 2)


def _free_bytes(mount: Path) -> int:
    # What is deleted, and what is only promised, counts once it is done.
    os.sync()
    status = os.statvfs(mount)
    return status.f_bfree * status.f_frsize


if __name__ == "__main__":
    folder, rounds, size = sys.argv[1:]
    sys.stdout.buffer.write(pickle.dumps(_inside(Path(folder), int(rounds), int(size))))
