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

# What vmcapsule.contract says; a test holds the two together.
FORMAT = 1
RECORD_DIR = "vmcapsule"
JOB_RECORD = RECORD_DIR + "/job.json"
JOB_AD = RECORD_DIR + "/job.ad"
TARBALL = RECORD_DIR + "/condor.tar"
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

EXIT_RECORD_NEW = RECORD_DIR + "/exit.new"
ALIGN_FROM_BYTES = 1 << 20
BLOCK_BYTES = 4096
COPY_BYTES_MAX = 1 << 30
MESSAGE_CHARS_MAX = 1000
#: How long HTCondor may take from its start to the job's, emulated and swapping.
CONDOR_START_TIMEOUT_S = 900.0
INFINITE_S = float("inf")
#: What a full file system, a full quota or a file past its largest size answers.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SCRATCH_DIR_MARK = "#CoNdOrScRaTcHdIr#"
SLOT = "slot1_1"
VALID_LOGIN = re.compile(r"[A-Za-z_][\w.-]{0,31}", re.ASCII)
#: HTCondor's default for STARTER_NUM_THREADS_ENV_VARS.
THREAD_VARIABLES = (
    "CUBACORES GOMAXPROCS JULIA_NUM_THREADS MKL_NUM_THREADS NUMEXPR_NUM_THREADS "
    "OMP_NUM_THREADS OMP_THREAD_LIMIT OPENBLAS_NUM_THREADS PYTHON_CPU_COUNT "
    "ROOT_MAX_THREADS TF_LOOP_PARALLEL_ITERATIONS TF_NUM_THREADS"
)
#: What HTCondor never sends back (ALWAYS_EXCLUDED_FILES, CHIRP_CONFIG_FILENAME and
#: SANDBOX_STARTER_LOG_FILENAME in the starter's jic_shadow.cpp and starter.h).
STARTER_FILES = frozenset(
    b".job.ad .machine.ad .execution_overlay.ad .update.ad .update.ad.tmp .chirp.config "
    b".docker_sock .docker_stdout .docker_stderror .condor_container_launched "
    b".starter.log .starter.log.old".split()
)


class Failure(Exception):
    """What the exit record says of a run that did not succeed: a stage and one line."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage
        self.message = message


class Log:
    """One line a step, with the seconds since the start: on the disk and the console."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.fd = -1
        self.room = LOG_BYTES_MAX
        self.console = True

    def open(self, path: str) -> None:
        """Keep the log in ``path`` too, when that can be written."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self.fd = os.open(path, flags, 0o644)
        except OSError as error:
            self(f"cannot write {path}: {error.strerror}")

    def __call__(self, text: str) -> None:
        stamp = f"{time.monotonic() - self.started_s:8.3f} "
        data = (stamp + text.rstrip() + "\n").encode("utf-8", "backslashreplace")
        try:
            if self.console:
                os.write(1, data)
        except OSError:
            self.console = False  # nobody is there to be told
        try:
            if self.fd >= 0 and len(data) <= self.room:
                self.room -= len(data)
                os.write(self.fd, data)
        except OSError:
            self.close()  # a full disk; the console still has the lines

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


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


class Job:
    """The job record, checked; names are text as in the record."""

    def __init__(self, record: "Dict[str, Any]") -> None:
        if record.get("format") != FORMAT:
            raise ValueError(f"its format is {record.get('format')!r}, not {FORMAT}")
        self.runner: str = self._take(record, "runner", str)
        if self.runner not in ("condor", "direct"):
            raise ValueError(f"there is no runner {self.runner!r}")
        self.executable: str = self._take(record, "executable", str)
        self.arguments: List[str] = self._strings(record, "arguments")
        self.environment: Dict[str, str] = self._take(record, "environment", dict)
        self.stdin: Optional[str] = self._take(record, "stdin", str, True)
        self.stdout: Optional[str] = self._take(record, "stdout", str, True)
        self.stderr: Optional[str] = self._take(record, "stderr", str, True)
        self.outputs: Optional[List[str]] = None
        if record.get("outputs") is not None:
            self.outputs = self._strings(record, "outputs")
        self.omit = self._strings(record, "omit")
        self.user: Optional[str] = self._take(record, "user", str, True)
        self.cpus: int = self._take(record, "cpus", int)
        self.memory_mib: int = self._take(record, "memory_mib", int)
        version: Optional[str] = self._take(record, "condor_version", str, True)
        self.condor_version = version
        self._check()

    @staticmethod
    def _take(record: "Any", name: str, kind: "type", none: bool = False) -> "Any":
        value = record.get(name)
        if not (value is None and none) and type(value) is not kind:
            raise ValueError(f"its {name!r} is {value!r}, not of type {kind.__name__}")
        return value

    @classmethod
    def _strings(cls, record: "Any", name: str) -> "List[str]":
        values = cls._take(record, name, list)
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"its {name!r} holds {value!r}, not a string")
            to_bytes(value)
        return list(values)

    def _check(self) -> None:
        for name, value in self.environment.items():
            if not isinstance(value, str) or not name or "=" in name:
                raise ValueError(f"its environment has {name!r} = {value!r}")
            to_bytes(name + value)
        for path in (self.stdout, self.stderr):
            if path is not None:
                plain_path(path)
        to_bytes(self.executable + (self.stdin or ""))
        if not self.executable:
            raise ValueError("it names no executable")
        for path in self.outputs or []:
            if path.startswith("/") or ".." in path.split("/"):
                raise ValueError(f"its output {path!r} lies outside the sandbox")
        version = self.condor_version
        if self.runner == "condor" and not re.fullmatch(r"[A-Za-z0-9][\w.+~-]*", version or ""):
            raise ValueError(f"its condor_version is {version!r}")


def read_job(data_dir: str) -> Job:
    path = os.path.join(data_dir, JOB_RECORD)
    try:
        with open(path, "rb") as stream:
            record = json.loads(stream.read().decode("ascii"))
        if not isinstance(record, dict):
            raise ValueError("it is not an object")
        return Job(record)
    except OSError as error:
        message = f"cannot read the job record {path}: {error.strerror}"
        raise Failure("record", message) from error
    except (ValueError, RecursionError) as error:
        raise Failure("record", f"the job record {path} is not valid: {error}") from error


# --- the job's user -----------------------------------------------------------------


class Login:
    """Whom the job runs as; ``switch`` is false where this process is no root."""

    def __init__(self, name: str, uid: int, gid: int, home: str, switch: bool) -> None:
        self.name, self.uid, self.gid = name, uid, gid
        self.home, self.switch = home, switch

    def own(self, path: str) -> None:
        if self.switch:
            os.chown(path, self.uid, self.gid)


def lookup(name: str) -> "Optional[pwd.struct_passwd]":
    try:
        return pwd.getpwnam(name)
    except (KeyError, ValueError):  # not there; or not ASCII, which Python 3.6 cannot ask for
        return None


def choose_login(wanted: "Optional[str]", home: str, log: Log) -> Login:
    """The wanted login when it is an ordinary user's or can be made; else nobody."""
    if os.geteuid() != 0:
        me = pwd.getpwuid(os.geteuid())
        return Login(me.pw_name, me.pw_uid, me.pw_gid, me.pw_dir, False)
    if wanted and lookup(wanted) is None and VALID_LOGIN.fullmatch(wanted):
        try:
            add_login(wanted, home, 1000)
        except OSError as error:
            log(f"cannot add the login {wanted!r}: {error}")
    entry = lookup(wanted) if wanted else None
    if entry is None or not 1000 <= entry.pw_uid < 65534:
        entry = lookup("nobody")
        if entry is None or entry.pw_uid == 0:
            raise Failure("user", "this machine has no login 'nobody'")
    return Login(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, True)


