#!/usr/bin/env python3
# Names are bytes here, and pathlib is slow to import in an emulated machine.
# ruff: noqa: PTH100, PTH101, PTH102, PTH103, PTH104, PTH108, PTH110, PTH112, PTH113
# ruff: noqa: PTH114, PTH115, PTH116, PTH118, PTH120, PTH123, PTH202, PTH208, PTH211
"""Run the job that lies on the data disk, put its outputs there, and power off.

The guest's init invokes this as root as the machine comes up; it stands alone.  What it
reads and writes on the data disk is described in ``vmcapsule/contract.py``: a job record,
an index and packs go in; an index, packs and an exit record come out.  The job runs
under a personal HTCondor (runner "condor") or right from here (runner "direct").
Whatever fails, a record and a log are left and the machine powers off.

Needs Python 3.6 or newer, the standard library only, and little of it: imports are slow
in an emulated machine.
"""

import errno
import json
import os
import pwd
import re
import select
import signal
import stat
import sys
import time

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

    Job = Dict[str, Any]  # the job record

# What vmcapsule.contract says; a test holds the two together.
FORMAT = 1
RECORD_DIR = "vmcapsule"
JOB_RECORD = RECORD_DIR + "/job.json"
JOB_AD = RECORD_DIR + "/job.ad"
SANDBOX_AD = RECORD_DIR + "/sandbox.ad"
RUN_AD = RECORD_DIR + "/run.ad"
MACHINE_AD = RECORD_DIR + "/machine.ad"
CONDOR_CONFIG = RECORD_DIR + "/condor_config"
TARBALL = RECORD_DIR + "/condor.tar"
LOCALTIME = RECORD_DIR + "/localtime"
INPUT_INDEX = RECORD_DIR + "/input.idx"
INPUT_PACK = RECORD_DIR + "/input.%03d"
OUTPUT_INDEX = RECORD_DIR + "/output.idx"
OUTPUT_PACK = RECORD_DIR + "/output.%03d"
EXIT_RECORD = RECORD_DIR + "/exit.json"
GUEST_LOG = RECORD_DIR + "/guest.log"
CONDOR_LOG = RECORD_DIR + "/condor.log"
PACK_BYTES_MAX = 2 << 30
INDEX_BYTES_MAX = 64 << 20
EXIT_RECORD_BYTES_MAX = 1 << 20
LOG_BYTES_MAX = 1 << 20
PACKS_MAX = 1000
MTIME_NS_MAX = (1 << 62) - 1
SCRATCH_DIR_MARK = "#CoNdOrScRaTcHdIr#"

NO_OUTPUTS = {"entries": 0, "packs": 0, "bytes": 0}
EXIT_RECORD_NEW = RECORD_DIR + "/exit.new"
RESULT = re.compile(r"output\..*|exit\..*|condor\.log")
ALIGN_FROM_BYTES = 1 << 20
BLOCK_BYTES = 4096
COPY_BYTES_MAX = 1 << 30
MESSAGE_CHARS_MAX = 1000
#: The exit record names no more of the outputs that cannot be sent, so that it has room.
UNSENT_MAX = 10
#: LimitNOFILE of HTCondor's unit for systemd: so many files a job may have open natively.
OPEN_FILES_MAX = 32768
#: The starter's JOB_DEFAULT for /proc/PID/oom_score_adj of jobs.
JOB_OOM_SCORE = 800
#: How long HTCondor may take from its start to the job's, emulated and swapping.
CONDOR_START_TIMEOUT_S = 900.0
#: What HTCondor never sends back (ALWAYS_EXCLUDED_FILES, CHIRP_CONFIG_FILENAME and
#: SANDBOX_STARTER_LOG_FILENAME in the starter's jic_shadow.cpp and starter.h).
STARTER_FILES = frozenset(
    b".job.ad .machine.ad .execution_overlay.ad .update.ad .update.ad.tmp .chirp.config "
    b".docker_sock .docker_stdout .docker_stderror .condor_container_launched "
    b".starter.log .starter.log.old".split()
)


class Failure(Exception):
    """What the exit record says of a run that did not succeed: a stage and one line.

    ``number`` is the errno with which the job's program did not start.
    """

    def __init__(self, stage: str, message: str, number: "Optional[int]" = None) -> None:
        super().__init__(message)
        self.stage = stage
        self.message = message
        self.number = number


class Log:
    """One line a step, with the seconds since the start: on the disk and the console."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.fds = [1]
        self.room = LOG_BYTES_MAX

    def open(self, path: str) -> None:
        """Keep the log in ``path`` too, when that can be written."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self.fds.append(os.open(path, flags, 0o644))
        except OSError as error:
            self(f"cannot write {path}: {error.strerror}")

    def __call__(self, text: str) -> None:
        stamp = f"{time.monotonic() - self.started_s:8.3f} "
        data = (stamp + text.rstrip() + "\n").encode("utf-8", "backslashreplace")
        self.room -= len(data)
        for fd in self.fds[:]:
            try:
                if fd == 1 or self.room >= 0:
                    os.write(fd, data)
            except OSError:
                self.fds.remove(fd)  # a full disk, or nobody is there; the other has it

    def close(self) -> None:
        for fd in self.fds[1:]:
            os.close(fd)
        self.fds = [1]


def to_bytes(text: str) -> bytes:
    """The bytes of a name or string; raise ValueError for what no file system holds."""
    data = text.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise ValueError(f"{text[:80]!r} holds a NUL")
    return data


def to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def plain_path(text: "Any") -> bytes:
    """Check that ``text`` is a relative path without '.', '..' or empty parts."""
    if not isinstance(text, str) or any(p in ("", ".", "..") for p in text.split("/")):
        raise ValueError(f"the path {text!r} is not plain and relative")
    return to_bytes(text)


def write_file(path: str, data: bytes, mode: int = 0o644) -> None:
    """Write a new file, whatever the umask is."""
    with open(path, "wb") as stream:
        stream.write(data)
        os.fchmod(stream.fileno(), mode)


# --- the job record -----------------------------------------------------------------


JOB_TYPES = {
    "str": "runner executable",
    "str or null": "stdin stdout stderr user condor_version time_zone",
    "int or null": "success_status",
    "list": "arguments omit",
    "list or null": "outputs failure_outputs",
    "dict": "environment",
}


