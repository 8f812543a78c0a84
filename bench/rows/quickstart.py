"""Making a job's capsule the quick-start guide's way: copy, convert, mcopy, convert back.

The guide's plugin needs a raw image to work on, so the whole data disk is converted
twice for each job.  Its growable disk is what VMware makes by default; a preallocated
one is the other choice of its dialog, and every byte of it is there.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bench.measure import Command, Contender, alternate, command
from bench.place import (
    MTOOLS,
    OFFSET_BYTES,
    Place,
    empty_disk,
    folder_for,
    fresh,
    make_tree,
)
from bench.results import OURS, Measure, Outcome, faster
from vmcapsule.classad.ads import quote
from vmcapsule.contract import INIT_SCRIPT
from vmcapsule.guest.script import joined
from vmcapsule.process import run
from vmcapsule.template.tarball import tarball_of
from vmcapsule.template.template import DATA_DISK, FOLDER, load

QUICKSTART = "quick-start"
WHOLE_VM = "vmcapsule, whole VM"

#: template, capsule, inputs, init script, tarball, offset
_SCRIPT = """\
cp -r "$1" "$2" && cd "$2"
qemu-img convert -O raw data.vmdk data.raw
mcopy -s -i data.raw@@$6 "$3"/* "$4" "$5" ::
qemu-img convert -f raw -O vmdk data.raw data.vmdk
rm -f data.raw data-flat.vmdk
"""

_JOB = """\
ClusterId = 1
ProcId = 0
Owner = "root"
JobUniverse = 5
Iwd = {iwd}
Cmd = "/bin/true"
TransferExecutable = false
TransferInput = "tree"
RequestMemory = 64
RequestCpus = 1
RequestDisk = 1024
"""


def make_template(place: Place, folder: Path, *, growable: bool) -> Path:
    """The built template with a data disk of its own, that grows or has all its bytes."""
    target = folder / FOLDER
    target.mkdir(parents=True)
    source = load(place.config.template).folder
    for path in source.iterdir():
        if not path.name.startswith("data"):
            run(["cp", "--reflink=auto", path, target], timeout_s=300)
    disk = empty_disk(target / DATA_DISK, place.sizes.template_disk_bytes, growable=growable)
    if not growable:
        # As a hypervisor does that allocates all of a disk's room when it makes it.
        image, full = disk.files[1], target / "full"
        run(["cp", "--sparse=never", image, full], timeout_s=600)
        full.replace(image)
    return folder


def contenders(place: Place, folder: Path, template: Path) -> list[Contender]:
    """Both ways of ours, for a slot and as a whole VM, and the guide's."""
    config = place.config._replace(template=template)
    ours = dataclasses.replace(place, config=config)
    target = folder / "capsule"
    script = folder / INIT_SCRIPT
    script.write_bytes(joined(config.init_script))
    argv = (
        "sh", "-eu", "-c", _SCRIPT, "sh", template / FOLDER, target, folder / "tree",
        script, tarball_of(config).path, OFFSET_BYTES,
    )  # fmt: skip
    return [
        Contender(OURS, _translate(ours, folder, "kvm-gahp"), lambda: fresh(place.capsules)),
        Contender(WHOLE_VM, _translate(ours, folder, "vmware"), lambda: fresh(place.capsules)),
        Contender(QUICKSTART, command(*argv, env=MTOOLS), lambda: fresh(target)),
    ]


def _translate(place: Place, folder: Path, kind: str) -> Command:
    text = _JOB.format(iwd=quote(str(folder)))
    todo = place.vmcapsule("translate", stdin=text)
    env = {**todo.env, "_CONDOR_VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": kind}
    return dataclasses.replace(todo, env=env)


def quickstart(place: Place) -> Outcome:
    """With a growable data disk and with a preallocated one."""
    sizes = place.sizes
    disk = f"{sizes.template_disk_bytes / 2**30:g} GiB disk"
    inputs = f"{sizes.inputs_bytes // 10**6} MB"
    measures = []
    for word, growable in (("preallocated", False), ("growable", True)):
        with folder_for(place, "quickstart") as folder:
            make_tree(folder / "tree", 10, sizes.inputs_bytes // 10)
            template = make_template(place, folder / "template", growable=growable)
            runs = alternate(contenders(place, folder, template), sizes.rounds, budget_s=60.0)
        fresh(place.capsules)
        targets = (faster(runs, QUICKSTART, 20.0),)
        measures.append(Measure(f"capsule with {inputs}, {word} {disk}", runs, targets))
    return Outcome(tuple(measures))