def add_login(name: str, home: str, lowest: int, etc: str = "/etc") -> None:
    """Append a login and its group, with a free number from ``lowest`` on for both."""
    taken = set()
    groups = {}
    for table in ("passwd", "group"):
        with open(os.path.join(etc, table), "rb") as stream:
            for fields in (line.split(b":") for line in stream):
                if len(fields) > 2 and fields[2].isdigit():
                    taken.add(int(fields[2]))
                    if table == "group":
                        groups[to_text(fields[0])] = int(fields[2])
    number = next(n for n in range(lowest, 60000) if n not in taken)
    if os.path.exists(os.path.join(etc, "shadow")):
        append_line(os.path.join(etc, "shadow"), f"{name}:*:19000::::::")
    group = groups.get(name, 0)
    if group < lowest:  # none, or one of the system's
        group = number
    if name not in groups:
        append_line(os.path.join(etc, "group"), f"{name}:x:{group}:")
    line = f"{name}:x:{number}:{group}::{home}:/bin/sh"
    append_line(os.path.join(etc, "passwd"), line)


def append_line(path: str, line: str) -> None:
    with open(path, "rb+") as stream:
        data = stream.read()
        cut = b"\n" if data and not data.endswith(b"\n") else b""
        stream.write(cut + line.encode("ascii") + b"\n")


# --- unpacking the sandbox ----------------------------------------------------------


def copy_data(source: int, offset: int, target: int, length: int) -> None:
    """Copy to the place where ``target`` stands, in the kernel where that is possible."""
    kernel = True
    while length:
        if kernel:
            try:
                done = os.sendfile(target, source, offset, min(length, COPY_BYTES_MAX))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS):
                    raise
                kernel = False
                continue
        else:
            data = os.pread(source, min(length, 1 << 20), offset)
            done = os.write(target, data) if data else 0
        if not done:
            raise ValueError(f"the data ends {length} bytes early")
        offset, length = offset + done, length - done


class Unpacker:
    """Makes what an index lists in a new folder, as the job's user's own."""

    def __init__(self, data_dir: str, root: str, login: Login) -> None:
        self.data_dir, self.login = data_dir, login
        self.root = os.fsencode(root)
        self.folders: Dict[bytes, Any] = {}
        self.packs: Dict[int, int] = {}
        self.count = 0

    def run(self) -> None:
        path = os.path.join(self.data_dir, INPUT_INDEX)
        number = 0
        try:
            if os.path.getsize(path) > INDEX_BYTES_MAX:
                raise ValueError(f"it is larger than {INDEX_BYTES_MAX} bytes")
            with open(path, "rb") as stream:
                for line in stream:
                    number += 1
                    self.entry(json.loads(line.decode("ascii")))
            for folder, entry in reversed(list(self.folders.items())):
                self.dress(os.path.join(self.root, folder), entry)
        except OSError as error:
            message = f"line {number} of the input index: {error}"
            raise Failure("unpack", message) from error
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            message = f"line {number} of the input index is not valid: {error!r}"
            raise Failure("unpack", message) from error
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
        self.count += 1
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
        if self.login.switch:
            os.chown(place, self.login.uid, self.login.gid, **follow)
        if not link:
            os.chmod(place, entry["mode"] & 0o7777)
        os.utime(place, ns=(entry["mtime_ns"], entry["mtime_ns"]), **follow)


# --- choosing and packing the outputs -----------------------------------------------


def fingerprint(path: bytes) -> "Optional[Tuple[int, int, int]]":
    """What tells that a file was changed; None for folders."""
    try:
        status = os.stat(path)
    except OSError:
        status = os.lstat(path)  # a link to nowhere is itself
    if stat.S_ISDIR(status.st_mode):
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def catalogue(root: bytes) -> "Dict[bytes, Optional[Tuple[int, int, int]]]":
    return {name: fingerprint(os.path.join(root, name)) for name in os.listdir(root)}