def check_job(job: "Job") -> None:
    """Raise ValueError for a record that is not as the contract says."""
    if job.get("format") != FORMAT:
        raise ValueError(f"its format is {job.get('format')!r}, not {FORMAT}")
    for types, name in ((t, name) for t, names in JOB_TYPES.items() for name in names.split()):
        kind = "null" if job.get(name) is None else type(job[name]).__name__
        if kind not in types.split(" or "):
            raise ValueError(f"its {name!r} is {job.get(name)!r}, not of type {types}")
        values = job[name] if kind == "list" else [job[name]] if kind == "str" else []
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"its {name!r} holds {value!r}, not a string")
            to_bytes(value)
    for name, value in job["environment"].items():
        if not isinstance(value, str) or not name or "=" in name:
            raise ValueError(f"its environment has {name!r} = {value!r}")
        to_bytes(name + value)
    check_names(job)


def check_names(job: "Job") -> None:
    if job["runner"] not in ("condor", "direct"):
        raise ValueError("there is no runner {!r}".format(job["runner"]))
    if not job["executable"]:
        raise ValueError("it names no executable")
    for path in filter(None, (job["stdout"], job["stderr"])):
        plain_path(path)
    for path in (job["outputs"] or []) + (job.get("failure_outputs") or []):
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"its output {path!r} lies outside the sandbox")
    version = job["condor_version"] or ""
    if job["runner"] == "condor" and not re.fullmatch(r"[A-Za-z0-9][\w.+~-]*", version):
        raise ValueError("its condor_version is {!r}".format(job["condor_version"]))


def read_job(data_dir: str) -> "Job":
    path = os.path.join(data_dir, JOB_RECORD)
    try:
        with open(path, "rb") as stream:
            job: Job = json.loads(stream.read().decode("ascii"))
        if not isinstance(job, dict):
            raise ValueError("it is not an object")
        check_job(job)
        return job
    except (OSError, ValueError, RecursionError) as error:
        raise Failure("record", f"the job record {path} is not valid: {error}") from error


# --- the job's user -----------------------------------------------------------------


def lookup(name: str) -> "Optional[pwd.struct_passwd]":
    try:
        return pwd.getpwnam(name)
    except (KeyError, ValueError):  # not there; or not ASCII, which Python 3.6 cannot ask for
        return None


def choose_login(wanted: "Optional[str]", home: str) -> pwd.struct_passwd:
    """The wanted login when it is an ordinary user's or can be made; else nobody."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    name = wanted or ""
    if re.fullmatch(r"[A-Za-z_][\w.-]{0,31}", name, re.ASCII) and lookup(name) is None:
        add_login(name, home, 1000)
    entry = lookup(name)
    if entry is None or not 1000 <= entry.pw_uid < 65534:
        entry = lookup("nobody")
    if entry is None:
        raise Failure("user", "this machine has no login 'nobody'")
    return entry


def add_login(name: str, home: str, lowest: int, etc: str = "/etc") -> None:
    """Append a login, and a group of its own, with one free number from ``lowest`` on."""
    tables = {}
    for table in ("passwd", "group"):
        with open(os.path.join(etc, table), "rb") as stream:
            tables[table] = [line.split(b":") for line in stream]
    taken = {fields[2] for rows in tables.values() for fields in rows if len(fields) > 2}
    number = next(n for n in range(lowest, 60000) if b"%d" % n not in taken)
    if os.path.exists(os.path.join(etc, "shadow")):
        append_line(os.path.join(etc, "shadow"), f"{name}:*:19000::::::")
    if to_bytes(name) not in [fields[0] for fields in tables["group"]]:
        append_line(os.path.join(etc, "group"), f"{name}:x:{number}:")
    append_line(os.path.join(etc, "passwd"), f"{name}:x:{number}:{number}::{home}:/bin/sh")


def append_line(path: str, line: str) -> None:
    with open(path, "rb+") as stream:
        data = stream.read()
        cut = b"\n" if data and not data.endswith(b"\n") else b""
        stream.write(cut + line.encode("ascii") + b"\n")


# --- unpacking the sandbox ----------------------------------------------------------


def copy_data(source: int, offset: int, target: int, length: int) -> None:
    """Copy to the place where ``target`` stands, in the kernel where it does that."""
    while length:
        try:
            done = os.sendfile(target, source, offset, min(length, COPY_BYTES_MAX))
        except OSError as error:
            if error.errno != errno.EOVERFLOW:
                raise
            # Into vfat it takes nothing that lies beyond 4 GiB in the source.
            done = os.write(target, os.pread(source, min(length, 1 << 20), offset))
        if not done:
            raise ValueError(f"the data ends {length} bytes early")
        offset, length = offset + done, length - done


class Unpacker:
    """Makes what an index lists in a new folder, as the job's user's own."""

    def __init__(self, data_dir: str, root: str, login: pwd.struct_passwd) -> None:
        self.data_dir, self.login = data_dir, login
        self.root = os.fsencode(root)
        self.folders: Dict[bytes, Any] = {}
        self.packs: Dict[int, int] = {}
        self.count = 0

    def run(self) -> None:
        path = os.path.join(self.data_dir, INPUT_INDEX)
        try:
            if os.path.getsize(path) > INDEX_BYTES_MAX:
                raise ValueError(f"it is larger than {INDEX_BYTES_MAX} bytes")
            with open(path, "rb") as stream:
                for line in stream:
                    self.count += 1
                    self.entry(json.loads(line.decode("ascii")))
            for folder, entry in reversed(list(self.folders.items())):
                self.dress(os.path.join(self.root, folder), entry)
        except (OSError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as e:
            message = f"line {self.count} of the input index: {type(e).__name__}: {e}"
            raise Failure("unpack", message) from e
        finally:
            for fd in self.packs.values():
                os.close(fd)

    def entry(self, entry: "Dict[str, Any]") -> None:
        path = plain_path(entry["path"])
        # The parent is a folder made here: nothing is written through a link.
        parent = path.rpartition(b"/")[0]
        if parent and parent not in self.folders:
            raise ValueError("{!r} is in no folder of the index".format(entry["path"]))
        place = os.path.join(self.root, path)
        if entry["type"] == "dir":
            os.mkdir(place, 0o700)
            self.folders[path] = entry
        elif entry["type"] == "link":
            os.symlink(to_bytes(entry["target"]), place)
            self.dress(place, entry, link=True)
        elif entry["type"] == "file":
            self.file(place, entry)
        else:
            raise ValueError("there is no type {!r}".format(entry["type"]))

    def file(self, place: bytes, entry: "Dict[str, Any]") -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(place, flags, 0o600)
        try:
            end = 0
            for offset, length, pack, pack_offset in entry["extents"]:
                if offset != end:
                    os.lseek(fd, offset, os.SEEK_SET)
                copy_data(self.pack(pack), pack_offset, fd, length)
                end = offset + length
            if end != entry["size"]:
                os.ftruncate(fd, entry["size"])
            self.dress(fd, entry)
        finally:
            os.close(fd)

    def pack(self, number: int) -> int:
        if number not in self.packs:
            path = os.path.join(self.data_dir, INPUT_PACK % number)
            self.packs[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self.packs[number]

    def dress(self, place: "Any", entry: "Dict[str, Any]", link: bool = False) -> None:
        """Give owner, mode and time; in that order, for chown clears set-uid bits."""
        follow: Any = {"follow_symlinks": False} if link else {}
        if os.geteuid() == 0:
            os.chown(place, self.login.pw_uid, self.login.pw_gid, **follow)
        if not link:
            os.chmod(place, entry["mode"] & 0o7777)
        os.utime(place, ns=(entry["mtime_ns"], entry["mtime_ns"]), **follow)


# --- choosing and packing the outputs -----------------------------------------------


def fingerprint(path: bytes) -> "Optional[Tuple[int, int, int]]":
    """What tells that a file was changed; None for folders and for links to nowhere."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if stat.S_ISDIR(status.st_mode):
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def catalogue(root: bytes) -> "Dict[bytes, Optional[Tuple[int, int, int]]]":
    return {name: fingerprint(os.path.join(root, name)) for name in os.listdir(root)}


