"""What tells one kind of routed job from another: a `Route`, one module each.

The ad template says which one is made, by its ``JobUniverse`` and ``JobVMType``; `routes`
knows them all, `routed_ad` makes what their ads have in common.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Callable, Mapping, Optional, Sequence

from vmcapsule.classad.ads import Ad, Value, quote
from vmcapsule.config import Config
from vmcapsule.errors import AdError
from vmcapsule.job.source import SourceJob
from vmcapsule.named import NamedTuple

if TYPE_CHECKING:
    from vmcapsule.capsule.packing import Plan
    from vmcapsule.capsule.record import Capsule
    from vmcapsule.template.template import Template

#: How long a hold is left to the UPDATE_JOB_INFO hook, which gives it its own code.
HELD_WITHOUT_UPDATE_S = 120
#: PeriodicRemove of routed jobs.  A held one only stands in the way of its source, which
#: is released and routed anew, as soon as the JobRouter has mirrored the hold there: the
#: UPDATE_JOB_INFO hook marks that.  Without that hook, after a while.
REMOVED_WHEN_HELD = (
    "JobStatus == 5 && (VmCapsuleHoldSeen =?= true || time() - EnteredCurrentStatus > 600)"
)
#: What an ad template says beside its universe: our vm-gahp runs its jobs, see `Route.mark`;
#: they are packed in their slots, see `InSlot`.
OWN_GAHP = "VmCapsuleGahp"
IN_SLOT = "VmCapsuleInSlot"


class CapsuleFacts(NamedTuple):
    """What a routed ad says of a capsule: files by base name, all in ``folder``.

    ``vmdk_files`` are all files of the disks there, extents among them; ``size_kib`` is what
    they take up together with ``shared_files``; ``memory_mib`` includes what the guest needs
    for itself.  ``shared_files`` are the template's that go with it, by full path, and
    ``wanted_outputs`` what the job must leave.  ``data_kib`` is what the data disk alone takes
    up, and ``demands`` are what must be true of the machine it runs on (TARGET).
    ``system_disks``, ``kernel`` and ``initrd`` are base names out of ``shared_files``: what it
    boots from, the first disk first.
    """

    folder: Path
    vmx: str
    vmdk_files: tuple[str, ...]
    other_files: tuple[str, ...]
    memory_mib: int
    cpus: int
    size_kib: int
    data_kib: int = 0
    network: bool = False
    shared_files: tuple[Path, ...] = ()
    wanted_outputs: tuple[str, ...] = ()
    demands: tuple[str, ...] = ()
    system_disks: tuple[str, ...] = ()
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    require_kvm: bool = False
    timeout_s: Optional[float] = None


class Route(NamedTuple):
    """One kind of routed job: how its capsule is made, what its ad says, what it can do.

    ``finish`` puts into a capsule that is being built, in a folder, what it has beside its
    data disk.  ``facts`` tells of a capsule whose data disk takes so many KiB.
    ``attributes`` is given the source, the ad template and the facts, and returns what this
    kind's ad has beside what all have.  ``request_disk_kib`` is what such a job needs where
    it runs.
    """

    #: As the ad template has it, and the JobRouter's route its TargetUniverse.
    universe: int
    #: JobVMType of the VM universe, in lower case.
    vm_type: str
    #: How the JobRouter's configuration calls the universe.
    universe_name: str
    #: An expression over the routed job's end: the guest did not report.  Otherwise the job
    #: ends as the guest's did, and HTCondor judges that by the source's OnExitHold and
    #: OnExitRemove, and with it max_retries.  None: its end says nothing of the guest's.
    unreported: Optional[str]
    #: Requirements where the ad template has none.
    requirements: str
    finish: Callable[[Plan, Path], Capsule]
    facts: Callable[[Capsule, Template, int], CapsuleFacts]
    attributes: Callable[[SourceJob, Ad, CapsuleFacts], Mapping[str, Value]]
    request_disk_kib: Callable[[SourceJob, CapsuleFacts], int]
    #: Which configuration execute points need beside the probe's, of ``templates/execute-*``.
    execute: str = ""
    #: What the ad template says of it as well: `OWN_GAHP` where our vm-gahp runs it, though
    #: HTCondor has one for its type.
    mark: str = ""


class InSlot(NamedTuple):
    """A kind of routed job of which no capsule is made before it is in its slot.

    ``routed_ad`` is given the source, the ad template and the configuration.
    """

    universe: int
    vm_type: str
    universe_name: str
    routed_ad: Callable[[SourceJob, Ad, Config], Ad]
    execute: str = ""
    mark: str = IN_SLOT


def kind(universe: int, vm_type: str, mark: str) -> str:
    """What an ad template says of the kind of job that it makes, in words."""
    words = [f"JobUniverse = {universe}"]
    words += [f"JobVMType = {vm_type}"] if vm_type else []
    return ", ".join([*words, f"{mark} = true"] if mark else words)


def size_kib(data_kib: int, shared: Sequence[Path]) -> int:
    """What a data disk of ``data_kib`` and the template's files take up together."""
    return data_kib + sum(path.stat().st_size for path in shared) // 1024


def file_list(names: Sequence[str]) -> str:
    """A list of files as an ad has it; `AdError` for a name that it cannot carry."""
    for name in names:
        if "," in name:
            raise AdError(
                f"the capsule's file '{name}' has a comma in its path, which separates in ads",
                "use no commas in VM_CAPSULE_SCRATCH_DIR_PREFIX and in the template's names",
            )
    return quote(",".join(names))