class Outputs:
    """The entries of the output index, by path; folders before what is in them."""

    def __init__(self, root: bytes, log: Log) -> None:
        self.root, self.log = root, log
        self.entries: Dict[bytes, Dict[str, Any]] = {}
        self.missing: List[str] = []

    def add_changed(self, before: "Dict[bytes, Any]", omit: "Set[bytes]") -> None:
        """Add new or changed files at the top level, as HTCondor does by default.

        Read in FileTransfer::FindChangedFiles (condor_utils/file_transfer.cpp): folders
        are skipped, and links to folders; dot files and links to files are sent; the
        executable is not, and what is in the catalogue unchanged is not.  Core files are
        ordinary new files.  Sockets and FIFOs are skipped in ExpandFileTransferList.
        """
        for name in sorted(os.listdir(self.root)):
            if name in STARTER_FILES or name in omit:
                continue
            mark = fingerprint(os.path.join(self.root, name))
            if mark is not None and before.get(name, ()) != mark:
                self.add(name)

    def add_listed(self, item: str) -> None:
        """Add a path of ``transfer_output_files``: a file, or a folder with its contents."""
        parts = [p for p in to_bytes(item).split(b"/") if p not in (b"", b".")]
        path = b"/".join(parts)
        if not os.path.lexists(os.path.join(self.root, path)):
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

        HTCondor fails on links to folders and to nowhere; here they stay links.
        """
        place = os.path.join(self.root, path)
        status = os.lstat(place)
        entry: Dict[str, Any] = {"path": to_text(path)}
        if stat.S_ISLNK(status.st_mode):
            try:
                target = os.stat(place)
                followed = folder or not stat.S_ISDIR(target.st_mode)
                status = target if followed else status
            except OSError:
                self.log("output {!r} is a link to nowhere".format(entry["path"]))
        if stat.S_ISREG(status.st_mode):
            entry.update(type="file", size=status.st_size, extents=[])
        elif stat.S_ISDIR(status.st_mode):
            entry.update(type="dir")
        elif stat.S_ISLNK(status.st_mode):
            entry.update(type="link", target=to_text(os.readlink(place)))
        else:
            self.log("output {!r} is a socket, FIFO or device: left out".format(entry["path"]))
            return
        entry.update(mode=status.st_mode & 0o7777, mtime_ns=status.st_mtime_ns)
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


def remove_outputs(data_dir: str) -> None:
    folder = os.path.join(data_dir, RECORD_DIR)
    for name in os.listdir(folder):
        if name.startswith("output.") or name in ("exit.json", "exit.new", "condor.log"):
            os.unlink(os.path.join(folder, name))


def save_outputs(
    job: Job,
    data_dir: str,
    sandbox: str,
    before: "Dict[bytes, Any]",
    report: "Dict[str, Any]",
    log: Log,
) -> None:
    """Pack what the job left; where it does not fit, at least its stdout and stderr."""
    root = os.fsencode(sandbox)
    outputs = Outputs(root, log)
    streams = [plain_path(name) for name in (job.stdout, job.stderr) if name is not None]
    if job.outputs is None:
        outputs.add_changed(before, {to_bytes(name) for name in job.omit})
    for item in job.outputs or []:
        outputs.add_listed(item)
    for name in streams:
        if os.path.lexists(os.path.join(root, name)):
            outputs.add(name)
    report["missing_outputs"] = outputs.missing
    log(f"outputs: {len(outputs.entries)}, missing: {len(outputs.missing)}")
    try:
        report["outputs"] = write_outputs(data_dir, root, outputs.entries)
        return
    except (OSError, Failure) as error:
        if isinstance(error, OSError) and error.errno not in FULL:
            raise
        remove_outputs(data_dir)
        message = save_message(error, data_dir, root, outputs.entries)
    kept = {name: outputs.entries[name] for name in streams if name in outputs.entries}
    try:
        report["outputs"] = write_outputs(data_dir, root, kept)
    except (OSError, Failure):
        remove_outputs(data_dir)
    raise Failure("save", message)


def save_message(
    error: Exception, data_dir: str, root: bytes, entries: "Dict[bytes, Dict[str, Any]]"
) -> str:
    if isinstance(error, Failure):
        return error.message
    needed = 0
    for path, entry in entries.items():
        if entry["type"] == "file":
            status = os.stat(os.path.join(root, path))
            needed += min(status.st_size, status.st_blocks * 512)
    disk = os.statvfs(data_dir)
    free = disk.f_bavail * disk.f_frsize
    cause = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
    return f"the outputs hold {needed} bytes, the data disk has room for {free}: {cause}"


# --- ads and environment, as a starter makes them -----------------------------------


def read_ad(path: str) -> "Dict[str, str]":
    """Attributes and expressions of an ad, one ``Attr = expr`` a line; none is empty."""
    try:
        with open(path, "rb") as stream:
            lines = to_text(stream.read()).split("\n")
    except FileNotFoundError:
        return {}
    return parse_ad(lines)


def parse_ad(lines: "List[str]") -> "Dict[str, str]":
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {name.strip(): value.strip() for name, mark, value in pairs if mark}


def ad_text(ad: "Dict[str, Any]") -> bytes:
    lines = [f"{name} = {ad[name]}\n" for name in sorted(ad, key=str.lower)]
    return "".join(lines).encode("utf-8", "surrogateescape")


def quoted(text: str) -> str:
    """A ClassAd string."""
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'


def words(values: "List[str]") -> str:
    """HTCondor's second syntax for arguments and environment, without outer quotes."""

    def word(value: str) -> str:
        if value and not re.search(r"[\s']", value):
            return value
        return "'" + value.replace("'", "''") + "'"

    return " ".join(word(value) for value in values)


def assignments(environment: "Dict[str, str]") -> "List[str]":
    return [f"{name}={value}" for name, value in environment.items()]


def machine_ad(job: Job, ad: "Dict[str, str]", scratch: str) -> bytes:
    """The slot's ad for the job to read, on the ground of ``ad``, the startd's if any.

    A starter that takes its job from a hook is given no machine ad, so it makes an empty
    file of it; this one is what a dynamic slot's would be.
    """
    host = os.uname()[1].partition(".")[0] or "localhost"
    disk = os.statvfs(scratch)
    name = ad.get("Machine", quoted(host))[1:-1]
    made = {
        "MyType": '"Machine"',
        "Machine": quoted(name),
        "Arch": quoted("X86_64" if os.uname()[4] == "x86_64" else os.uname()[4]),
        "OpSys": '"LINUX"',
        "UidDomain": quoted(name),
        "FileSystemDomain": quoted(name),
        "HasFileTransfer": "true",
        "TotalSlots": 1,
        "MachineResources": '"Cpus Memory Disk Swap"',
    }  # type: Dict[str, Any]
    made.update(ad)
    for attribute in ("PartitionableSlot", "ChildState", "NumDynamicSlots", "Child"):
        made.pop(attribute, None)
    made.update(
        Name=quoted(f"{SLOT}@{name}"),
        SlotID=1,
        DSlotID=1,
        SlotType='"Dynamic"',
        SlotTypeID=-1,
        DynamicSlot="true",
        ParentSlotId=1,
        Cpus=job.cpus,
        TotalSlotCpus=job.cpus,
        DetectedCpus=os.cpu_count() or job.cpus,
        Memory=job.memory_mib,
        TotalSlotMemory=job.memory_mib,
        Disk=disk.f_bavail * disk.f_frsize // 1024,
        State='"Claimed"',
        Activity='"Busy"',
    )
    return ad_text(made)