def may_read(status: os.stat_result, login: pwd.struct_passwd) -> bool:
    """Whether a login may read a file that it can reach."""
    if status.st_uid == login.pw_uid:
        return bool(status.st_mode & stat.S_IRUSR)
    if status.st_gid in os.getgrouplist(login.pw_name, login.pw_gid):
        return bool(status.st_mode & stat.S_IRGRP)
    return bool(status.st_mode & stat.S_IROTH)


class Outputs:
    """The entries of the output index, by path; folders before what is in them."""

    def __init__(self, root: bytes, login: pwd.struct_passwd, log: Log) -> None:
        self.root, self.login, self.log = root, login, log
        self.entries: Dict[bytes, Dict[str, Any]] = {}
        self.missing: List[str] = []
        self.unsent: Dict[str, int] = {}

    def add_changed(self, before: "Dict[bytes, Any]", omit: "Set[bytes]") -> None:
        """Add new or changed files at the top level, as HTCondor does by default.

        Read in FileTransfer::FindChangedFiles (condor_utils/file_transfer.cpp): folders
        are skipped, and links to folders; dot files and links to files are sent; the
        executable is not, and what is in the catalogue unchanged is not.  Core files are
        ordinary new files.  Sockets and FIFOs are skipped in ExpandFileTransferList, links
        to nowhere, at any depth, in Directory::Next (directory.cpp).
        """
        for name, mark in sorted(catalogue(self.root).items()):
            known = name in STARTER_FILES or name in omit or before.get(name, ()) == mark
            if mark is not None and not known:
                self.add(name)

    def add_listed(self, item: str) -> None:
        """Add a path of ``transfer_output_files``: a file, or a folder with its contents."""
        parts = [p for p in to_bytes(item).split(b"/") if p not in (b"", b".")]
        path = b"/".join(parts)
        if not os.path.exists(os.path.join(self.root, path)):
            self.missing.append(item)
            return
        for count in range(1, len(parts)):
            self.add(b"/".join(parts[:count]), folder=True)
        # With a trailing slash, or as '.', even a link to a folder stands for its contents.
        contents = item.endswith("/") or not parts
        if path:
            self.add(path, folder=contents)
        pending = [path] if self.holds(path, contents) else []
        while pending:
            folder = pending.pop()
            for name in sorted(os.listdir(os.path.join(self.root, folder)), reverse=True):
                inner = os.path.join(folder, name)
                if not folder and name in STARTER_FILES:
                    continue
                self.add(inner)
                if self.holds(inner, False):
                    pending.append(inner)

    def holds(self, path: bytes, follow: bool) -> bool:
        place = os.path.join(self.root, path)
        return os.path.isdir(place) and (follow or not os.path.islink(place))

    def add(self, path: bytes, folder: bool = False) -> None:
        """Add one entry.  Links to files are followed, as HTCondor's file transfer does.

        It fails with the other outputs sent, and so here, on links to folders and on what
        the job's user may not read (FileTransfer::DoUpload).
        """
        place = os.path.join(self.root, path)
        entry: Dict[str, Any] = {"path": to_text(path)}
        try:
            status = os.stat(place)
        except OSError:
            if not os.path.islink(place):
                raise
            self.log("output {!r} is a link to nowhere: left out".format(entry["path"]))
            return
        if stat.S_ISREG(status.st_mode):
            if not may_read(status, self.login):
                self.unsent[entry["path"]] = errno.EACCES
                return
            entry.update(type="file", size=status.st_size, extents=[])
        elif stat.S_ISDIR(status.st_mode):
            if os.path.islink(place) and not folder:
                self.unsent[entry["path"]] = errno.EISDIR
                return
            entry.update(type="dir")
        else:
            self.log("output {!r} is a socket, FIFO or device: left out".format(entry["path"]))
            return
        mtime_ns = max(-MTIME_NS_MAX, min(status.st_mtime_ns, MTIME_NS_MAX))
        entry.update(mode=status.st_mode & 0o7777, mtime_ns=mtime_ns)
        self.entries[path] = entry


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

    def file(self, path: bytes, entry: "Dict[str, Any]") -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            entry["size"] = status.st_size
            align = BLOCK_BYTES if status.st_size >= ALIGN_FROM_BYTES else 1
            entry["extents"] = [
                extent
                for offset, length in data_ranges(fd, status)
                for extent in self.place(fd, offset, length, align)
            ]
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
                if entry["type"] == "file":
                    packer.file(os.path.join(root, path), entry)
                line = json.dumps(entry, separators=(",", ":")).encode("ascii") + b"\n"
                room -= len(line)
                if room < 0:
                    raise Failure("save", "the list of the outputs is too long")
                stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        packer.close()
    return {"entries": len(entries), "packs": packer.count, "bytes": packer.bytes}


def remove_results(data_dir: str) -> None:
    folder = os.path.join(data_dir, RECORD_DIR)
    for name in filter(RESULT.fullmatch, os.listdir(folder)):
        os.unlink(os.path.join(folder, name))


def listed_outputs(job: "Job", report: "Dict[str, Any]", core: str) -> "Optional[List[str]]":
    """What to send back of a job that has ended; None: what is new or changed.

    Read in Starter::transferOutput (starter.cpp): a job that failed sends its failure
    files.  A core file is added to a list of outputs by OsProc::checkCoreFile.
    """
    status = (report["exit_code"] or 0) << 8 | (report["exit_signal"] or 0)
    status |= 0x80 if report["core_dumped"] else 0
    if job.get("success_status") not in (None, status):
        return list(job.get("failure_outputs") or [])
    listed: Optional[List[str]] = job["outputs"]
    return listed if listed is None else listed + ([core] if core else [])


