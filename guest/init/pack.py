"""Packing the outputs onto the data disk."""

import errno
import json
import os
import pwd
import re

from init.choose import Outputs
from init.contract import (
    EXTENTS_PER_LINE,
    FILE_BYTES_MAX,
    INDEX_BYTES_MAX,
    OUTPUT_GONE,
    OUTPUT_INDEX,
    OUTPUT_PACK,
    PACK_BYTES_MAX,
    PACKS_MAX,
    RECORD_DIR,
)
from init.exit_record import tell_lacking
from init.files import copy_data, to_bytes, to_text
from init.report import Failure

MYPY = False
if MYPY:
    from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

    from init.record import Job
    from init.report import Log

RESULT = re.compile(r"output\..*|exit\..*|condor\.log")
ALIGN_FROM_BYTES = 1 << 20
BLOCK_BYTES = 4096


def data_ranges(fd: int, status: os.stat_result) -> "Iterator[Tuple[int, int]]":
    """Offset and length of each stretch of a file that is no hole."""
    size = status.st_size
    if status.st_blocks * 512 >= size:
        if size:
            yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # only a hole is left
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end - start


class Packer:
    """Writes files' data into packs on the data disk, one after the other."""

    def __init__(self, data_dir: str) -> None:
        self.data_dir = data_dir
        self.fd = -1
        self.count = 0
        self.position = 0
        self.bytes = 0

    def lines(self, path: bytes, entry: "Dict[str, Any]") -> "Iterator[Dict[str, Any]]":
        """Pack a file's data; yield its lines for the index."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if status.st_size > FILE_BYTES_MAX:
                message = "the output {!r} has {} bytes, more than the {} that can be sent"
                message = message.format(entry["path"], status.st_size, FILE_BYTES_MAX)
                raise Failure("save", message)
            align = BLOCK_BYTES if status.st_size >= ALIGN_FROM_BYTES else 1
            line = dict(entry, size=status.st_size, extents=[])
            for offset, length in data_ranges(fd, status):
                for extent in self.place(fd, offset, length, align):
                    if len(line["extents"]) == EXTENTS_PER_LINE:
                        yield line
                        line = {"extents": []}
                    line["extents"].append(extent)
            yield line
        finally:
            os.close(fd)

    def place(self, fd: int, offset: int, length: int, align: int) -> "Iterator[List[int]]":
        while length:
            start = -(-self.position // align) * align
            if self.fd < 0 or start >= PACK_BYTES_MAX:
                self.next_pack()
                start = 0
            if start != self.position:
                os.lseek(self.fd, start, os.SEEK_SET)
            piece = min(length, PACK_BYTES_MAX - start)
            copy_data(fd, offset, self.fd, piece)
            yield [offset, piece, self.count - 1, start]
            self.position = start + piece
            self.bytes += piece
            offset, length = offset + piece, length - piece

    def next_pack(self) -> None:
        self.close()
        if self.count >= PACKS_MAX:
            raise Failure("save", f"the outputs need more than {PACKS_MAX} packs")
        path = os.path.join(self.data_dir, OUTPUT_PACK % self.count)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self.fd = os.open(path, flags, 0o644)
        self.count += 1
        self.position = 0

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.fsync(fd)
            os.close(fd)


def write_outputs(
    data_dir: str, root: bytes, entries: "Dict[bytes, Dict[str, Any]]"
) -> "Dict[str, int]":
    """Write packs and index; return the summary for the exit record."""
    packer = Packer(data_dir)
    room = INDEX_BYTES_MAX
    try:
        with open(os.path.join(data_dir, OUTPUT_INDEX), "wb") as stream:
            for path, entry in entries.items():
                lines: Iterable[Dict[str, Any]] = [entry]
                if entry["type"] == "file":
                    lines = packer.lines(os.path.join(root, path), entry)
                for line in lines:
                    data = json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"
                    room -= len(data)
                    if room < 0:
                        raise Failure("save", "the list of the outputs is too long")
                    stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        packer.close()
    return {"entries": len(entries), "packs": packer.count, "bytes": packer.bytes}


def write_gone(data_dir: str, paths: "List[bytes]") -> None:
    """Write which paths are no more."""
    data = "".join(json.dumps(to_text(path)) + "\n" for path in paths).encode("ascii")
    if len(data) > INDEX_BYTES_MAX:
        raise Failure("save", "the list of what the job removed is too long")
    with open(os.path.join(data_dir, OUTPUT_GONE), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def remove_results(data_dir: str) -> None:
    folder = os.path.join(data_dir, RECORD_DIR)
    for name in filter(RESULT.fullmatch, os.listdir(folder)):
        os.unlink(os.path.join(folder, name))


def save_outputs(
    job: "Job",
    wanted: "Optional[List[str]]",
    data_dir: str,
    sandbox: str,
    login: pwd.struct_passwd,
    before: "Dict[bytes, Any]",
    report: "Dict[str, Any]",
    log: "Log",
) -> None:
    """Pack what the job left; where that fails, at least its stdout and stderr."""
    root = os.fsencode(sandbox)
    outputs = Outputs(root, login, log)
    for name in map(to_bytes, filter(None, (job["stdout"], job["stderr"]))):
        if os.path.lexists(os.path.join(root, name)):
            outputs.add(name)
    streams = dict(outputs.entries)
    try:
        if wanted is None and job.get("all_changes"):
            outputs.add_all_changed(before)
        elif wanted is None:
            outputs.add_changed(before, {to_bytes(name) for name in job["omit"]})
        for item in wanted or []:
            outputs.add_listed(item)
        tell_lacking(report, outputs.missing, outputs.unsent)
        log(
            f"outputs: {len(outputs.entries)}, missing: {len(outputs.missing)}, "
            f"not to be sent: {len(outputs.unsent)}"
        )
        report["outputs"] = write_outputs(data_dir, root, outputs.entries)
        if job.get("all_changes"):
            write_gone(data_dir, outputs.gone)
        return
    except (OSError, ValueError, Failure) as error:
        message = save_message(error, data_dir, root, outputs.entries)
    try:
        remove_results(data_dir)
        report["outputs"] = write_outputs(data_dir, root, streams)
    except (OSError, ValueError, Failure):
        remove_results(data_dir)
    raise Failure("save", message)


def save_message(
    error: Exception, data_dir: str, root: bytes, entries: "Dict[bytes, Dict[str, Any]]"
) -> str:
    if not isinstance(error, OSError):
        return str(error)
    needed = 0
    for path, entry in entries.items():
        if entry["type"] == "file":
            status = os.stat(os.path.join(root, path))
            needed += min(status.st_size, status.st_blocks * 512)
    remove_results(data_dir)
    disk = os.statvfs(data_dir)
    free = disk.f_bavail * disk.f_frsize
    return f"the outputs hold {needed} bytes, the data disk has room for {free}: {error}"