def write_ads(
    job: Job, login: Login, ad: "Dict[str, str]", slot_ad: "Dict[str, str]", scratch: str
) -> None:
    """Put ``.job.ad`` and ``.machine.ad`` there, in place of what may have the names."""
    here = {"Iwd": quoted(scratch), "Owner": quoted(job.user or login.name)}
    here.update(ad)
    files = {".job.ad": ad_text(here), ".machine.ad": machine_ad(job, slot_ad, scratch)}
    for name, data in files.items():
        aside = scratch + ".new"
        write_file(aside, data)
        os.rename(aside, os.path.join(scratch, name))


def thread_variables(job: Job) -> "Dict[str, str]":
    """The starter's, made from the slot's Cpus unless the job has them already."""
    return {n: str(job.cpus) for n in THREAD_VARIABLES.split() if not job.environment.get(n)}


def direct_environment(job: Job, login: Login, scratch: str) -> "Dict[str, str]":
    """The job's environment with what Starter::PublishToEnv adds (starter.cpp)."""
    environment = dict(job.environment)
    environment.update(thread_variables(job))
    environment.setdefault("HOME", login.home)
    for name in ("TMPDIR", "TEMP", "TMP", "APPTAINER_CACHEDIR", "SINGULARITY_CACHEDIR"):
        environment[name] = scratch
    environment.update(
        {
            "_CONDOR_SCRATCH_DIR": scratch,
            "_CONDOR_JOB_IWD": scratch,
            "_CONDOR_JOB_AD": scratch + "/.job.ad",
            "_CONDOR_MACHINE_AD": scratch + "/.machine.ad",
            "_CONDOR_SLOT": SLOT,
            "_CONDOR_JOB_PIDS": "",
            "_CHIRP_DELAYED_UPDATE_PREFIX": "Chirp*",
            "BATCH_SYSTEM": "HTCondor",
        }
    )
    return {n: v.replace(SCRATCH_DIR_MARK, scratch) for n, v in environment.items()}


# --- processes ----------------------------------------------------------------------


def find_program(name: str, folders: "Optional[List[str]]" = None) -> "Optional[str]":
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for folder in folders or path + ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]:
        place = os.path.join(folder, name)
        if os.access(place, os.X_OK):
            return place
    return None


def spawn(
    argv: "List[str]",
    setup: "Callable[[], None]",
    environment: "Optional[Dict[str, str]]" = None,
) -> int:
    """Start a program; ``setup`` runs in the child.  Raise Failure when it cannot start."""
    reader, writer = os.pipe()
    args = [to_bytes(arg) for arg in argv]
    env = {to_bytes(n): to_bytes(v) for n, v in (environment or os.environ).items()}
    pid = os.fork()
    if pid == 0:
        what = f"cannot start '{argv[0]}'"
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            setup()
            os.execve(args[0], args, env)
        except OSError as error:
            text = to_bytes(f"{what}: {error.strerror}")
            if error.filename not in (None, args[0]):
                text += b" ('" + os.fsencode(error.filename) + b"')"
            os.write(writer, text)
        except BaseException as error:  # nothing of the child may go on as the parent
            os.write(writer, to_bytes(f"{what}: {error!r}"))
        finally:
            os._exit(127)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        message = stream.read()  # ends as the program starts: the pipe closes on exec
    if message:
        os.waitpid(pid, 0)
        raise Failure("exec", to_text(message))
    return pid


def process_table() -> "Dict[int, List[str]]":
    """The fields of /proc/PID/stat from the state on (man 5 proc), by process."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stream:
                    fields = to_text(stream.read()).rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if fields and fields[0] not in "ZX":
                table[int(name)] = fields
    return table


def kill_all(find: "Callable[[], List[int]]") -> int:
    """Kill what ``find`` returns, parents first, until it returns nothing."""
    killed: Set[int] = set()
    for _ in range(250):
        pids = find()
        if not pids:
            break
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            except OSError as error:
                if error.errno != errno.ESRCH:
                    raise
        time.sleep(0.02)
    return len(killed)


def job_processes(login: Login, scratch: str, whole_machine: bool) -> "List[int]":
    """The job user's processes; outside a machine of its own only those of this job."""
    mark = to_bytes("_CONDOR_SCRATCH_DIR=" + scratch) + b"\0"
    found = []
    for pid in process_table():
        try:
            if pid == os.getpid() or os.stat(f"/proc/{pid}").st_uid != login.uid:
                continue
            if not whole_machine:
                with open(f"/proc/{pid}/environ", "rb") as stream:
                    if mark not in stream.read():
                        continue
        except OSError:
            continue  # it has ended, or is another user's
        found.append(pid)
    return found


def descendants(root: int) -> "List[int]":
    parents = {pid: int(fields[1]) for pid, fields in process_table().items()}
    found = [root] if root in parents else []
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found


# --- runner "direct" ----------------------------------------------------------------


def become(login: Login, scratch: str) -> None:
    if login.switch:
        os.initgroups(login.name, login.gid)
        os.setgid(login.gid)
        os.setuid(login.uid)
    os.setsid()
    os.umask(0o022)
    os.chdir(scratch)


def open_streams(job: Job) -> None:
    """Put the job's files in place of 0, 1 and 2, as the job's user."""
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    fds = [os.open(to_bytes(job.stdin or "/dev/null"), os.O_RDONLY)]
    fds.append(os.open(to_bytes(job.stdout or "/dev/null"), write | os.O_APPEND, 0o644))
    if job.stdout is not None and job.stderr == job.stdout:
        fds.append(fds[1])
    else:
        fds.append(os.open(to_bytes(job.stderr or "/dev/null"), write | os.O_APPEND, 0o644))
    # They may be 0 to 2 themselves where init gave none: first out of the way.
    for number, fd in enumerate([os.dup(fd) for fd in fds]):
        os.dup2(fd, number)


def core_limiter(ad: "Dict[str, str]") -> "Callable[[], None]":
    """CoreSize as OsProc::StartJob takes it: absent means none, negative unlimited."""
    try:
        # Imported before the fork: the job's user may not be allowed to read the library.
        import resource
    except ImportError:
        return lambda: None  # a minimal Python; the machine's own limit holds
    size = int(float(number(ad, "CoreSize")))
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if size < 0 or (hard != resource.RLIM_INFINITY and size > hard):
        size = hard
    return lambda: resource.setrlimit(resource.RLIMIT_CORE, (size, hard))


def keep_core(sandbox: str, pid: int, ad: "Dict[str, str]") -> None:
    """Name a core file as OsProc::checkCoreFile does."""
    name = f"core.{number(ad, 'ClusterId')}.{number(ad, 'ProcId')}"
    for core in ("core", f"core.{pid}"):
        path = os.path.join(sandbox, core)
        if os.path.isfile(path):
            os.rename(path, os.path.join(sandbox, name))
            return