def save_outputs(
    job: "Job",
    wanted: "Optional[List[str]]",
    data_dir: str,
    sandbox: str,
    login: pwd.struct_passwd,
    before: "Dict[bytes, Any]",
    report: "Dict[str, Any]",
    log: Log,
) -> None:
    """Pack what the job left; where that fails, at least its stdout and stderr."""
    root = os.fsencode(sandbox)
    outputs = Outputs(root, login, log)
    for name in map(to_bytes, filter(None, (job["stdout"], job["stderr"]))):
        if os.path.lexists(os.path.join(root, name)):
            outputs.add(name)
    streams = dict(outputs.entries)
    try:
        if wanted is None:
            outputs.add_changed(before, {to_bytes(name) for name in job["omit"]})
        for item in wanted or []:
            outputs.add_listed(item)
        report["missing_outputs"] = outputs.missing
        report["unsent_outputs"] = sorted(outputs.unsent.items())[:UNSENT_MAX]
        log(
            f"outputs: {len(outputs.entries)}, missing: {len(outputs.missing)}, "
            f"not to be sent: {len(outputs.unsent)}"
        )
        report["outputs"] = write_outputs(data_dir, root, outputs.entries)
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


# --- ads and environment, as a starter makes them -----------------------------------


def parse_ad(text: str) -> "Dict[str, str]":
    """Attributes and expressions of an ad, one ``Attr = expr`` a line."""
    pairs = (line.partition("=") for line in text.split("\n") if not line.startswith("#"))
    return {name.strip(): value.strip() for name, mark, value in pairs if mark}


def read_text(path: str, last_bytes: int = INDEX_BYTES_MAX) -> str:
    """The last of a file; nothing where there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - last_bytes))
            return to_text(stream.read())
    except FileNotFoundError:
        return ""


def ad_text(ad: "Dict[str, str]") -> str:
    return "".join(f"{name} = {ad[name]}\n" for name in sorted(ad, key=str.lower))


def machine_ad(host_ad: str, startd_ad: str) -> str:
    """The slot's ad for the job to read: the host's on top of the startd's, if any."""
    ad = {n: v for n, v in parse_ad(startd_ad).items() if not n.startswith("Child")}
    ad.update(parse_ad(host_ad))
    return ad_text(ad)


def sandbox_ad(host_ad: str, sandbox: str) -> str:
    """The job's ad for the job to read: the host's, with what is known only now."""
    ad = parse_ad(host_ad)
    ad.update(Iwd=f'"{sandbox}"', JobCurrentStartDate=str(int(time.time())))
    ad.setdefault("JobStartDate", ad["JobCurrentStartDate"])
    return ad_text(ad)


# --- processes ----------------------------------------------------------------------


def oom_score(score: int) -> None:
    """Say how gladly the kernel may kill this process when memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "w") as stream:
            stream.write(str(score))
    except OSError:
        pass  # no right to it: all processes are as likely as before


def spawn(
    argv: "List[str]",
    setup: "Callable[[], None]",
    environment: "Dict[str, str]",
    stage: str = "exec",
) -> int:
    """Start a program; ``setup`` runs in the child.  Raise Failure when it cannot start."""
    reader, writer = os.pipe()
    args = [to_bytes(arg) for arg in argv]
    env = {to_bytes(n): to_bytes(v) for n, v in environment.items()}
    pid = os.fork()
    if pid == 0:
        what, failed = f"cannot start '{argv[0]}'", 0
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            oom_score(0)
            setup()
            failed = 1
            os.execve(args[0], args, env)
        except OSError as error:
            text = to_bytes(f"{what}: {error.strerror}")
            if error.filename not in (None, args[0]):
                text += b" ('" + os.fsencode(error.filename) + b"')"
            os.write(writer, b"%d " % (failed * (error.errno or 0)) + text)
        except BaseException as error:  # nothing of the child may go on as the parent
            os.write(writer, to_bytes(f"0 {what}: {error!r}"))
        finally:
            os._exit(127)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        message = stream.read()  # ends as the program starts: the pipe closes on exec
    if message:
        os.waitpid(pid, 0)
        digits, _, text = message.partition(b" ")
        raise Failure(stage, to_text(text), int(digits) or None)
    return pid


def process_table() -> "Dict[int, List[str]]":
    """The fields of /proc/PID/stat from the state on (man 5 proc), by process."""
    table = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as stream:
                fields = to_text(stream.read()).rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if fields and fields[0] not in "ZX":
            table[int(name)] = fields
    return table


def kill_below(root: int) -> int:
    """Kill ``root`` (but not this process) and all below it, parents first."""
    killed = set()
    for _ in range(250):
        parents = {pid: int(fields[1]) for pid, fields in process_table().items()}
        found = [root] if root in parents else []
        for pid in found:
            found.extend(child for child, parent in parents.items() if parent == pid)
        found = [pid for pid in found if pid != os.getpid()]
        if not found:
            break
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            except ProcessLookupError:
                pass  # it has ended by itself
        time.sleep(0.02)
    return len(killed)


def kill_user(uid: int) -> None:
    """Kill all processes of a user at once, however fast they multiply."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def c_library() -> "Any":
    """The C library, or None under a Python without ctypes."""
    try:
        import ctypes

        return ctypes.CDLL(None, use_errno=True)
    except (ImportError, OSError):
        return None


# --- runner "direct" ----------------------------------------------------------------


def become(login: pwd.struct_passwd, scratch: str) -> None:
    if os.geteuid() == 0:
        os.initgroups(login.pw_name, login.pw_gid)
        os.setgid(login.pw_gid)
        os.setuid(login.pw_uid)
    os.setsid()
    os.umask(0o022)
    os.chdir(scratch)


def open_streams(job: "Job") -> None:
    """Put the job's files in place of 0, 1 and 2, as the job's user."""
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    fds = [os.open(to_bytes(job["stdin"] or "/dev/null"), os.O_RDONLY)]
    fds.append(os.open(to_bytes(job["stdout"] or "/dev/null"), write, 0o644))
    merged = job["stdout"] is not None and job["stderr"] == job["stdout"]
    error = to_bytes(job["stderr"] or "/dev/null")
    fds.append(fds[1] if merged else os.open(error, write, 0o644))
    # They may be 0 to 2 themselves where init gave none: first out of the way.
    for number, fd in enumerate([os.dup(fd) for fd in fds]):
        os.dup2(fd, number)


def limit(name: str, value: float, hard_too: bool) -> None:
    """Set a limit of this process; below 0 is unlimited.  Only root may raise a hard one."""
    import resource

    which = getattr(resource, name)
    hard = resource.getrlimit(which)[1]
    if not (hard_too and os.geteuid() == 0) and hard != resource.RLIM_INFINITY:
        value = hard if value < 0 else min(value, hard)
    soft = resource.RLIM_INFINITY if value < 0 else int(min(value, sys.maxsize))
    resource.setrlimit(which, (soft, soft if hard_too else hard))


