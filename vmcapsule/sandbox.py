"""Which files go into a job's sandbox and come out of it, and under which names.

The rules are HTCondor's file transfer's (``FileTransfer::ExpandFileTransferList``,
``filename_remap_find`` in its sources): links to files are followed, a link to a folder
is an error unless a trailing slash asks for its contents, sockets, FIFOs and, below a
folder, links that lead nowhere stay behind, and a later file of the same name replaces
an earlier one.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence

from vmcapsule import contract
from vmcapsule.errors import DeliveryError, InputError, InputLimit
from vmcapsule.job import SourceJob
from vmcapsule.pack import FILE, FOLDER, Member, unreadable

#: As many times a name is remapped before HTCondor calls it a cycle.
REMAPS_MAX = 128


def executable_name(job: SourceJob) -> str:
    """The program's path for the guest: its name in the sandbox, or absolute there."""
    if not job.transfer_executable:
        return job.executable
    return os.path.basename(job.executable)  # noqa: PTH119 - a name, not a path here


def stdin_name(job: SourceJob) -> Optional[str]:
    """The name of the job's standard input in its sandbox, or None for none."""
    return os.path.basename(job.stdin) if job.stdin else None  # noqa: PTH119


def stdout_name(job: SourceJob) -> Optional[str]:
    """The name of the job's standard output in its sandbox, or None for /dev/null."""
    return contract.STDOUT if job.stdout else None


def stderr_name(job: SourceJob) -> Optional[str]:
    """The name of the job's standard error; equal to `stdout_name` when they merge."""
    if not job.stderr:
        return None
    return contract.STDOUT if job.stderr == job.stdout else contract.STDERR


def input_members(job: SourceJob) -> tuple[Member, ...]:
    """List what goes into the sandbox: executable, standard input, input files.

    Raises `InputError` for what is missing, cannot be read, or cannot be transferred, and
    `InputLimit` for more than the job's MaxTransferInputMB.
    """
    members = []
    if not os.path.isdir(job.iwd):  # noqa: PTH112 - which raises for one closed to us
        raise InputError(
            f"the job's folder '{job.iwd}' (Iwd) is not there or closed to you",
            "submit the job from a folder of this machine",
        )
    if job.transfer_executable:
        program = _member(_absolute(job, job.executable), executable_name(job))
        if program.kind != FILE:
            raise InputError(
                f"the executable '{program.source}' is a folder", "name a program instead"
            )
        members.append(program)
    if job.stdin:
        members.extend(_expand(job, job.stdin))
    for item in job.transfer_input:
        members.extend(_expand(job, item))
    if job.transfer_executable:
        members = [_executable(m) if m.path == program.path else m for m in members]
    _check_limit(job, sum(member.size_bytes for member in members))
    return tuple(members)


def _check_limit(job: SourceJob, size_bytes: int) -> None:
    limit_mib = job.input_limit_mib
    if limit_mib is not None and size_bytes > limit_mib << 20:
        raise InputLimit(
            f"MaxTransferInputMB = {limit_mib}: the job's inputs are {size_bytes} bytes",
            "raise max_transfer_input_mb, or send less",
        )


def _absolute(job: SourceJob, name: str) -> Path:
    return job.iwd / name


def _executable(member: Member) -> Member:
    """As the starter makes it, whatever its mode was, and also when an input replaced it."""
    return member._replace(mode=member.mode | 0o111)


def _expand(job: SourceJob, item: str) -> Iterator[Member]:
    """One item of the list of input files, with all that is below it."""
    source = _absolute(job, item)
    base = item.rstrip("/")
    last = os.path.basename(base)  # noqa: PTH119
    if job.preserve_relative_paths and not item.startswith("/"):
        name = os.path.normpath(base)
        yield from _parents(job.iwd, name)
        if name == ".":
            yield from _contents(source, "")
        elif item.endswith("/"):
            yield _member(source, name)
            yield from _contents(source, name)
        else:
            yield from _tree(source, name)
    elif item.endswith("/") or last == ".":
        yield from _contents(source, "")
    elif last == "..":
        raise InputError(
            f"the input '{item}' has no name that it could have in the job's sandbox",
            "add a trailing slash to send what is in it, or name the folder itself",
        )
    else:
        yield from _tree(source, last)


def _parents(iwd: Path, name: str) -> Iterator[Member]:
    if name.startswith("../") or name == "..":
        raise InputError(
            f"the input '{name}' lies outside the job's folder '{iwd}', so its relative "
            "path cannot be preserved",
            "name it by its full path or turn preserve_relative_paths off",
        )
    parts = name.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        path = "/".join(parts[:count])
        yield _member(iwd / path, path)


def _tree(source: Path, name: str) -> Iterator[Member]:
    member = _listed(source, name)
    if member.kind:
        yield member
    if member.kind == FOLDER:
        yield from _contents(source, name)


def _listed(source: Path, name: str) -> Member:
    """A file or folder to send; of another kind ("") is what stays behind."""
    member = _member(source, name)
    if member.kind == FOLDER and source.is_symlink():
        raise InputError(
            f"the input '{source}' is a link to a folder, which HTCondor does not transfer",
            "name the folder itself, or add a trailing slash to send what is in it",
        )
    return member