class Direct:
    """Runs the job from here, in a sandbox as a starter would make it."""

    def __init__(self, job: Job, guest: "Guest") -> None:
        self.job, self.guest = job, guest

    def prepare(self) -> str:
        """Return the folder to unpack the sandbox into."""
        return os.path.join(self.guest.work, "execute", f"dir_{os.getpid()}")

    def run(
        self, sandbox: str, ad: "Dict[str, str]", report: "Dict[str, Any]"
    ) -> "Dict[bytes, Any]":
        """Run the job to its end; return the catalogue from before it."""
        job, login = self.job, self.guest.login
        write_ads(job, login, ad, {}, sandbox)
        before = catalogue(os.fsencode(sandbox))
        program = os.path.join(sandbox, job.executable)
        environment = direct_environment(job, login, sandbox)
        limit_core = core_limiter(ad)

        def setup() -> None:
            become(login, sandbox)
            limit_core()
            open_streams(job)

        report["started_at_s"] = time.time()
        pid = spawn([program] + job.arguments, setup, environment)
        self.guest.log(f"the job runs as {login.name}, process {pid}")
        _, status, usage = os.wait4(pid, 0)
        report["ended_at_s"] = time.time()
        report["user_cpu_s"], report["system_cpu_s"] = usage.ru_utime, usage.ru_stime
        report["max_rss_kib"] = usage.ru_maxrss
        if os.WIFSIGNALED(status):
            report["exit_signal"] = os.WTERMSIG(status)
            report["core_dumped"] = os.WCOREDUMP(status)
        else:
            report["exit_code"] = os.WEXITSTATUS(status)
        if report["core_dumped"]:
            keep_core(sandbox, pid, ad)
        return before

    def stop(self) -> None:
        """Nothing of this runner is left; the job's processes are killed by their user."""


# --- runner "condor" ----------------------------------------------------------------