def limit_job(ad: "Dict[str, str]") -> None:
    """CoreSize as OsProc::StartJob takes it, StackSize as sysapi_set_resource_limits does."""
    limit("RLIMIT_CORE", number(ad, "CoreSize"), hard_too=True)
    limit("RLIMIT_STACK", number(ad, "StackSize") or -1, hard_too=False)


def core_name(ad: "Dict[str, str]") -> str:
    """A core file's name, as OsProc::checkCoreFile gives it."""
    return "core.{}.{}".format(int(number(ad, "ClusterId")), int(number(ad, "ProcId")))


def keep_core(sandbox: str, pid: int, ad: "Dict[str, str]") -> None:
    for core in ("core", f"core.{pid}"):
        if os.path.isfile(os.path.join(sandbox, core)):
            os.rename(os.path.join(sandbox, core), os.path.join(sandbox, core_name(ad)))


class Direct:
    """Runs the job from here, in a sandbox as a starter would make it."""

    process = 0

    def __init__(self, job: "Job", guest: "Guest") -> None:
        self.job, self.guest = job, guest

    def prepare(self) -> str:
        """Return the folder to unpack the sandbox into."""
        return os.path.join(self.guest.work, "execute", f"dir_{os.getpid()}")

    def run(self, sandbox: str, job_ad: str, report: "Dict[str, Any]") -> "Dict[bytes, Any]":
        """Run the job to its end; return the catalogue from before it."""
        job, login = self.job, self.guest.login
        self.guest.write_ads("")
        before = catalogue(os.fsencode(sandbox))
        program = os.path.join(sandbox, job["executable"])
        ad = parse_ad(job_ad)

        def setup() -> None:
            # As every child of HTCondor's daemons finds it.
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            oom_score(JOB_OOM_SCORE)
            limit_job(ad)
            become(login, sandbox)
            open_streams(job)

        start_s = time.monotonic()
        environment = {"HOME": login.pw_dir}  # as HTCondor 25 has it
        for name, value in job["environment"].items():
            environment[name] = value.replace(SCRATCH_DIR_MARK, sandbox)
        pid = spawn([program] + job["arguments"], setup, environment)
        self.guest.log(f"the job runs as {login.pw_name}, process {pid}")
        _, status, usage = os.wait4(pid, 0)
        report["duration_s"] = time.monotonic() - start_s
        report["user_cpu_s"], report["system_cpu_s"] = usage.ru_utime, usage.ru_stime
        report["max_rss_kib"] = report["image_size_kib"] = usage.ru_maxrss
        if os.WIFSIGNALED(status):
            report["exit_signal"] = os.WTERMSIG(status)
            report["core_dumped"] = os.WCOREDUMP(status)
        else:
            report["exit_code"] = os.WEXITSTATUS(status)
        if report["core_dumped"]:
            keep_core(sandbox, pid, ad)
        return before

    def save_logs(self) -> None:
        """There are none but the guest's own."""


# --- runner "condor" ----------------------------------------------------------------

FETCH_HOOK = """\
#!/bin/sh
# The startd's: prints the job's ad, the first time only.
test -e {base}/run/fetched && exit 0
cat > {base}/run/slot.ad
: > {base}/run/fetched
echo "fetch $PPID" > {base}/events
cat {base}/job.ad
"""
PREPARE_HOOK = """\
#!/bin/sh
# The starter's: the init script moves the sandbox in, then the job may start.
echo "prepare $PPID $PWD" > {base}/events
read -r answer < {base}/answers
"""
EXIT_HOOK = """\
#!/bin/sh
# The starter's: reports, then holds on until HTCondor is killed, so that the outputs stay.
# It runs as the job's user, who may have no process left to start: only builtins here.
read -r times < /proc/$PPID/stat
{{
    echo "exit $1 $times"
    while IFS= read -r line; do printf '%s\\n' "$line"; done
    echo "end of ad"
}} > {base}/events
read -r answer < {base}/answers
"""


