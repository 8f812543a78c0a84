"""Which files go into a job's sandbox, and under which names.

The rules are HTCondor's file transfer's (``FileTransfer::ExpandFileTransferList`` in its
sources): links to files are followed, a link to a folder is an error unless a trailing
slash asks for its contents, sockets, FIFOs and, below a folder, links that lead nowhere
stay behind, and a later file of the same name replaces an earlier one.

There may be 100,000 of them: paths are strings here, and nothing is kept of a file that
was handed on.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Iterator, Optional

from vmcapsule import contract
from vmcapsule.contract import MTIME_NS_MAX
from vmcapsule.errors import InputError, InputLimit
from vmcapsule.transfer.entries import FILE, FOLDER
from vmcapsule.transfer.pack import Member, unreadable

if TYPE_CHECKING:  # a tree can be packed without a job
    from vmcapsule.job.source import SourceJob


def executable_name(job: SourceJob) -> str:
    """The program's path for the guest: its name in the sandbox, or absolute there."""
    if not job.transfer_executable:
        return job.executable
    return os.path.basename(job.executable)


def stdin_name(job: SourceJob) -> Optional[str]:
    """The name of the job's standard input in its sandbox, or None for none."""
    return os.path.basename(job.stdin) if job.stdin else None


def stdout_name(job: SourceJob) -> Optional[str]:
    """The name of the job's standard output in its sandbox, or None for /dev/null."""
    return contract.STDOUT if job.stdout else None


def stderr_name(job: SourceJob) -> Optional[str]:
    """The name of the job's standard error; equal to `stdout_name` when they merge."""
    if not job.stderr:
        return None
    return contract.STDOUT if job.stderr == job.stdout else contract.STDERR


def input_members(job: SourceJob) -> Iterator[Member]:
    """Yield what goes into the sandbox: executable, standard input, input files.

    Raises `InputError` for what is missing, cannot be read, or cannot be transferred, and
    `InputLimit` for more than the job's MaxTransferInputMB.
    """
    if not os.path.isdir(job.iwd):  # where `Path.is_dir` raises for one closed to us
        raise InputError(
            f"the job's folder '{job.iwd}' (Iwd) is not there or closed to you",
            "submit the job from a folder of this machine",
        )
    program = executable_name(job) if job.transfer_executable else None
    size_bytes = 0
    for member in _members(job):
        size_bytes += member.size_bytes
        _check_limit(job, size_bytes)
        # As the starter makes it, whatever its mode was, and also when an input replaced it.
        yield member._replace(mode=member.mode | 0o111) if member.path == program else member


def _members(job: SourceJob) -> Iterator[Member]:
    iwd = os.fspath(job.iwd)
    if job.transfer_executable:
        program = _member(os.path.join(iwd, job.executable), executable_name(job))
        if program.kind != FILE:
            raise InputError(
                f"the executable '{program.source}' is a folder", "name a program instead"
            )
        yield program
    for item in (*([job.stdin] if job.stdin else []), *job.transfer_input):
        yield from _expand(iwd, item, job.preserve_relative_paths)


def _check_limit(job: SourceJob, size_bytes: int) -> None:
    limit_mib = job.input_limit_mib
    if limit_mib is not None and size_bytes > limit_mib << 20:
        raise InputLimit(
            f"MaxTransferInputMB = {limit_mib}: the job's inputs have {size_bytes} bytes "
            "and may have more",
            "raise max_transfer_input_mb, or send less",
        )


def _expand(iwd: str, item: str, preserve: bool) -> Iterator[Member]:
    """One item of the list of input files, with all that is below it."""
    source = os.path.join(iwd, item)
    base = item.rstrip("/")
    last = os.path.basename(base)
    if preserve and not item.startswith("/"):
        name = os.path.normpath(base)
        yield from _parents(iwd, name)
        if name == ".":
            yield from contents(source)
        elif item.endswith("/"):
            yield _member(source, name)
            yield from contents(source, name)
        else:
            yield from tree(source, name)
    elif item.endswith("/") or last == ".":
        yield from contents(source)
    elif last == "..":
        raise InputError(
            f"the input '{item}' has no name that it could have in the job's sandbox",
            "add a trailing slash to send what is in it, or name the folder itself",
        )
    else:
        yield from tree(source, last)


def _parents(iwd: str, name: str) -> Iterator[Member]:
    if name.startswith("../") or name == "..":
        raise InputError(
            f"the input '{name}' lies outside the job's folder '{iwd}', so its relative "
            "path cannot be preserved",
            "name it by its full path or turn preserve_relative_paths off",
        )
    parts = name.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        path = "/".join(parts[:count])
        member = _member(f"{iwd}/{path}", path)
        if member.kind == FOLDER:
            yield member


def tree(source: str, name: str) -> Iterator[Member]:
    """Yield a file, or a folder with all that is below it, to be ``name`` in the sandbox."""
    member = _listed(source, name, os.path.islink(source))
    if member.kind:
        yield member
    if member.kind == FOLDER:
        yield from contents(source, name)


def _listed(source: str, name: str, is_link: bool) -> Member:
    """A file or folder to send; of another kind ("") is what stays behind."""
    member = _member(source, name)
    if is_link and member.kind == FOLDER:
        raise InputError(
            f"the input '{source}' is a link to a folder, which HTCondor does not transfer",
            "name the folder itself, or add a trailing slash to send what is in it",
        )
    return member


def contents(folder: str, prefix: str = "") -> Iterator[Member]:
    """Yield all that is below a folder, in the sandbox below ``prefix``.

    Without recursion, as trees may be of any depth.
    """
    pending = [(folder.rstrip("/") or "/", prefix)]
    while pending:
        folder, prefix = pending.pop()
        for name, is_link in _listing(folder):
            source = f"{folder}/{name}"
            path = f"{prefix}/{name}" if prefix else name
            if is_link and not os.path.exists(source):  # never raises
                continue
            member = _listed(source, path, is_link)
            if member.kind:
                yield member
            if member.kind == FOLDER:
                pending.append((source, path))


def _listing(folder: str) -> list[tuple[str, bool]]:
    """The names in a folder, in order, and whether each is a link."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry.name, entry.is_symlink()) for entry in found)
    except OSError as error:
        raise unreadable(folder, error) from error


def _member(source: str, path: str) -> Member:
    try:
        status = os.stat(source)
        kind = _kind(status.st_mode)
        if kind == FILE and not status.st_size:
            # Nothing will be read of it, but HTCondor opens it all the same.
            os.close(os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise unreadable(source, error) from error
    size_bytes = status.st_size if kind == FILE else 0
    return Member(
        source,
        path,
        kind,
        # As HTCondor transfers a file: without set-id and sticky bits.
        status.st_mode & 0o777,
        max(-MTIME_NS_MAX, min(status.st_mtime_ns, MTIME_NS_MAX)),
        size_bytes,
        status.st_blocks * 512 < size_bytes,
    )


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return FILE
    return FOLDER if stat.S_ISDIR(mode) else ""
