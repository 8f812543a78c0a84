"""The TRANSLATE_JOB hook for a small job, beside a Python that only imports classad2."""

from __future__ import annotations

from bench.measure import Contender, alternate
from bench.place import CHECKOUT, Place, fresh
from bench.results import OURS, Measure, Outcome, at_most
from vmcapsule.classad.ads import quote
from vmcapsule.errors import ToolError

FLOOR = "import classad2"

#: What the JobRouter sends: the route, a line of dashes, the job.
_INPUT = """\
[ Name = "capsule"; TargetUniverse = 5; ]
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
TransferInput = "text file.txt"
Out = "out"
Err = "err"
RequestMemory = 64
RequestCpus = 1
RequestDisk = 1024
"""


def contenders(place: Place) -> list[Contender]:
    """The hook as the JobRouter starts it, and what any hook that reads ads must do."""
    text = _INPUT.format(iwd=quote(str(CHECKOUT / "examples")))
    hook = place.hook("translate", stdin=text)
    return [
        Contender(OURS, hook, lambda: fresh(place.capsules)),
        Contender(FLOOR, place.python("-c", FLOOR)),
    ]


def translate(place: Place) -> Outcome:
    """A small job's translation, the capsule with its data disk included."""
    runs = alternate(contenders(place), 3 * place.sizes.rounds)
    if not list(place.capsules.glob("*/capsule.json")):
        # Its only way to say so is an ad that is held.
        raise ToolError("the translate hook made no capsule")
    fresh(place.capsules)
    return Outcome((Measure("translate a small job", runs, (at_most(runs, FLOOR, 2.5),)),))
