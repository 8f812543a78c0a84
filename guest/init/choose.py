"""Choosing the outputs: as HTCondor's file transfer would."""

import errno
import os
import pwd
import stat

from init.contract import MTIME_NS_MAX
from init.files import to_bytes, to_text

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional, Set, Tuple

    from init.record import Job
    from init.report import Log

#: What HTCondor never sends back (ALWAYS_EXCLUDED_FILES, CHIRP_CONFIG_FILENAME and
#: SANDBOX_STARTER_LOG_FILENAME in the starter's jic_shadow.cpp and starter.h).
STARTER_FILES = frozenset(
    b".job.ad .machine.ad .execution_overlay.ad .update.ad .update.ad.tmp .chirp.config "
    b".docker_sock .docker_stdout .docker_stderror .condor_container_launched "
    b".starter.log .starter.log.old".split()
)


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


def deep_catalogue(root: bytes) -> "Dict[bytes, Tuple[int, ...]]":
    """What lies below a folder at any depth, by path, with what tells that it was changed."""
    found: Dict[bytes, Tuple[int, ...]] = {}
    pending = [b""]
    while pending:
        folder = pending.pop()
        for name in os.listdir(os.path.join(root, folder)):
            path = os.path.join(folder, name)
            status = os.lstat(os.path.join(root, path))
            if stat.S_ISDIR(status.st_mode):
                found[path] = (status.st_mode,)
                pending.append(path)
            else:
                changed = (status.st_size, status.st_mtime_ns, status.st_ino)
                found[path] = (status.st_mode, *changed)
    return found


def may_read(status: os.stat_result, login: pwd.struct_passwd) -> bool:
    """Whether a login may read a file that it can reach."""
    if status.st_uid == login.pw_uid:
        return bool(status.st_mode & stat.S_IRUSR)
    if status.st_gid in os.getgrouplist(login.pw_name, login.pw_gid):
        return bool(status.st_mode & stat.S_IRGRP)
    return bool(status.st_mode & stat.S_IROTH)


class Outputs:
    """The entries of the output index, by path; folders before what is in them."""

    def __init__(self, root: bytes, login: pwd.struct_passwd, log: "Log") -> None:
        self.root, self.login, self.log = root, login, log
        self.entries: Dict[bytes, Dict[str, Any]] = {}
        self.missing: List[str] = []
        self.unsent: Dict[str, int] = {}
        self.gone: List[bytes] = []

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

    def add_all_changed(self, before: "Dict[bytes, Any]") -> None:
        """Add whatever is new or changed at any depth, and note what is gone."""
        after = deep_catalogue(self.root)
        for path in sorted(path for path, mark in after.items() if before.get(path) != mark):
            parts = path.split(b"/")
            if parts[0] in STARTER_FILES:
                continue
            for above in (b"/".join(parts[:count]) for count in range(1, len(parts))):
                if above not in self.entries:
                    self.add(above, folder=True)
            self.add(path)
        # What was in a folder that is gone need not be told.
        gone = {path for path in before if path not in after}
        self.gone = sorted(path for path in gone if path.rpartition(b"/")[0] not in gone)

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