def _contents(folder: Path, prefix: str) -> Iterator[Member]:
    """All that is below a folder; without recursion, as trees may be of any depth."""
    pending = [(folder, prefix)]
    while pending:
        folder, prefix = pending.pop()
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 - names may be any bytes
        except OSError as error:
            raise unreadable(folder, error) from error
        for name in names:
            path = f"{prefix}/{name}" if prefix else name
            if _leads_nowhere(folder / name):
                continue
            member = _listed(folder / name, path)
            if member.kind:
                yield member
            if member.kind == FOLDER:
                pending.append((folder / name, path))


def _leads_nowhere(source: Path) -> bool:
    """Whether it is a link that cannot be followed: below a folder, such stay behind."""
    return source.is_symlink() and not os.path.exists(source)  # noqa: PTH110 - never raises


def _member(source: Path, path: str) -> Member:
    try:
        status = source.stat()
        if stat.S_ISREG(status.st_mode):
            # Asked of the kernel, with the rights this process really has.
            os.close(os.open(source, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise unreadable(source, error) from error
    kind = FILE if stat.S_ISREG(status.st_mode) else ""
    kind = FOLDER if stat.S_ISDIR(status.st_mode) else kind
    return Member(
        source,
        path,
        kind,
        # As HTCondor transfers a file: without set-id and sticky bits.
        status.st_mode & 0o777,
        status.st_mtime_ns,
        status.st_size if kind == FILE else 0,
        status.st_blocks * 512,
    )


def deliveries(job: SourceJob, paths: Sequence[str]) -> dict[str, Path]:
    """Say where each returned sandbox path belongs on the host, remaps applied.

    ``paths`` are the paths of the index.  A path that the job's description does not ask
    for (the parents of a listed output, say) is left out of the answer.
    """
    places: dict[str, Path] = {}
    remaps = dict(reversed(job.output_remaps))
    for path in paths:
        name = _stream(job, path) or _returned_name(job, path)
        if name:
            places[path] = _absolute(job, _remap(remaps, name))
    return places


def _stream(job: SourceJob, path: str) -> Optional[str]:
    if path == contract.STDOUT:
        return job.stdout
    return job.stderr if path == contract.STDERR else None


def _returned_name(job: SourceJob, path: str) -> Optional[str]:
    """The name of a returned path in the job's folder, before remaps."""
    core = path == f"core.{job.job_id}"
    if core or (job.transfer_output is None and "/" not in path):
        # The default is the top level; a guest that sends more was not asked to.  A folder
        # is there only because a failure file is in it.
        around = any(item.startswith(path + "/") for item in job.failure_outputs)
        return path if job.preserve_relative_paths or not around else None
    for item in (*(job.transfer_output or ()), *job.failure_outputs):
        base = os.path.normpath(item.rstrip("/") or ".")
        if base == ".":
            return path
        if job.preserve_relative_paths and base.startswith(path + "/"):
            return path
        inside = path[len(base) + 1 :] if path.startswith(base + "/") else None
        if inside is None and path != base:
            continue
        if job.preserve_relative_paths:
            return path
        if item.endswith(("/", "/.")):
            if inside:
                return inside
            continue
        top = os.path.basename(base)  # noqa: PTH119
        return f"{top}/{inside}" if inside else top
    return None


def wanted_outputs(job: SourceJob) -> tuple[str, ...]:
    """The outputs that ``job`` must leave, each once; () where it need not leave any."""
    items = (os.path.normpath(item.rstrip("/") or ".") for item in job.transfer_output or ())
    return tuple(dict.fromkeys(item for item in items if item != "."))


def spooled_names(job: SourceJob, paths: Sequence[str]) -> tuple[str, ...]:
    """What of the returned ``paths`` lies at the top of the job's folder, remaps aside.

    So HTCondor lists it in SpooledOutputFiles, of which condor_transfer_data fetches a
    spooled job's outputs: a folder alone stands for what is in it, and the streams are
    not in the list (``FileTransfer::DoUpload``).
    """
    names = (None if _stream(job, path) else _returned_name(job, path) for path in paths)
    tops = (name.partition("/")[0] for name in names if name)
    return tuple(dict.fromkeys(tops))


def _remap(remaps: Mapping[str, str], name: str) -> str:
    """Apply ``transfer_output_remaps``: the whole name first, else its folder's.

    What a rule gives is looked up again, without what was below the folder.
    """
    if not remaps:
        return name
    top, below = name, ""
    for _ in range(REMAPS_MAX):
        folder = top
        while folder and folder not in remaps:
            folder = folder.rpartition("/")[0]
        if not folder:
            return top + below
        top, below = remaps[folder], top[len(folder) :] + below
    raise DeliveryError(
        f"transfer_output_remaps maps '{name:.200}' in a cycle",
        "take the cycle out of the remaps",
    )


def obstacle(place: Path) -> str:
    """Why HTCondor, which opens what is there for writing, would not write a file there."""
    if place.is_dir():
        return "is a folder"
    if not place.exists():
        return ""
    if not place.is_file():
        return "is no regular file"
    return "" if os.access(place, os.W_OK) else "is closed to writing"
