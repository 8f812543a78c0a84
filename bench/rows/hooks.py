"""The TRANSLATE_JOB hook, started as HTCondor does it: for small jobs, and for large inputs.

A small job's is compared with a Python that only imports classad2; one with large inputs with
those who only copy these: cp into a folder, mcopy into a volume that is there.
"""

from __future__ import annotations

import os
from pathlib import Path

from bench.measure import Command, Contender, Runs, alternate, timed
from bench.place import CHECKOUT, Place, folder_for, fresh, make_tree
from bench.results import OURS, Measure, Outcome, at_most
from bench.rows.staging import CP, MCOPY, Bench, size_of
from vmcapsule.classad.ads import quote
from vmcapsule.errors import ToolError
from vmcapsule.process import run
from vmcapsule.slot.starter import PROGRAM_PATH

FLOOR = "import classad2"

#: What the JobRouter sends: the route, a line of dashes, the job.
_INPUT = """\
[ Name = "capsule"; TargetUniverse = {universe}; ]
------
ClusterId = 1
ProcId = 0
GlobalJobId = "bench#1.0#1"
Owner = "root"
JobUniverse = 5
JobStatus = 1
QDate = 1
Iwd = {iwd}
Cmd = "wordcount.sh"
TransferInput = "{inputs}"
Out = "out"
Err = "err"
RequestMemory = 64
RequestCpus = 1
RequestDisk = 1024
"""
_NO_EXECUTABLE = "TransferExecutable = false\n"


def contenders(place: Place) -> list[Contender]:
    """The hook as the JobRouter starts it, and what any hook that reads ads must do."""
    text = _INPUT.format(
        iwd=quote(str(CHECKOUT / "examples")), inputs="text file.txt", universe=13
    )
    return [_hook(place, text), Contender(FLOOR, place.python("-c", FLOOR))]


def with_inputs(place: Place, bench: Bench, others: list[str]) -> list[Contender]:
    """The hook for a job whose only input is a tree, and those who copy that."""
    text = _INPUT.format(iwd=quote(str(bench.folder)), inputs=bench.tree.name, universe=13)
    return [_hook(place, text + _NO_EXECUTABLE), *bench.staging(others)]


def in_slot(place: Place) -> list[Contender]:
    """The hook for a job that is packed where it runs, whatever its inputs; and the floor."""
    text = _INPUT.format(iwd=quote(str(place.scratch)), inputs="tree", universe=5)
    hook = place.hook("translate", stdin=text + _NO_EXECUTABLE, ad_template="slot")
    return [Contender(OURS, hook), Contender(FLOOR, place.python("-c", FLOOR))]


def _hook(place: Place, text: str) -> Contender:
    return Contender(OURS, place.hook("translate", stdin=text), lambda: fresh(place.capsules))


def translate(place: Place) -> Outcome:
    """A small job's translation, the capsule with its data disk included."""
    runs = alternate(contenders(place), 3 * place.sizes.rounds)
    _made(place)
    fresh(place.capsules)
    return Outcome((Measure("translate a small job", runs, (at_most(runs, FLOOR, 2.5),)),))


def translate_slot(place: Place) -> Outcome:
    """A job that is packed in its slot: its translation has nothing to do with its inputs."""
    ours, floor = in_slot(place)
    check_is_packed_there(ours.command)
    runs = alternate([ours, floor], 3 * place.sizes.rounds)
    what = "translate a job to be packed in its slot"
    return Outcome((Measure(what, runs, (at_most(runs, FLOOR, 1.7),)),))


def large(place: Place) -> Outcome:
    """A job with one large input."""
    size_bytes = place.sizes.large_bytes
    runs = _copied(place, 1, size_bytes, [CP])
    what = f"translate a job with an input of {size_of(size_bytes)}"
    return Outcome((Measure(what, runs, (at_most(runs, CP, 1.3),)),))


def small(place: Place) -> Outcome:
    """A job with thousands of small inputs."""
    sizes = place.sizes
    runs = _copied(place, sizes.files, sizes.file_bytes, [MCOPY, CP])
    what = f"translate a job with {sizes.files:,} files of {sizes.file_bytes // 1000} kB"
    return Outcome((Measure(what, runs, (at_most(runs, MCOPY, 1.2),)),))


def _copied(place: Place, files: int, file_bytes: int, others: list[str]) -> dict[str, Runs]:
    """The runs of each; `ToolError` where the capsule has not what it is to have."""
    with folder_for(place, "inputs") as folder:
        bench = Bench(place, folder, files, file_bytes)
        make_tree(bench.tree, files, file_bytes)
        runs = alternate(with_inputs(place, bench, others), place.sizes.rounds)
        bench.bare(OURS)
        timed(place.driver("extract", _made(place), bench.out(OURS)))
        bench.check([OURS])
    fresh(place.capsules)
    return runs


def check_is_packed_there(hook: Command) -> None:
    """`ToolError` where the hook made of the job what no slot would pack."""
    done = run(hook.argv, stdin=hook.stdin, env={**os.environ, **hook.env}, timeout_s=60)
    if f"$$({PROGRAM_PATH})".encode() not in done.stdout:
        raise ToolError("the translate hook made no job that is packed in its slot")


def _made(place: Place) -> Path:
    """The data disk of the capsule that the hook made."""
    made = [record.with_name("data.vmdk") for record in place.capsules.glob("*/capsule.json")]
    if not made:
        # Its only way to say so is an ad that is held.
        raise ToolError("the translate hook made no capsule")
    return made[0]
