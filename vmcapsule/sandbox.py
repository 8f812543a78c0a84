"""Which files go into a job's sandbox and come out of it, and under which names.

The rules are HTCondor's file transfer's (``FileTransfer::ExpandFileTransferList``,
``filename_remap_find`` in its sources): links to files are followed, a link to a folder
is an error unless a trailing slash asks for its contents, sockets and FIFOs stay
behind, and a later file of the same name replaces an earlier one.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Iterator, Optional, Sequence

from vmcapsule import contract
from vmcapsule.errors import DeliveryError, InputError
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

    Raises `InputError` for what is missing, cannot be read, or cannot be transferred.
    """
    members = []
    if job.transfer_executable:
        program = _member(_absolute(job, job.executable), executable_name(job))
        if program.kind != FILE:
            raise InputError(
                f"the executable '{program.source}' is a folder", "name a program instead"
            )
        # The starter makes it executable, whatever its mode was.
        members.append(_with_mode(program, program.mode | 0o111))
    if job.stdin:
        members.extend(_expand(job, job.stdin))
    for item in job.transfer_input:
        members.extend(_expand(job, item))
    return tuple(members)


def _absolute(job: SourceJob, name: str) -> Path:
    return job.iwd / name


def _with_mode(member: Member, mode: int) -> Member:
    return Member(
        member.source,
        member.path,
        member.kind,
        mode,
        member.mtime_ns,
        member.size_bytes,
        member.allocated_bytes,
    )


def _expand(job: SourceJob, item: str) -> Iterator[Member]:
    """One item of the list of input files, with all that is below it."""
    source = _absolute(job, item)
    base = item.rstrip("/")
    if job.preserve_relative_paths and not item.startswith("/"):
        name = os.path.normpath(base)
        yield from _parents(job.iwd, name)
        if item.endswith("/"):
            yield _member(source, name)
            yield from _contents(source, name)
        else:
            yield from _tree(source, name)
    elif item.endswith("/"):
        yield from _contents(source, "")
    else:
        yield from _tree(source, os.path.basename(base))  # noqa: PTH119


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
    member = _member(source, name)
    if member.kind == FOLDER and source.is_symlink():
        raise InputError(
            f"the input '{source}' is a link to a folder, which HTCondor does not transfer",
            "name the folder itself, or add a trailing slash to send what is in it",
        )
    if member.kind not in (FILE, FOLDER):
        return
    yield member
    if member.kind == FOLDER:
        yield from _contents(source, name)


def _contents(folder: Path, prefix: str) -> Iterator[Member]:
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names may be any bytes
    except OSError as error:
        raise unreadable(folder, error) from error
    for name in names:
        yield from _tree(folder / name, f"{prefix}/{name}" if prefix else name)


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
        stat.S_IMODE(status.st_mode),
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
    for path in paths:
        name = _stream(job, path) or _returned_name(job, path)
        if name:
            places[path] = _absolute(job, _remap(job, name))
    return places


def _stream(job: SourceJob, path: str) -> Optional[str]:
    if path == contract.STDOUT:
        return job.stdout
    return job.stderr if path == contract.STDERR else None


def _returned_name(job: SourceJob, path: str) -> Optional[str]:
    """The name of a returned path in the job's folder, before remaps."""
    if job.transfer_output is None:
        return path
    for item in job.transfer_output:
        base = os.path.normpath(item.rstrip("/") or ".")
        inside = path[len(base) + 1 :] if path.startswith(base + "/") else None
        if inside is None and path != base:
            continue
        if job.preserve_relative_paths:
            return path
        if item.endswith("/"):
            if inside:
                return inside
            continue
        top = os.path.basename(base)  # noqa: PTH119
        return f"{top}/{inside}" if inside else top
    return None


def _remap(job: SourceJob, name: str) -> str:
    """Apply ``transfer_output_remaps``: the whole name first, else its folder's."""
    remaps = dict(reversed(job.output_remaps))

    def once(path: str) -> Optional[str]:
        if path in remaps:
            return remaps[path]
        parent, slash, last = path.rpartition("/")
        mapped = once(parent) if slash and parent else None
        return f"{mapped}/{last}" if mapped is not None else None

    for _ in range(REMAPS_MAX):
        mapped = once(name)
        if mapped is None:
            return name
        name = mapped
    raise DeliveryError(
        f"transfer_output_remaps maps '{name}' in a cycle", "take the cycle out of the remaps"
    )
