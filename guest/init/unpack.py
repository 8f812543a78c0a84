"""Unpacking the sandbox: what an index lists becomes files, folders and links."""

import json
import os
import pwd

from init.contract import INDEX_BYTES_MAX, INPUT_INDEX, INPUT_PACK
from init.files import copy_data, plain_path, to_bytes
from init.report import Failure

MYPY = False
if MYPY:
    from typing import Any, Dict, List


class Unpacker:
    """Makes what an index lists in a new folder, as the job's user's own."""

    def __init__(self, data_dir: str, root: str, login: pwd.struct_passwd) -> None:
        self.data_dir, self.login = data_dir, login
        self.root = os.fsencode(root)
        self.folders: Dict[bytes, Any] = {}
        self.packs: Dict[int, int] = {}
        #: The file that is being written, of which further lines may come.
        self.fd = -1
        self.current: Dict[str, Any] = {}
        self.end = 0
        self.count = 0

    def run(self) -> None:
        path = os.path.join(self.data_dir, INPUT_INDEX)
        try:
            if os.path.getsize(path) > INDEX_BYTES_MAX:
                raise ValueError(f"it is larger than {INDEX_BYTES_MAX} bytes")
            with open(path, "rb") as stream:
                for line in stream:
                    self.count += 1
                    self.line(json.loads(line.decode("ascii")))
            self.end_file()
            for folder, entry in reversed(list(self.folders.items())):
                self.dress(os.path.join(self.root, folder), entry)
        except (OSError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as e:
            message = f"line {self.count} of the input index: {type(e).__name__}: {e}"
            raise Failure("unpack", message) from e
        finally:
            for fd in [*self.packs.values(), self.fd]:
                if fd >= 0:
                    os.close(fd)

    def line(self, line: "Dict[str, Any]") -> None:
        """An entry, or further extents of the file above."""
        if "path" in line:
            self.end_file()
            self.entry(line)
        elif self.fd < 0:
            raise ValueError("it goes on with no file")
        else:
            self.fill(line["extents"])

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
        self.fd, self.current, self.end = os.open(place, flags, 0o600), entry, 0
        self.fill(entry["extents"])

    def fill(self, extents: "List[List[int]]") -> None:
        for offset, length, pack, pack_offset in extents:
            if offset != self.end:
                os.lseek(self.fd, offset, os.SEEK_SET)
            copy_data(self.pack(pack), pack_offset, self.fd, length)
            self.end = offset + length

    def end_file(self) -> None:
        if self.fd < 0:
            return
        if self.end != self.current["size"]:
            os.ftruncate(self.fd, self.current["size"])
        self.dress(self.fd, self.current)
        fd, self.fd = self.fd, -1
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
