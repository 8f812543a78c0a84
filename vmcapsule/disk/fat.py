"""A FAT12, FAT16 or FAT32 volume inside a raw image: read it, and add files in bulk.

Written for two uses.  Adding a job's files to a fresh data disk: `FatVolume.create`
allocates a file in as few pieces as possible and tells where they lie, and the caller has
the kernel copy the data there (`extents.copy_range`).  Reading what a guest left, where
nothing can be trusted: every chain, size and name is bounded and checked.

Source: Microsoft's FAT specification (fatgen103); Linux's vfat where they differ.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Tuple

from vmcapsule.disk import fat_names
from vmcapsule.disk.extents import Extent, read_at, write_at
from vmcapsule.disk.fat_boot import Geometry, read_geometry
from vmcapsule.disk.fat_folder import (
    ATTR_ARCHIVE,
    ATTR_FOLDER,
    FOLDER_BYTES_MAX,
    Entry,
    Folder,
    Stamp,
    dot_entries,
    find_label,
)
from vmcapsule.disk.fat_table import FatTable, Run
from vmcapsule.errors import DiskError, SpaceError

FILE_BYTES_MAX = (4 << 30) - 1
PATH_CHARS_MAX = 4096
#: `FatVolume.walk` reads at most so many entries (used or not): 128 MiB of folders.
WALK_SLOTS_MAX = 1 << 22

_INFO_SIGNATURES = ((0, 0x41615252), (484, 0x61417272), (508, 0xAA550000))
_INFO_COUNTS_AT = 488


@dataclass(frozen=True)
class FatFile:
    """A file or folder: where its bytes are in the image, in order (none for a folder)."""

    path: str
    is_folder: bool
    size_bytes: int
    extents: Tuple[Extent, ...]


class FatVolume:
    """An open volume.  What is changed reaches the image with `flush`.

    Paths are relative to the volume's root, '/'-separated, and compared as vfat does:
    case counts only where two names differ in nothing else.
    """

    def __init__(self, fd: int, geometry: Geometry, *, writable: bool) -> None:
        self._fd = fd
        self._geometry = geometry
        self._writable = writable
        self._table = FatTable(fd, geometry)
        self._folders: Dict[int, Folder] = {}
        self._stamp = Stamp.at(tuple(time.gmtime()))
        self._changed = False

    @classmethod
    def open(cls, fd: int, offset_bytes: int, *, writable: bool = False) -> FatVolume:
        """Open the volume at ``offset_bytes`` of an image; the caller keeps ``fd`` open.

        Raises `DiskError` when there is none or its boot sector is damaged.
        """
        return cls(fd, read_geometry(fd, offset_bytes), writable=writable)

    # --- properties

    @property
    def bits(self) -> int:
        """12, 16 or 32."""
        return self._geometry.bits

    @property
    def cluster_bytes(self) -> int:
        """The unit in which room is given to files."""
        return self._geometry.cluster_bytes

    @property
    def free_bytes(self) -> int:
        """The room in free clusters, counted in the FAT."""
        return self._table.free_count * self.cluster_bytes

    @property
    def label(self) -> str:
        """The volume's label: the root folder's, else the boot sector's, else ""."""
        return find_label(bytes(self._root().data)) or self._geometry.label

    @property
    def dirty(self) -> bool:
        """Whether the volume was not unmounted since it was last mounted for writing."""
        return self._geometry.marked_dirty or self._table.marked_dirty

    # --- reading

    def lookup(self, path: str) -> Optional[FatFile]:
        """Return the file or folder at ``path``, or None; "" is the root folder."""
        if path == "":
            return FatFile("", True, 0, ())
        *parents, name = path.split("/")
        folder = self._find_folder(parents)
        entry = folder.find(name) if folder is not None else None
        return self._file(path, entry) if entry is not None else None

    def walk(self) -> Iterator[FatFile]:
        """Yield all files and folders, a folder before what is in it, in disk order.

        Raises `DiskError` where the tree is damaged: a folder that is met twice, clusters
        that belong to more than one file, paths or folders beyond any that vfat can have.
        """
        root = self._root()
        seen = {root.first_cluster}
        slots = len(root.data) // fat_names.SLOT_BYTES
        clusters = 0
        pending = [("", root.entries())]
        while pending:
            prefix, entries = pending[-1]
            entry = next(entries, None)
            if entry is None:
                pending.pop()
                continue
            path = prefix + entry.name
            if len(path) > PATH_CHARS_MAX:
                raise DiskError(f"the path '{path[:80]}...' is too long for vfat")
            file = self._file(path, entry)
            clusters += -(-file.size_bytes // self.cluster_bytes)
            if clusters > self._geometry.cluster_count:
                raise DiskError(f"'{path}' shares clusters with other files")
            yield file
            if entry.is_folder:
                if entry.first_cluster in seen:
                    raise DiskError(f"the folder '{path}' is in the tree twice")
                seen.add(entry.first_cluster)
                folder = self._peek_folder(entry.first_cluster, path)
                slots += len(folder.data) // fat_names.SLOT_BYTES
                if slots > WALK_SLOTS_MAX:
                    raise DiskError(f"more than {WALK_SLOTS_MAX} folder entries")
                pending.append((path + "/", folder.entries()))

    def read(self, path: str, limit_bytes: int) -> bytes:
        """Return a whole file; `DiskError` when it is absent or over ``limit_bytes``."""
        file = self.lookup(path)
        if file is None:
            raise DiskError(f"there is no '{path}' on the data disk")
        if file.is_folder:
            raise DiskError(f"'{path}' on the data disk is a folder, not a file")
        if file.size_bytes > limit_bytes:
            raise DiskError(
                f"'{path}' on the data disk has {file.size_bytes} bytes, "
                f"more than the {limit_bytes} that it may have"
            )
        pieces = (read_at(self._fd, e.offset_bytes, e.length_bytes) for e in file.extents)
        return b"".join(pieces)

    def _file(self, path: str, entry: Entry) -> FatFile:
        if entry.is_folder:
            return FatFile(path, True, 0, ())
        runs = self._file_runs(path, entry)
        return FatFile(path, False, entry.size_bytes, self._extents(runs, entry.size_bytes))

    def _file_runs(self, path: str, entry: Entry) -> List[Run]:
        """Return the clusters that hold a file's size; `DiskError` where they do not.

        More clusters than needed are what an unfinished write leaves: Linux reads such a
        file, and so do we, but only on a volume that says it was not unmounted.
        """
        count = -(-entry.size_bytes // self.cluster_bytes)
        what = f"the file '{path}'"
        runs: List[Run] = []
        if count == 0:
            ended = entry.first_cluster == 0
        else:
            runs, ended = self._table.runs(entry.first_cluster, count, what)
        have = sum(length for _, length in runs)
        if have < count or not (ended or self.dirty):
            more = f"{have}" if have < count else f"more than {have}"
            raise DiskError(
                f"{what} is damaged: {more} clusters for a size of {entry.size_bytes} bytes"
            )
        return runs

    def _extents(self, runs: List[Run], size_bytes: int) -> Tuple[Extent, ...]:
        extents = []
        left = size_bytes
        for first, count in runs:
            length = min(left, count * self.cluster_bytes)
            extents.append(Extent(self._geometry.cluster_offset(first), length))
            left -= length
        return tuple(extents)

    # --- folders

    def _root(self) -> Folder:
        return self._load_folder(self._geometry.root_cluster, "the root folder")

    def _find_folder(self, parts: List[str]) -> Optional[Folder]:
        folder = self._root()
        for part in parts:
            entry = folder.find(part)
            if entry is None or not entry.is_folder:
                return None
            folder = self._load_folder(entry.first_cluster, f"the folder '{part}'")
        return folder

    def _load_folder(self, cluster: int, what: str) -> Folder:
        if cluster not in self._folders:
            self._folders[cluster] = self._peek_folder(cluster, what)
        return self._folders[cluster]

    def _peek_folder(self, cluster: int, what: str) -> Folder:
        """Return a folder as it is now, without keeping it in memory."""
        if cluster in self._folders:
            return self._folders[cluster]
        extents = self._folder_extents(cluster, what)
        data = b"".join(read_at(self._fd, e.offset_bytes, e.length_bytes) for e in extents)
        return Folder(cluster, data, self.bits)

    def _folder_extents(self, cluster: int, what: str) -> Tuple[Extent, ...]:
        geometry = self._geometry
        if cluster == geometry.root_cluster == 0:
            return (Extent(geometry.root_offset, geometry.root_bytes),)
        runs = self._folder_runs(cluster, what)
        count = sum(length for _, length in runs)
        return self._extents(runs, count * self.cluster_bytes)

    def _folder_runs(self, cluster: int, what: str) -> List[Run]:
        limit = max(1, FOLDER_BYTES_MAX // self.cluster_bytes)
        runs, ended = self._table.runs(cluster, limit, what)
        if not runs or not ended:
            raise DiskError(f"{what} is damaged: its clusters do not end")
        return runs

    # --- writing

    def make_folder(self, path: str) -> None:
        """Make a folder, and those above it; one that is there already is kept."""
        self._check_writable()
        parent = self._root()
        for part in path.split("/"):
            entry = parent.find(part)
            if entry is None:
                parent = self._add_folder(parent, part)
            elif entry.is_folder:
                parent = self._load_folder(entry.first_cluster, f"the folder '{part}'")
            else:
                raise DiskError(f"cannot make the folder '{path}': '{part}' is a file")

    def create(self, path: str, size_bytes: int) -> Tuple[Extent, ...]:
        """Make a file of ``size_bytes`` and return where the caller has to put its bytes.

        Its folder must exist.  A file of that name (as vfat compares names) is replaced.
        What the caller does not write holds whatever was there before.  Raises
        `SpaceError` when there is too little room, and changes nothing then; `DiskError`
        for a name or size that vfat cannot have.
        """
        self._check_writable()
        if not 0 <= size_bytes <= FILE_BYTES_MAX:
            raise DiskError(f"'{path}' cannot have {size_bytes} bytes: vfat ends at 4 GiB - 1")
        *parents, name = path.split("/")
        folder = self._find_folder(parents)
        if folder is None:
            raise DiskError(f"cannot create '{path}': its folder does not exist")
        count = -(-size_bytes // self.cluster_bytes)
        old = folder.find(name)
        if old is None:
            fat_names.check_name(name)
            self._make_room(folder, name, count, path)
        elif old.is_folder:
            raise DiskError(f"cannot create '{path}': a folder has that name")
        else:
            old_runs = self._file_runs(path, old)
            self._check_free(count - sum(length for _, length in old_runs), path)
            self._table.release(old_runs)
        runs = self._table.allocate(count)
        first = runs[0][0] if runs else 0
        if old is None:
            folder.add(name, ATTR_ARCHIVE, first, size_bytes, self._stamp)
        else:
            folder.update(old, first, size_bytes, self._stamp)
        self._changed = True
        return self._extents(runs, size_bytes)

    def write(self, path: str, data: bytes) -> None:
        """Make a file that holds ``data`` (see `create`)."""
        view = memoryview(data)
        for extent in self.create(path, len(data)):
            write_at(self._fd, extent.offset_bytes, view[: extent.length_bytes])
            view = view[extent.length_bytes :]

    def remove(self, path: str) -> None:
        """Remove a file or an empty folder; `DiskError` when it is absent or not empty."""
        self._check_writable()
        *parents, name = path.split("/")
        folder = self._find_folder(parents)
        entry = folder.find(name) if folder is not None else None
        if folder is None or entry is None:
            raise DiskError(f"there is no '{path}' on the data disk")
        if entry.is_folder:
            inner = self._load_folder(entry.first_cluster, f"the folder '{path}'")
            if next(inner.entries(), None) is not None:
                raise DiskError(f"the folder '{path}' is not empty")
            runs = self._folder_runs(entry.first_cluster, f"the folder '{path}'")
            del self._folders[entry.first_cluster]
        else:
            runs = self._file_runs(path, entry)
        folder.remove(entry)
        self._table.release(runs)
        self._changed = True

    def flush(self) -> None:
        """Write what was changed: the FAT's copies, folders, FAT32's free-cluster count."""
        if not self._changed:
            return
        self._table.flush()
        for cluster, folder in self._folders.items():
            if folder.changed:
                at = 0
                for extent in self._folder_extents(cluster, "a folder"):
                    part = folder.data[at : at + extent.length_bytes]
                    write_at(self._fd, extent.offset_bytes, part)
                    at += extent.length_bytes
                folder.changed = False
        self._write_info()
        self._changed = False

    def _write_info(self) -> None:
        at = self._geometry.info_offset
        if at == 0:
            return
        sector = read_at(self._fd, at, 512)
        if any(struct.unpack_from("<I", sector, o)[0] != s for o, s in _INFO_SIGNATURES):
            return  # optional by the specification: what is not an FSInfo sector is let be
        counts = struct.pack("<II", self._table.free_count, self._table.next_free)
        write_at(self._fd, at + _INFO_COUNTS_AT, counts)

    def _add_folder(self, parent: Folder, name: str) -> Folder:
        fat_names.check_name(name)
        self._make_room(parent, name, 1, name)
        [(cluster, _)] = self._table.allocate(1)
        is_top = parent.first_cluster == self._geometry.root_cluster
        above = 0 if is_top else parent.first_cluster
        data = dot_entries(cluster, above, self._stamp).ljust(self.cluster_bytes, b"\0")
        folder = Folder(cluster, data, self.bits, changed=True)
        self._folders[cluster] = folder
        parent.add(name, ATTR_FOLDER, cluster, 0, self._stamp)
        self._changed = True
        return folder

    def _make_room(self, folder: Folder, name: str, count: int, path: str) -> None:
        """See that there are ``count`` free clusters and room for a name in ``folder``."""
        missing = folder.slots_missing(name)
        if missing == 0:
            self._check_free(count, path)
            return
        if folder.first_cluster == 0:
            raise SpaceError(
                f"no room for '{path}': the root folder of the data disk is full",
                "format it as FAT32, or with more root entries (mkfs.vfat -r)",
            )
        more = -(-missing * fat_names.SLOT_BYTES // self.cluster_bytes)
        self._check_free(count + more, path)
        runs = self._folder_runs(folder.first_cluster, "a folder")
        last = runs[-1][0] + runs[-1][1] - 1
        folder.grow(more * self.cluster_bytes)
        for _ in range(more):
            last = self._table.append(last)
        self._changed = True

    def _check_free(self, count: int, path: str) -> None:
        if count > self._table.free_count:
            raise SpaceError(
                f"no room for '{path}' on the data disk: it needs "
                f"{count * self.cluster_bytes} bytes, {self.free_bytes} are free",
                "make the template's data disk larger",
            )

    def _check_writable(self) -> None:
        if not self._writable:
            raise DiskError("the FAT volume was opened for reading only")