class Condor:
    """Runs the job under a personal HTCondor: a master and a startd that fetches it."""

    def __init__(self, job: "Job", guest: "Guest") -> None:
        self.job, self.guest, self.log = job, guest, guest.log
        self.base = os.path.join(guest.work, "condor")
        self.home = f"/condor-{job['condor_version']}"
        self.tarball = os.path.join(guest.data_dir, TARBALL)
        self.process = self.tar = 0
        self.events = self.answers = -1
        self.buffer = b""
        self.lines: List[str] = []

    def prepare(self) -> str:
        """Begin to unpack a tarball; return the folder to unpack the sandbox into.

        Where none was sent the machine has the HTCondor that is meant; one that was sent is
        another, whatever the version says.
        """
        if os.path.isfile(self.tarball):
            if os.path.lexists(self.home):
                remove_tree(self.home)
            # -o: owned by root, whoever packed it; GNU's and busybox's tar know it.
            # A shell, to find tar where this machine has it.
            argv = ["/bin/sh", "-c", 'exec tar -x -o -f "$1" -C /', "sh", self.tarball]
            self.tar = spawn(argv, lambda: None, dict(os.environ), "unpack_condor")
        elif not os.path.isdir(self.home):
            message = f"there is neither an HTCondor tarball {self.tarball} nor {self.home}"
            raise Failure("unpack_condor", message)
        return os.path.join(self.guest.work, "sandbox")

    def run(self, sandbox: str, job_ad: str, report: "Dict[str, Any]") -> "Dict[bytes, Any]":
        """Run the job to its end; ``sandbox`` becomes the scratch folder's content."""
        self.guest.timed("unpack_condor", self.wait_tar)
        starter, scratch = self.guest.timed(
            "start_condor", lambda: self.start_job(sandbox, job_ad)
        )
        before = catalogue(os.fsencode(scratch))
        cpu_before = process_table().get(starter, [])
        start_s = time.monotonic()
        os.write(self.answers, b"go\n")
        self.log(f"the job starts in {scratch}")
        _, reason, times = self.wait_event("exit ")
        report["duration_s"] = time.monotonic() - start_s
        self.wait_event("end of ad")
        if reason != "exit":
            raise self.not_run()
        self.read_exit(report, times, cpu_before)
        return before

    def wait_tar(self) -> None:
        status = os.waitpid(self.tar, 0)[1] if self.tar else 0
        if status:
            message = f"tar could not unpack the HTCondor tarball (wait status {status})"
            raise Failure("unpack_condor", message)
        if not os.path.isdir(self.home):
            message = f"the HTCondor tarball has no folder {self.home}"
            raise Failure("unpack_condor", message)

    def start_job(self, sandbox: str, job_ad: str) -> "Tuple[int, str]":
        """Start HTCondor until it is about to start the job: (starter, scratch folder)."""
        self.make_folders()
        self.write_config(job_ad)
        self.start_master()
        _, starter, scratch = self.wait_event("prepare ", CONDOR_START_TIMEOUT_S)
        for name in os.listdir(os.fsencode(sandbox)):
            inner = os.path.join(os.fsencode(sandbox), name)
            os.rename(inner, os.path.join(os.fsencode(scratch), name))
        self.guest.sandbox = scratch
        self.guest.write_ads(read_text(self.base + "/run/slot.ad"))
        return int(starter), scratch

    def make_folders(self) -> None:
        if lookup("condor") is None:
            add_login("condor", self.base, 300)
        condor = pwd.getpwnam("condor")
        os.makedirs(self.base + "/hooks")
        for name in ("log", "spool", "lock", "run"):
            os.mkdir(os.path.join(self.base, name))
            os.chown(os.path.join(self.base, name), condor.pw_uid, condor.pw_gid)
        os.chown(self.guest.work + "/execute", condor.pw_uid, condor.pw_gid)
        self.events = self.pipe("events")
        self.answers = self.pipe("answers")

    def pipe(self, name: str) -> int:
        """Make a FIFO; open both ways, so that no end ever waits for the other."""
        path = os.path.join(self.base, name)
        os.mkfifo(path)
        os.chmod(path, 0o666)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def write_config(self, job_ad: str) -> None:
        """Write the configuration, the hooks and the job's ad as the startd fetches it."""
        name = self.guest.login.pw_name
        given = read_text(os.path.join(self.guest.data_dir, CONDOR_CONFIG))
        ours = f"VMCAPSULE_WORK = {self.guest.work}\nVMCAPSULE_USER = {name}\n"
        write_file(self.base + "/config", to_bytes(ours + given))
        # Of two lines for an attribute the last one holds.  This starter has no shadow.
        kept = [line for line in job_ad.split("\n") if not line.lower().startswith("want")]
        kept += [f'Owner = "{name}"', f'OsUser = "{name}"', f'User = "{name}@capsule"', ""]
        fallback = ['MyType = "Job"', "ClusterId = 1", "ProcId = 0"]
        write_file(self.base + "/job.ad", to_bytes("\n".join(fallback + kept)))
        hooks = {"fetch": FETCH_HOOK, "prepare": PREPARE_HOOK, "exit": EXIT_HOOK}
        for hook, text in hooks.items():
            path = os.path.join(self.base, "hooks", hook)
            write_file(path, text.format(base=self.base).encode("ascii"), 0o755)

    def start_master(self) -> None:
        def setup() -> None:
            os.setsid()
            os.chdir("/")
            os.umask(0o022)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            output = os.open(self.base + "/log/output", os.O_WRONLY | os.O_CREAT, 0o644)
            os.dup2(output, 1)
            os.dup2(output, 2)

        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "CONDOR_CONFIG": self.base + "/config",
        }
        argv = [self.home + "/sbin/condor_master", "-f"]
        self.process = spawn(argv, setup, environment, "start_condor")
        self.log(f"condor_master is process {self.process}")

    def wait_event(self, wanted: str, timeout_s: float = float("inf")) -> "List[str]":
        """Wait for a hook's report that begins with ``wanted``; keep lines before it.

        Meanwhile mind that HTCondor still runs, ever more seldom.
        """
        start_s = time.monotonic()
        poller = select.poll()
        poller.register(self.events, select.POLLIN)
        pause_s = 0.1
        self.lines = []
        while True:
            while b"\n" in self.buffer:
                data, _, self.buffer = self.buffer.partition(b"\n")
                line = to_text(data)
                if line.startswith(wanted):
                    self.log("HTCondor: " + line[:60])
                    return line.split(" ", 2)
                self.lines.append(line)
            if poller.poll(int(pause_s * 1000)):
                self.buffer += os.read(self.events, 65536)
                continue
            pause_s = min(2 * pause_s, 5.0)
            self.check(wanted)
            if time.monotonic() - start_s > timeout_s:
                message = f"HTCondor did not start the job within {timeout_s} s"
                raise Failure("start_condor", message + self.complaint())

    def check(self, wanted: str) -> None:
        """Raise Failure when the master, the startd or the starter has gone."""
        stage = "start_condor" if wanted == "prepare " else "job"
        if os.waitpid(self.process, os.WNOHANG)[0]:
            self.process = 0
            raise Failure(stage, "condor_master has ended" + self.complaint())
        gone = r"\b(STARTD|condor_startd)\b.*\b(died|exited)\b"
        if re.search(gone, self.logged("MasterLog")):
            raise Failure(stage, "condor_startd has ended" + self.complaint())
        if re.search(r"Starter pid \d+ (exited|died)", self.logged("StartLog")):
            if wanted == "exit ":
                raise self.not_run()
            raise Failure(stage, "HTCondor could not run the job" + self.complaint())

    def logged(self, name: str) -> str:
        return read_text(os.path.join(self.base, "log", name), 128 << 10)

    def not_run(self) -> Failure:
        """Why the starter did not run the job; OsProc::StartJob logs the errno."""
        names = sorted(os.listdir(self.base + "/log"))
        log = "".join(self.logged(name) for name in names if name.startswith("StarterLog"))
        said = re.findall(r"Create_Process\(.*\) failed: (.*\(errno=(\d+): '.*'\))$", log, re.M)
        if not said:
            return Failure("exec", "HTCondor could not run the job" + self.complaint())
        why, number = said[-1]
        return Failure("exec", f"'{self.job['executable']}': {why}", int(number))

    def complaint(self) -> str:
        """What HTCondor's logs say went wrong, as the end of a sentence."""
        trouble = {"StarterLog": r"[Ff]ailed|[Cc]annot|ERROR", "StartLog": r"\bERROR\b"}
        trouble["MasterLog"] = trouble["StartLog"]
        for daemon, pattern in trouble.items():
            for name in sorted(os.listdir(self.base + "/log")):
                text = self.logged(name).rpartition("Starting a VANILLA")[2]
                for line in text.split("\n") if name.startswith(daemon) else []:
                    if re.search(pattern, line) and not name.endswith(".testing"):
                        return ": " + re.sub(r"^[\d/]+ [\d:.]+ (\(pid:\d+\) )?", "", line)
        return ""

    def read_exit(self, report: "Dict[str, Any]", times: str, cpu_before: "List[str]") -> None:
        """Take over what the exit ad says, and the starter's count of CPU time.

        The ad's own CPU times are samples, zero for short jobs.  What the starter has
        waited for (cutime and cstime in /proc/PID/stat) is the job and the prepare hook.
        """
        report["condor_ad"] = "\n".join(self.lines)
        ad = parse_ad(report["condor_ad"])
        if ad.get("ExitBySignal", "").lower() == "true":
            report["exit_signal"] = int(ad["ExitSignal"])
        elif "ExitCode" in ad:
            report["exit_code"] = int(ad["ExitCode"])
        else:
            raise Failure("job", "HTCondor's exit ad has no ExitCode" + self.complaint())
        report["core_dumped"] = ad.get("JobCoreDumped", "").lower() == "true"
        report["max_rss_kib"] = int(number(ad, "ResidentSetSize"))
        report["image_size_kib"] = max(int(number(ad, "ImageSize")), report["max_rss_kib"])
        told_s = number(ad, "JobDuration")  # by the wall clock, which may be set
        if 0 < told_s < report["duration_s"]:
            report["duration_s"] = told_s
        after = times.rpartition(")")[2].split()
        names = (("user_cpu_s", "RemoteUserCpu", 13), ("system_cpu_s", "RemoteSysCpu", 14))
        for name, attribute, field in names:
            waited = int(after[field]) - int(cpu_before[field] if cpu_before else 0)
            report[name] = max(number(ad, attribute), waited / os.sysconf("SC_CLK_TCK"))

    def save_logs(self) -> None:
        """Put the tails of HTCondor's logs on the data disk, in one file."""
        folder = os.path.join(self.base, "log")
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        parts = [
            f"==> {name}\n{self.logged(name)}\n"
            for name in names
            if os.path.isfile(os.path.join(folder, name))
        ]
        data = "".join(parts).encode("utf-8", "replace")[:LOG_BYTES_MAX]
        try:
            write_file(os.path.join(self.guest.data_dir, CONDOR_LOG), data)
        except OSError as error:
            self.log(f"cannot keep HTCondor's logs: {error}")