CONDOR_CONFIG = """\
RELEASE_DIR = {home}
BIN = {home}/bin
SBIN = {sbin}
LIBEXEC = {home}/libexec
LOCAL_DIR = {base}
LOG = {base}/log
SPOOL = {base}/spool
LOCK = {base}/lock
RUN = {base}/run
EXECUTE = {execute}
LOCAL_CONFIG_FILE =
LOCAL_CONFIG_DIR =
REQUIRE_LOCAL_CONFIG_FILE = False
DAEMON_LIST = MASTER, STARTD
# Nobody else: no pool, no network, no names to look up.
COLLECTOR_HOST =
CONDOR_HOST =
CONDOR_VIEW_HOST =
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
NO_DNS = True
DEFAULT_DOMAIN_NAME = capsule
USE_SHARED_PORT = False
SEC_DEFAULT_AUTHENTICATION = NEVER
SEC_DEFAULT_ENCRYPTION = NEVER
SEC_DEFAULT_INTEGRITY = NEVER
SEC_DEFAULT_NEGOTIATION = NEVER
ALLOW_READ = *
ALLOW_WRITE = *
ALLOW_DAEMON = *
ALLOW_ADMINISTRATOR = *
# One partitionable slot with what the job asked for.
NUM_CPUS = {cpus}
MEMORY = {memory_mib}
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = True
STARTER_SLOT_NAME = {slot}
MODIFY_REQUEST_EXPR_REQUESTCPUS = RequestCpus
MODIFY_REQUEST_EXPR_REQUESTMEMORY = RequestMemory
MODIFY_REQUEST_EXPR_REQUESTDISK = RequestDisk
START = True
SUSPEND = False
PREEMPT = False
KILL = False
RANK = 0
CLAIM_WORKLIFE = -1
SLOT1_USER = {user}
SLOT1_1_USER = {user}
STARTER_ALLOW_RUNAS_OWNER = True
STARTER_JOB_ENVIRONMENT = "{environment}"
# A job from the hooks, once.
STARTD_JOB_HOOK_KEYWORD = CAPSULE
STARTER_JOB_HOOK_KEYWORD = CAPSULE
STARTER_DEFAULT_JOB_HOOK_KEYWORD = CAPSULE
CAPSULE_HOOK_FETCH_WORK = {base}/hooks/fetch
CAPSULE_HOOK_PREPARE_JOB = {base}/hooks/prepare
CAPSULE_HOOK_JOB_EXIT = {base}/hooks/exit
CAPSULE_HOOK_JOB_EXIT_TIMEOUT = 2000000000
FetchWorkDelay = 1000000
# What only takes time in a machine that lives for one job.
MASTER_UPDATE_INTERVAL = 1000000
UPDATE_INTERVAL = {update_interval_s}
RunBenchmarks = False
BENCHMARKS_JOBLIST =
STARTD_CRON_JOBLIST =
STARTD_DETECT_GPUS = false
STARTER_HIDE_GPU_DEVICES = False
# An empty value means the default, which is run to ask what the machine can do.
HIBERNATION_PLUGIN = /nonexistent
JAVA =
# Without it the starter of 23.9 now and then dies as the job ends (in KillFamily).
USE_PROCD = True
HIBERNATE_CHECK_INTERVAL = 0
HIBERNATION_OVERRIDE_WOL = True
ENABLE_KERNEL_TUNING = False
LINUX_KERNEL_TUNING_SCRIPT =
VM_TYPE =
VM_GAHP_SERVER =
DOCKER =
SINGULARITY =
BASE_CGROUP =
CREATE_CGROUP_WITHOUT_SYSTEMD = False
CGROUP_MEMORY_LIMIT_POLICY = none
MOUNT_UNDER_SCRATCH =
USE_PID_NAMESPACES = False
STARTD_HISTORY =
STARTER_STATS_LOG =
FILETRANSFER_PLUGINS =
SHUTDOWN_FAST_TIMEOUT = 1
MASTER_CHECK_NEW_EXEC_INTERVAL = 1000000
PREEN =
USE_CLONE_TO_CREATE_PROCESSES = True
MAX_DEFAULT_LOG = 10 Mb
"""

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
read -r times < /proc/$PPID/stat
{{ echo "exit $1 $times"; cat; echo "end of ad"; }} > {base}/events
read -r answer < {base}/answers
"""


class Condor:
    """Runs the job under a personal HTCondor: a master and a startd that fetches it."""

    def __init__(self, job: Job, guest: "Guest") -> None:
        self.job, self.guest, self.log = job, guest, guest.log
        self.base = os.path.join(guest.work, "condor")
        self.execute = os.path.join(guest.work, "execute")
        self.home = f"/condor-{job.condor_version}"
        self.master = 0
        self.events = self.answers = -1
        self.buffer = b""
        self.lines: List[str] = []
        self.tar = 0

    def prepare(self) -> str:
        """Begin to unpack the tarball; return the folder to unpack the sandbox into."""
        if not os.path.isdir(self.home):
            self.tar = unpack_tarball(os.path.join(self.guest.data_dir, TARBALL), self.guest)
        return os.path.join(self.guest.work, "sandbox")

    def run(
        self, sandbox: str, ad: "Dict[str, str]", report: "Dict[str, Any]"
    ) -> "Dict[bytes, Any]":
        """Run the job to its end; ``sandbox`` becomes the scratch folder's content."""
        with self.guest.phase("unpack_condor"):
            self.wait_tar()
        with self.guest.phase("start_condor"):
            self.configure(ad)
            self.start()
            event = self.wait_event("prepare ", CONDOR_START_TIMEOUT_S)
            starter, scratch = int(event[1]), event[2]
            self.fill(sandbox, scratch, ad)
        self.guest.sandbox = scratch
        before = catalogue(os.fsencode(scratch))
        cpu_before = process_table().get(starter, [])
        prepared_at_s = time.time()
        os.write(self.answers, b"go\n")
        self.log(f"the job starts in {scratch}")
        event = self.wait_event("exit ")
        ended_at_s = time.time()
        self.wait_event("end of ad")
        self.read_exit(report, event[1], event[2], cpu_before)
        duration_s = float(report.pop("duration_s") or ended_at_s - prepared_at_s)
        report["started_at_s"] = max(prepared_at_s, ended_at_s - duration_s)
        report["ended_at_s"] = ended_at_s
        return before

    def wait_tar(self) -> None:
        if self.tar:
            status = os.waitpid(self.tar, 0)[1]
            self.tar = 0
            if status:
                self.log(f"tar ended with status {status}; unpacking without it")
                unpack_in_python(os.path.join(self.guest.data_dir, TARBALL))
        if not os.path.isdir(self.home):
            message = f"the HTCondor tarball has no folder {self.home}"
            raise Failure("unpack_condor", message)

    def configure(self, ad: "Dict[str, str]") -> None:
        """Write configuration, hooks and the job's ad; make folders and pipes."""
        login = self.guest.login
        condor = lookup("condor")
        if condor is None:
            add_login("condor", self.base, 300)
            condor = pwd.getpwnam("condor")
        os.makedirs(self.base)
        for name in ("hooks", "log", "spool", "lock", "run"):
            os.mkdir(os.path.join(self.base, name))
            if name != "hooks":
                os.chown(os.path.join(self.base, name), condor.pw_uid, condor.pw_gid)
        os.chown(self.execute, condor.pw_uid, condor.pw_gid)
        # Until 23.9 the startd asks for work as it comes up, in 25.14 at its first update.
        old = re.match(r"(8|9|10|23)\.", self.job.condor_version or "")
        update_interval_s = 1000000 if old else 1
        values = {
            "home": self.home,
            "sbin": os.path.dirname(self.program("condor_startd")),
            "base": self.base,
            "execute": self.execute,
            "cpus": self.job.cpus,
            "memory_mib": self.job.memory_mib,
            "slot": SLOT,
            "update_interval_s": update_interval_s,
            "user": login.name,
            "environment": words(assignments(thread_variables(self.job))),
        }
        write_file(self.base + "/config", CONDOR_CONFIG.format(**values).encode("ascii"))
        write_file(self.base + "/job.ad", self.starter_ad(ad))
        hooks = {"fetch": FETCH_HOOK, "prepare": PREPARE_HOOK, "exit": EXIT_HOOK}
        for name, text in hooks.items():
            path = os.path.join(self.base, "hooks", name)
            write_file(path, text.format(base=self.base).encode("ascii"), 0o755)
        self.events = self.pipe("events")
        self.answers = self.pipe("answers")

    def pipe(self, name: str) -> int:
        """Make a FIFO; open both ways, so that no end ever waits for the other."""
        path = os.path.join(self.base, name)
        os.mkfifo(path)
        os.chmod(path, 0o666)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def program(self, name: str) -> str:
        folders = [os.path.join(self.home, f) for f in ("sbin", "bin", "usr/sbin")]
        path = find_program(name, folders)
        if path is None:
            message = f"there is no program {name} in {self.home}"
            raise Failure("start_condor", message)
        return path

    def starter_ad(self, ad: "Dict[str, str]") -> bytes:
        """The job's ad as far as this starter, which has no shadow, may know it."""
        job, login = self.job, self.guest.login
        away = {"iwd", "args", "env", "hookkeyword", "rank"}
        starts = ("request", "transfer", "stream", "periodic", "onexit", "want")
        kept = {
            name: value
            for name, value in ad.items()
            if name.lower() not in away and not name.lower().startswith(starts)
        }
        made = {
            "MyType": '"Job"',
            "JobUniverse": 5,
            "ClusterId": kept.get("ClusterId", 1),
            "ProcId": kept.get("ProcId", 0),
            "Owner": quoted(login.name),
            "User": quoted(login.name + "@capsule"),
            "OsUser": quoted(login.name),
            "Cmd": quoted(job.executable),
            "Arguments": quoted(words(job.arguments)),
            "Environment": quoted(words(assignments(job.environment))),
            "In": quoted(job.stdin or "/dev/null"),
            "Out": quoted(job.stdout or "/dev/null"),
            "Err": quoted(job.stderr or "/dev/null"),
            "RequestCpus": job.cpus,
            "RequestMemory": job.memory_mib,
            "RequestDisk": 1,
            "Requirements": "true",
        }
        ours = {name.lower() for name in made}
        made.update({n: v for n, v in kept.items() if n.lower() not in ours})
        return ad_text(made)

    def start(self) -> None:
        output = os.open(self.base + "/log/output", os.O_WRONLY | os.O_CREAT, 0o644)

        def setup() -> None:
            os.setsid()
            os.chdir("/")
            os.umask(0o022)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)

        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "CONDOR_CONFIG": self.base + "/config",
        }
        try:
            self.master = spawn([self.program("condor_master"), "-f"], setup, environment)
        except Failure as failure:
            raise Failure("start_condor", failure.message) from failure
        finally:
            os.close(output)
        self.log(f"condor_master is process {self.master}")

    def wait_event(self, wanted: str, timeout_s: float = INFINITE_S) -> "List[str]":
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
                line, _, self.buffer = self.buffer.partition(b"\n")
                if line.startswith(to_bytes(wanted)):
                    self.log("HTCondor: " + to_text(line)[:60])
                    return to_text(line).split(" ", 2)
                self.lines.append(to_text(line))
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
        if os.waitpid(self.master, os.WNOHANG)[0]:
            self.master = 0
            raise Failure(stage, "condor_master has ended" + self.complaint())
        gone = r"\b(STARTD|condor_startd)\b.*\b(died|exited)\b"
        if re.search(gone, self.logged("MasterLog")):
            raise Failure(stage, "condor_startd has ended" + self.complaint())
        if re.search(r"Starter pid \d+ (exited|died)", self.logged("StartLog")):
            stage = "exec" if wanted == "exit " else stage
            raise Failure(stage, "HTCondor could not run the job" + self.complaint())

    def logged(self, name: str) -> str:
        """The last of a daemon's log, or nothing."""
        try:
            with open(os.path.join(self.base, "log", name), "rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - (128 << 10)))
                return stream.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def complaint(self) -> str:
        """What HTCondor's logs say went wrong, as the end of a sentence."""
        patterns = (
            ("StarterLog", r"[Ff]ailed|[Cc]annot|ERROR"),
            ("StartLog", r"\bERROR\b"),
            ("MasterLog", r"\bERROR\b"),
        )
        for log, pattern in patterns:
            for name in sorted(os.listdir(os.path.join(self.base, "log"))):
                if name.startswith(log) and not name.endswith(".testing"):
                    text = self.logged(name).rpartition("Starting a VANILLA")[2]
                    found = [line for line in text.splitlines() if re.search(pattern, line)]
                    if found:
                        stamp = r"^[\d/]+ [\d:.]+ (\(pid:\d+\) )?"
                        return ": " + re.sub(stamp, "", found[0])
        return ""

    def fill(self, sandbox: str, scratch: str, ad: "Dict[str, str]") -> None:
        """Move the sandbox's content into the scratch folder, by rename."""
        source, target = os.fsencode(sandbox), os.fsencode(scratch)
        for name in os.listdir(source):
            os.rename(os.path.join(source, name), os.path.join(target, name))
        slot_ad = read_ad(self.base + "/run/slot.ad")
        write_ads(self.job, self.guest.login, ad, slot_ad, scratch)

    def read_exit(
        self, report: "Dict[str, Any]", reason: str, times: str, cpu_before: "List[str]"
    ) -> None:
        """Take over what the exit ad says, and the starter's count of CPU time.

        The ad's own CPU times are samples, zero for short jobs.  What the starter has
        waited for (cutime and cstime in /proc/PID/stat) is the job and the prepare hook.
        """
        if reason != "exit":
            raise Failure("exec", "HTCondor could not run the job" + self.complaint())
        report["condor_ad"] = "\n".join(self.lines)
        ad = parse_ad(self.lines)
        if ad.get("ExitBySignal", "").lower() == "true":
            report["exit_signal"] = int(ad["ExitSignal"])
        elif "ExitCode" in ad:
            report["exit_code"] = int(ad["ExitCode"])
        else:
            raise Failure("job", "HTCondor's exit ad has no ExitCode" + self.complaint())
        report["core_dumped"] = ad.get("JobCoreDumped", "").lower() == "true"
        report["max_rss_kib"] = int(float(number(ad, "ResidentSetSize")))
        report["duration_s"] = float(number(ad, "JobDuration"))
        after = times.rpartition(")")[2].split()
        tick = os.sysconf("SC_CLK_TCK")
        names = (("user_cpu_s", "RemoteUserCpu", 13), ("system_cpu_s", "RemoteSysCpu", 14))
        for name, attribute, field in names:
            waited = int(after[field]) - int(cpu_before[field] if cpu_before else 0)
            report[name] = max(float(number(ad, attribute)), waited / float(tick))

    def stop(self) -> None:
        """Kill HTCondor hard, parents first: nobody is left to remove the scratch folder."""
        if self.tar:
            kill_all(lambda: descendants(self.tar))
        if self.master:
            kill_all(lambda: descendants(self.master))

    def save_logs(self) -> None:
        """Put the tails of HTCondor's logs on the data disk, in one file."""
        folder = os.path.join(self.base, "log")
        if not os.path.isdir(folder):
            return
        parts = []
        for name in sorted(os.listdir(folder)):
            if not name.startswith(".") and os.path.isfile(os.path.join(folder, name)):
                parts.append(f"==> {name}\n{self.logged(name)}\n")
        data = "".join(parts).encode("utf-8")[:LOG_BYTES_MAX]
        try:
            write_file(os.path.join(self.guest.data_dir, CONDOR_LOG), data)
        except OSError as error:
            self.log(f"cannot keep HTCondor's logs: {error}")


def number(ad: "Dict[str, str]", name: str) -> str:
    """An attribute that is a literal number, else '0'."""
    value = ad.get(name, "0")
    return value if re.fullmatch(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", value) else "0"


def unpack_tarball(path: str, guest: "Guest") -> int:
    """Start to unpack into / and return tar's process, or 0 when that is already done."""
    if not os.path.isfile(path):
        raise Failure("unpack_condor", f"there is no HTCondor tarball {path}")
    program = find_program("tar")
    if program is None:
        unpack_in_python(path)
        return 0
    # -o: owned by root, whoever packed it; both GNU's and busybox's tar know it.
    return spawn([program, "-x", "-o", "-f", path, "-C", "/"], lambda: None)


def unpack_in_python(path: str) -> None:
    import tarfile

    try:
        with tarfile.open(path) as archive:
            if hasattr(tarfile, "fully_trusted_filter"):
                archive.extractall("/", filter="fully_trusted")
            else:
                archive.extractall("/")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise Failure(
            "unpack_condor", f"cannot unpack the HTCondor tarball: {error}"
        ) from error


# --- the whole ----------------------------------------------------------------------


class Phase:
    """Adds the seconds of a ``with`` block to the report, also when it fails."""

    def __init__(self, phases: "Dict[str, float]", name: str) -> None:
        self.phases, self.name = phases, name

    def __enter__(self) -> None:
        self.start_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.phases[self.name] = round(time.monotonic() - self.start_s, 3)


class Guest:
    """This run: where things are, whom the job runs as, and what will be reported."""

    def __init__(self, data_dir: str, work: str, whole_machine: bool, log: Log) -> None:
        self.data_dir, self.work, self.log = data_dir, work, log
        self.whole_machine = whole_machine
        self.login = Login("nobody", 65534, 65534, "/", False)
        self.sandbox = ""
        self.phases: Dict[str, float] = {}
        self.report = {
            "format": FORMAT,
            "runner": None,
            "state": "failed",
            "exit_code": None,
            "exit_signal": None,
            "core_dumped": False,
            "started_at_s": None,
            "ended_at_s": None,
            "user_cpu_s": 0.0,
            "system_cpu_s": 0.0,
            "max_rss_kib": 0,
            "failure": None,
            "missing_outputs": [],
            "outputs": {"entries": 0, "packs": 0, "bytes": 0},
            "phases": self.phases,
            "condor_ad": None,
            "guest": {
                "kernel": os.uname()[2],
                "python": sys.version.split()[0],
                "condor_version": "",
            },
        }  # type: Dict[str, Any]

    def phase(self, name: str) -> "Phase":
        return Phase(self.phases, name)

    def run(self) -> None:
        """Everything from the job record to the packed outputs."""
        job = read_job(self.data_dir)
        remove_outputs(self.data_dir)
        self.report["runner"] = job.runner
        self.report["guest"]["condor_version"] = job.condor_version or ""
        self.log(f"runner {job.runner}, executable {job.executable!r}, user {job.user!r}")
        self.make_folders()
        self.login = choose_login(job.user, os.path.join(self.work, "home"), self.log)
        runner = Condor(job, self) if job.runner == "condor" else Direct(job, self)
        try:
            self.sandbox = runner.prepare()
            self.unpack()
            ad = read_ad(os.path.join(self.data_dir, JOB_AD))
            before = runner.run(self.sandbox, ad, self.report)
        except BaseException:
            runner.stop()
            self.kill_job()
            if isinstance(runner, Condor):
                runner.save_logs()
            raise
        # From here on a signal is too late: the job has ended, and is to be reported.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.phases["job"] = round(self.report["ended_at_s"] - self.report["started_at_s"], 3)
        ended = {name: self.report[name] for name in ("exit_code", "exit_signal")}
        self.log(f"the job ended: {ended}")
        runner.stop()
        self.kill_job()
        with self.phase("save_outputs"):
            save_outputs(job, self.data_dir, self.sandbox, before, self.report, self.log)
        self.report["state"] = "exited"

    def make_folders(self) -> None:
        if os.path.isdir(self.work):
            import shutil  # a machine that was stopped half-way and started anew

            shutil.rmtree(self.work)
        for name in ("", "execute", "home"):
            os.makedirs(os.path.join(self.work, name), 0o755)

    def unpack(self) -> None:
        with self.phase("unpack_input"):
            os.mkdir(self.sandbox, 0o700)
            unpacker = Unpacker(self.data_dir, self.sandbox, self.login)
            unpacker.run()
            self.login.own(self.sandbox)
            self.login.own(os.path.join(self.work, "home"))
        self.log(f"unpacked {unpacker.count} entries into {self.sandbox}")

    def kill_job(self) -> None:
        killed = kill_all(lambda: job_processes(self.login, self.sandbox, self.whole_machine))
        if killed:
            self.log(f"killed {killed} processes that the job left behind")

    def fail(self, stage: str, message: str) -> None:
        message = " ".join(message.split())[:MESSAGE_CHARS_MAX]
        self.log(f"FAILED in {stage}: {message}")
        self.report["state"] = "failed"
        self.report["failure"] = {"stage": stage, "message": message}

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
        folder = os.open(os.path.join(self.data_dir, RECORD_DIR), os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        os.sync()

    def finish(self) -> None:
        """Write the exit record; on a full disk instead of the outputs."""
        try:
            self.write_record()
        except OSError as error:
            self.log(f"cannot write the exit record: {error}")
            if error.errno not in FULL:
                return
            self.report["outputs"] = {"entries": 0, "packs": 0, "bytes": 0}
            self.fail("save", f"the data disk is full: {error}")
            remove_outputs(self.data_dir)
            self.write_record()
        self.log("wrote the exit record")


def terminated(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise Failure("terminated", f"the guest was told to shut down (signal {number})")


def power_off(data_dir: str) -> None:
    """Leave the data disk clean and switch the machine off, without asking init."""
    os.chdir("/")
    os.sync()
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        place = os.fsencode(data_dir)
        if libc.umount2(place, 0) != 0:
            read_only = 1 | 32  # MS_RDONLY | MS_REMOUNT
            libc.mount(None, place, None, ctypes.c_ulong(read_only), None)
            libc.umount2(place, 2)  # MNT_DETACH
        libc.reboot(ctypes.c_int(0x4321FEDC))  # RB_POWER_OFF
    except (ImportError, OSError, AttributeError):
        pass  # a Python without ctypes; the programs do it
    for argv in (["umount", data_dir], ["poweroff", "-f"], ["halt", "-f", "-p"]):
        program = find_program(argv[0])
        if program is not None:
            os.waitpid(spawn([program] + argv[1:], lambda: None), 0)
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("o")


def options(argv: "List[str]") -> "Tuple[str, str, bool]":
    """``[--data DIR] [--work DIR] [--no-poweroff]``: data folder, work folder, power off."""
    data_dir = os.path.dirname(os.path.abspath(__file__))
    work, off = "/var/lib/vmcapsule", True
    rest = list(argv)
    while rest:
        option = rest.pop(0)
        if option == "--no-poweroff":
            off = False
        elif option == "--data" and rest:
            data_dir = rest.pop(0)
        elif option == "--work" and rest:
            work = rest.pop(0)
        else:
            sys.exit("usage: condor-init.py [--data DIR] [--work DIR] [--no-poweroff]")
    return os.path.abspath(data_dir), os.path.abspath(work), off


def main(argv: "List[str]") -> int:
    data_dir, work, off = options(argv)
    log = Log()
    signal.signal(signal.SIGTERM, terminated)
    guest = Guest(data_dir, work, off, log)
    try:
        with open("/proc/uptime") as stream:
            guest.phases["boot"] = float(stream.read().split()[0])
        log.open(os.path.join(data_dir, GUEST_LOG))
        log(f"condor-init.py under Python {sys.version.split()[0]}, Linux {os.uname()[2]}")
        guest.run()
    except Failure as failure:
        guest.fail(failure.stage, failure.message)
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
        power_off(data_dir)
    return 0 if guest.report["state"] == "exited" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
