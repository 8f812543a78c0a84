"""A capsule: the folder made for one job, and what it is booted from.

Its record says where its disks are; the system disk and the kernel may lie in
the template (read only, under a throw-away layer) or in the capsule itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional, get_args, get_type_hints

from vmcapsule.atomic import write_new
from vmcapsule.capsule.states import State, state_of
from vmcapsule.errors import TooLarge, UsageError
from vmcapsule.files import read_regular
from vmcapsule.named import NamedTuple

RECORD = "capsule.json"
CONSOLE = "console.log"
SOURCE_AD = "source.ad"
#: The folder in which a data disk comes back from an execute point.
RETURNED = "returned"
#: In there: the name of the accelerator that the guest ran with, or `VMWARE`.
ISOLATION = "isolation"
VMWARE = "vmware"
#: In there: empty where the last run handed nothing back.  Nothing that lies beside it on the
#: access point is that run's then: file transfer removes nothing of an earlier one's.
HANDED_BACK = "handed-back"
#: A folder with an empty file, or folder, for each listed output that the job left.  For one
#: that is missing there HTCondor's own file transfer holds the job.  On the access point the
#: folder has a stand-in for what is in the way of such an output (`packing.put_obstacles`).
WANTED = "wanted"
#: By what the program on the execute point dies when the guest did not report.  Linux
#: defines SIGSTKFLT and never sends it.
UNREPORTED_SIGNAL = 16
FORMAT = 1
#: So much may be written of a record or an ad: so much is read.  The outputs that a job
#: lists are in both, and in an ad that anybody has seen they take less than a mebibyte.
TEXT_BYTES_MAX = 16 << 20
_PATHS = ("data_disk", "system_disk", "vmx", "kernel", "initrd")


class Capsule(NamedTuple):
    """A capsule on this machine.  Paths are absolute."""

    folder: Path
    data_disk: Path
    system_disk: Path
    #: How large the data disk is, as its guest sees it.
    data_bytes: int
    cpus: int
    memory_mib: int
    vmx: Optional[Path] = None
    kernel: Optional[Path] = None
    initrd: Optional[Path] = None
    cmdline: str = ""
    #: Where the data partition was told to start, or None: found from its table.
    part_offset_bytes: Optional[int] = None
    job_id: Optional[str] = None
    global_job_id: Optional[str] = None
    network: bool = False
    #: Is its guest not to run where it would be emulated?
    require_kvm: bool = False
    #: How long its guest may run; None: for ever.
    timeout_s: Optional[float] = None
    #: What the job is to leave, by sandbox-relative path, separated by commas.
    wanted_outputs: str = ""
    #: How large the disk is that the guest works on, made anew for each run; 0: there is none.
    work_bytes: int = 0

    @property
    def console(self) -> Path:
        """Where the guest's console output is kept."""
        return self.folder / CONSOLE

    @property
    def returned_disk(self) -> Path:
        """The data disk to take outputs from: what the last run handed back, else what lies
        here, which no guest has written to."""
        disk = self.folder / RETURNED / self.data_disk.name
        return disk if disk.exists() and self.has_handed_back else self.data_disk

    @property
    def has_handed_back(self) -> bool:
        """Is what lies in `RETURNED`, if anything does, the last run's?"""
        try:
            return (self.folder / RETURNED / HANDED_BACK).lstat().st_size > 0
        except OSError:
            # By another route, whose job runs once, or by an older program.
            return True

    @property
    def state(self) -> State:
        """How far it came, read anew; raises `UsageError` where that cannot be told."""
        return state_of(self.folder)


def save_capsule(capsule: Capsule, folder: Path) -> None:
    """Write the capsule's record into ``folder``, where it is being built.

    Raises `TooLarge` for one that `load_capsule` would not read.
    """
    write_new(folder / RECORD, _record_of(capsule))


def save_source_ad(text: str, folder: Path) -> None:
    """Keep the source ad in ``folder``; `TooLarge` for one that `source_ad` would not read."""
    write_new(folder / SOURCE_AD, _ad_of(text))


def check_size(capsule: Capsule, source_ad: str) -> None:
    """Raise `TooLarge` where record or source ad are more than can be saved."""
    _record_of(capsule)
    _ad_of(source_ad)


def _record_of(capsule: Capsule) -> bytes:
    record: dict[str, Any] = {"format": FORMAT}
    for key, value in capsule._asdict().items():
        if isinstance(value, Path):
            inside = value.is_relative_to(capsule.folder)
            value = str(value.relative_to(capsule.folder) if inside else value)
        record[key] = value
    del record["folder"]
    text = json.dumps(record, indent=1) + "\n"
    return _bounded(text.encode("ascii"), "transfer_output_files, the list of its outputs,")


def _ad_of(text: str) -> bytes:
    # It may hold bytes that are not UTF-8.
    return _bounded(text.encode(errors="surrogateescape"), "its ad")


def _bounded(data: bytes, what: str) -> bytes:
    if len(data) > TEXT_BYTES_MAX:
        raise TooLarge(
            f"the job is described by too much: {what} takes {len(data)} of at most "
            f"{TEXT_BYTES_MAX} bytes",
            "list folders instead of files, and put what is long into an input file",
        )
    return data


def source_ad(capsule: Capsule) -> str:
    """The source ad that the capsule was made from, as text."""
    try:
        data = read_regular(capsule.folder / SOURCE_AD, TEXT_BYTES_MAX)
    except OSError as error:
        raise UsageError(
            f"the capsule '{capsule.folder}' has no {SOURCE_AD}: {error.strerror}",
            "only capsules made for a job can be delivered",
        ) from error
    return data.decode(errors="surrogateescape")


def load_capsule(folder: Path) -> Capsule:
    """Read a capsule's record; raise `UsageError` where ``folder`` holds none."""
    path = folder.absolute() / RECORD
    try:
        record = json.loads(read_regular(path, TEXT_BYTES_MAX))
        if record.pop("format") != FORMAT:
            raise ValueError("of another version")
        # One that was made before something was added has not what is added.
        record = {**Capsule._field_defaults, **record}
        known = {name: _checked(record[name], name, kinds) for name, kinds in _kinds().items()}
        for name in _PATHS:
            if "\0" in (known[name] or ""):
                raise ValueError(f"{name} is no path")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not a record: {error}"
        raise UsageError(
            f"'{folder}' is no capsule: {RECORD}: {reason}",
            "give the folder that 'vmcapsule translate' or 'vmcapsule run --keep' made",
        ) from error
    for name in _PATHS:
        if known[name] is not None:
            known[name] = path.parent / known[name]
    return Capsule(folder=path.parent, **known)


def _kinds() -> dict[str, tuple[type, ...]]:
    """What the record may hold under each name: a path is a string there."""
    hints = get_type_hints(Capsule)
    del hints["folder"]
    kinds = {name: get_args(hint) or (hint,) for name, hint in hints.items()}
    return {name: tuple(str if k is Path else k for k in ks) for name, ks in kinds.items()}


def _checked(value: Any, name: str, kinds: tuple[type, ...]) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{name} is {value!r:.40}")
    return value