def number(ad: "Dict[str, str]", name: str) -> float:
    """An attribute that is a literal number, else 0."""
    value = ad.get(name, "0")
    return float(value) if re.fullmatch(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", value) else 0.0


# --- the whole ----------------------------------------------------------------------


class Guest:
    """This run: where things are, whom the job runs as, and what will be reported."""

    def __init__(self, data_dir: str, work: str, whole_machine: bool, log: Log) -> None:
        self.data_dir, self.work, self.log = data_dir, work, log
        self.whole_machine = whole_machine
        self.sandbox = ""
        self.phases: Dict[str, float] = {}
        none = "runner exit_code exit_signal started_at_s ended_at_s failure condor_ad"
        self.report: Dict[str, Any] = dict.fromkeys(none.split())
        self.report.update(format=FORMAT, state="failed", core_dumped=False)
        self.report.update(user_cpu_s=0.0, system_cpu_s=0.0, max_rss_kib=0)
        self.report.update(image_size_kib=0, disk_usage_kib=0)
        self.report.update(
            missing_outputs=[], unsent_outputs=[], outputs=NO_OUTPUTS, phases=self.phases
        )
        machine = {"kernel": os.uname()[2], "python": sys.version.split()[0]}
        self.report["guest"] = dict(machine, condor_version="")

    def timed(self, name: str, step: "Callable[[], Any]") -> "Any":
        """Note the seconds that a step takes, also when it fails."""
        start_s = time.monotonic()
        try:
            return step()
        finally:
            self.phases[name] = round(time.monotonic() - start_s, 3)

    def run(self) -> None:
        """Everything from the job record to the packed outputs."""
        job, report = read_job(self.data_dir), self.report
        remove_results(self.data_dir)
        given = self.names_on_disk()
        report["runner"] = job["runner"]
        report["guest"]["condor_version"] = job["condor_version"] or ""
        if self.whole_machine:
            set_zone(self.data_dir, job.get("time_zone"))
            limit("RLIMIT_NOFILE", OPEN_FILES_MAX, hard_too=True)
        self.log(
            f"runner {job['runner']}, executable {job['executable']!r}, user {job['user']!r}"
        )
        self.make_folders()
        self.make_home(job)
        runner = Condor(job, self) if job["runner"] == "condor" else Direct(job, self)
        try:
            self.sandbox = runner.prepare()
            self.timed("unpack_input", self.unpack)
            job_ad = read_text(os.path.join(self.data_dir, JOB_AD))
            before = runner.run(self.sandbox, job_ad, report)
        except BaseException:
            self.kill_job(runner.process)
            self.restore_disk(given)
            runner.save_logs()
            raise
        # From here on a signal is too late: the job has ended, and is to be reported.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.phases["job"] = round(report["duration_s"], 3)
        report["ended_at_s"] = time.time()
        report["started_at_s"] = max(0.0, report["ended_at_s"] - report.pop("duration_s"))
        ended = {name: report[name] for name in ("exit_code", "exit_signal")}
        self.log(f"the job ended: {ended}")
        self.kill_job(runner.process)
        self.restore_disk(given)
        report["disk_usage_kib"] = usage_kib(os.fsencode(self.sandbox))
        core = core_name(parse_ad(job_ad))
        if not (report["core_dumped"] and os.path.isfile(os.path.join(self.sandbox, core))):
            core = ""
        wanted = listed_outputs(job, report, core)
        self.timed("save_outputs", lambda: self.save(job, wanted, before))
        report["state"] = "exited"

    def save(
        self, job: "Job", wanted: "Optional[List[str]]", before: "Dict[bytes, Any]"
    ) -> None:
        save_outputs(
            job, wanted, self.data_dir, self.sandbox, self.login, before, self.report, self.log
        )

    def make_folders(self) -> None:
        if os.path.isdir(self.work):
            remove_tree(self.work)  # a machine that was stopped half-way and started anew
        for name in ("", "execute"):
            os.makedirs(os.path.join(self.work, name), 0o755)

    def make_home(self, job: "Job") -> None:
        """Choose the job's login, and give it a home like its user's."""
        folder = "/home" if self.whole_machine else self.work
        home = os.path.join(folder, (job["user"] or "").replace("/", "") or "home")
        self.login = choose_login(job["user"], home)
        if self.login.pw_dir == home and not os.path.isdir(home):
            os.makedirs(home, 0o755)
            self.give(home)

    def write_ads(self, startd_ad: str) -> None:
        """Put ``.job.ad`` and ``.machine.ad`` there, in place of what may have the names."""
        # Of two lines for an attribute the last one holds.
        ads = (SANDBOX_AD, RUN_AD)
        job_ad = "\n".join(read_text(os.path.join(self.data_dir, name)) for name in ads)
        slot_ad = read_text(os.path.join(self.data_dir, MACHINE_AD))
        files = {
            ".job.ad": sandbox_ad(job_ad, self.sandbox),
            ".machine.ad": machine_ad(slot_ad, startd_ad),
        }
        for name, text in files.items():
            write_file(self.sandbox + ".new", to_bytes(text))
            self.give(self.sandbox + ".new")
            os.rename(self.sandbox + ".new", os.path.join(self.sandbox, name))

    def give(self, path: str) -> None:
        """Make the job's user the owner, where that is another one than this process's."""
        if os.geteuid() == 0:
            os.chown(path, self.login.pw_uid, self.login.pw_gid)

    def unpack(self) -> None:
        os.mkdir(self.sandbox, 0o700)
        unpacker = Unpacker(self.data_dir, self.sandbox, self.login)
        unpacker.run()
        self.give(self.sandbox)
        self.log(f"unpacked {unpacker.count} entries into {self.sandbox}")

    def kill_job(self, process: int) -> None:
        """Kill HTCondor first, or its starter would remove the sandbox; then the job."""
        if process:
            kill_below(process)
        if self.whole_machine and os.geteuid() == 0:
            kill_user(self.login.pw_uid)
        killed = kill_below(os.getpid())
        if killed:
            self.log(f"killed {killed} processes that the job left behind")

    def names_on_disk(self) -> "Dict[str, Set[str]]":
        folders = (self.data_dir, os.path.join(self.data_dir, RECORD_DIR))
        return {folder: set(os.listdir(folder)) for folder in folders}

    def restore_disk(self, given: "Dict[str, Set[str]]") -> None:
        """Remove what the job put on the data disk, which anybody may write to."""
        for folder, names in given.items():
            if not os.path.isdir(folder):
                os.mkdir(folder)
            for name in set(os.listdir(folder)) - names:
                self.log(f"removing {name!r} from the data disk: the job put it there")
                remove_tree(os.path.join(folder, name))

    def fail(self, stage: str, message: str, number: "Optional[int]" = None) -> None:
        message = " ".join(message.split())[:MESSAGE_CHARS_MAX]
        self.log(f"FAILED in {stage}: {message}")
        self.report["state"] = "failed"
        self.report["failure"] = {"stage": stage, "message": message, "errno": number}

    def write_record(self) -> None:
        """Write the exit record last of all: whoever finds it finds all the rest."""
        os.sync()
        data = json.dumps(self.report).encode("ascii")
        if len(data) > EXIT_RECORD_BYTES_MAX:
            self.report["condor_ad"] = None
            data = json.dumps(self.report).encode("ascii")
        new = os.path.join(self.data_dir, EXIT_RECORD_NEW)
        with open(new, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(new, os.path.join(self.data_dir, EXIT_RECORD))
        os.sync()

    def finish(self) -> None:
        """Write the exit record; where there is no room instead of the outputs."""
        try:
            self.write_record()
        except OSError as error:
            self.report["outputs"] = NO_OUTPUTS
            self.fail("save", f"cannot write the exit record beside the outputs: {error}")
            remove_results(self.data_dir)
            self.write_record()
        self.log("wrote the exit record")


def usage_kib(root: bytes) -> int:
    """What a folder with all that is in it takes up on its disk."""
    paths = (
        os.path.join(folder, n) for folder, _, names in os.walk(root) for n in [b"", *names]
    )
    return sum(map(blocks, paths)) // 2


def blocks(path: bytes) -> int:
    try:
        return os.lstat(path).st_blocks
    except OSError:
        return 0  # a path too long to be asked for


def set_zone(data_dir: str, zone: "Optional[str]", etc: str = "/etc") -> None:
    """Give the machine the host's time zone, by content: it may have no zones of its own."""
    path = os.path.join(data_dir, LOCALTIME)
    if not os.path.isfile(path):
        return
    for name in ("localtime", "timezone"):
        if os.path.lexists(os.path.join(etc, name)):
            os.unlink(os.path.join(etc, name))
    with open(path, "rb") as stream:
        write_file(os.path.join(etc, "localtime"), stream.read())
    if zone:
        write_file(os.path.join(etc, "timezone"), to_bytes(zone + "\n"))


def remove_tree(path: str) -> None:
    import shutil  # seldom needed

    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def terminated(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise Failure("terminated", f"the guest was told to shut down (signal {number})")


def power_off(libc: "Any", data_dir: str) -> None:
    """Leave the data disk clean and switch the machine off, without asking init."""
    os.chdir("/")
    os.sync()
    if libc is not None:
        place = os.fsencode(data_dir)
        if libc.umount2(place, 0) != 0:
            libc.mount(None, place, None, 1 | 32, None)  # MS_RDONLY | MS_REMOUNT
        libc.reboot(0x4321FEDC)  # RB_POWER_OFF
    # Without ctypes by the kernel's magic keys: remount all read-only, power off.
    for key in "uo":
        with open("/proc/sysrq-trigger", "w") as trigger:
            trigger.write(key)
        time.sleep(2)


def options(argv: "List[str]") -> "Tuple[str, str, bool]":
    """``[--data DIR] [--work DIR] [--no-poweroff]``: data folder, work folder, power off."""
    found = {
        "--data": os.path.dirname(os.path.abspath(__file__)),
        "--work": "/var/lib/vmcapsule",
    }
    rest = [arg for arg in argv if arg != "--no-poweroff"]
    while len(rest) > 1 and rest[0] in found:
        found[rest[0]] = os.path.abspath(rest[1])
        del rest[:2]
    if rest:
        sys.exit("usage: condor-init.py [--data DIR] [--work DIR] [--no-poweroff]")
    return found["--data"], found["--work"], "--no-poweroff" not in argv


def main(argv: "List[str]") -> int:
    data_dir, work, off = options(argv)
    log = Log()
    signal.signal(signal.SIGTERM, terminated)
    guest = Guest(data_dir, work, off, log)
    libc = None
    try:
        with open("/proc/uptime") as stream:
            guest.phases["boot"] = float(stream.read().split()[0])
        log.open(os.path.join(data_dir, GUEST_LOG))
        log(f"condor-init.py under Python {sys.version.split()[0]}, Linux {os.uname()[2]}")
        if off:
            oom_score(-1000)  # when the job takes all memory, this has to report it
        libc = c_library()
        if libc is not None:
            libc.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what the job leaves comes to us
        guest.run()
    except Failure as failure:
        guest.fail(failure.stage, failure.message, failure.number)
    except BaseException as error:  # whatever it is, the host must hear of it
        import traceback

        log(traceback.format_exc())
        guest.fail("internal", f"{type(error).__name__}: {error}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        guest.finish()
    except OSError as error:
        log(f"cannot write the exit record: {error}")
    log.close()
    if off:
        power_off(libc, data_dir)
    return 0 if guest.report["state"] == "exited" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
