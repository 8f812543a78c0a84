"""A FAT12, FAT16 or FAT32 volume inside a raw image, for reading.

Made for what a guest left, where nothing can be trusted: every chain, size and name is
bounded and checked.  Only what is asked for is read: a folder's entries as they are gone
through, and of the FAT the chains that are followed.

Source: Microsoft's FAT specification (fatgen103); Linux's vfat where they differ.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Tuple

from vmcapsule.disk.extents import Extent, Image, read_at
from vmcapsule.disk.fat import names as fat_names
from vmcapsule.disk.fat.boot import Geometry, read_geometry
from vmcapsule.disk.fat.folder import FOLDER_BYTES_MAX, Entry, Names, find_label, parse
from vmcapsule.disk.fat.table import FatTable, Run
from vmcapsule.errors import DiskError
from vmcapsule.named import NamedTuple

PATH_CHARS_MAX = 4096
#: `FatVolume.walk` reads at most so many entries (used or not): 128 MiB of folders.
WALK_SLOTS_MAX = 1 << 22
#: So much of a folder is read at once; all those that a walk is in are in memory.
_PIECE_BYTES = 8192


class FatFile(NamedTuple):
    """A file or folder: where its bytes are in the image, in order (none for a folder)."""

    path: str
    is_folder: bool
    size_bytes: int
    extents: Tuple[Extent, ...]


class FatVolume:
    """An open volume.  What was read of it once is taken to stay, until `forget`.

    Paths are relative to the volume's root, '/'-separated, and compared as vfat does:
    case counts only where two names differ in nothing else.
    """

    def __init__(self, image: Image, geometry: Geometry) -> None:
        self.image = image
        self.geometry = geometry
        self.forget()

    def forget(self) -> None:
        """Read anew what is asked for from now on: it was changed."""
        self.table = FatTable(self.image, self.geometry)
        self._clusters: Dict[str, int] = {}
        self._names: Tuple[int, Names] = (-1, Names(()))

    @classmethod
    def open(cls, image: Image, offset_bytes: int) -> FatVolume:
        """Open the volume at ``offset_bytes`` of an image; the caller keeps that open.

        Raises `DiskError` when there is none or its boot sector is damaged.
        """
        return cls(image, read_geometry(image, offset_bytes))

    # --- properties

    @property
    def bits(self) -> int:
        """12, 16 or 32."""
        return self.geometry.bits

    @property
    def cluster_bytes(self) -> int:
        """The unit in which room is given to files."""
        return self.geometry.cluster_bytes

    @property
    def free_bytes(self) -> int:
        """The room in free clusters, counted in the whole FAT."""
        return sum(length for _, length in self.table.free_runs()) * self.cluster_bytes

    @property
    def label(self) -> str:
        """The volume's label: the root folder's, else the boot sector's, else ""."""
        root = self.folder_bytes(self.geometry.root_cluster, "the root folder")
        return find_label(root) or self.geometry.label

    @property
    def dirty(self) -> bool:
        """Whether the volume was not unmounted since it was last mounted for writing."""
        return self.geometry.marked_dirty or self.table.marked_dirty

    # --- reading

    def lookup(self, path: str) -> Optional[FatFile]:
        """Return the file or folder at ``path``, or None; "" is the root folder."""
        if path == "":
            return FatFile("", True, 0, ())
        entry = self.find(path)
        return self._file(path, entry) if entry is not None else None

    def find(self, path: str) -> Optional[Entry]:
        """Return the entry of the file or folder at ``path``, if there is one."""
        above, _, name = path.rpartition("/")
        cluster = self.folder_cluster(above)
        return None if cluster is None else self.names(cluster, above).find(name)

    def folder_cluster(self, path: str) -> Optional[int]:
        """Return the first cluster of a folder, or None where there is none of that path."""
        cluster = self.geometry.root_cluster
        done = ""
        for part in path.split("/") if path else ():
            above, done = done, f"{done}/{part}" if done else part
            if done not in self._clusters:
                entry = self.names(cluster, above).find(part)
                if entry is None or not entry.is_folder:
                    return None
                self._clusters[done] = entry.first_cluster
            cluster = self._clusters[done]
        return cluster

    def names(self, cluster: int, path: str) -> Names:
        """Return what is in a folder by name.  The folder asked for last is kept at hand."""
        if self._names[0] != cluster:
            entries = self.entries(self.folder_extents(cluster, f"the folder '{path}'"))
            self._names = (cluster, Names(entries))
        return self._names[1]

    def entries(self, extents: Tuple[Extent, ...]) -> Iterator[Entry]:
        """Yield the files and folders in the folder that is there, in their order."""
        return parse(self._pieces(extents), self.bits)

    def _pieces(self, extents: Tuple[Extent, ...]) -> Iterator[bytes]:
        for extent in extents:
            for at in range(0, extent.length_bytes, _PIECE_BYTES):
                length = min(_PIECE_BYTES, extent.length_bytes - at)
                yield read_at(self.image, extent.offset_bytes + at, length)

    def walk(self) -> Iterator[FatFile]:
        """Yield all files and folders, a folder before what is in it, in disk order.

        Raises `DiskError` where the tree is damaged: a folder that is met twice, clusters
        that belong to more than one file, paths or folders beyond any that vfat can have.
        """
        root = self.folder_extents(self.geometry.root_cluster, "the root folder")
        seen = {self.geometry.root_cluster}
        slots = _slots(root)
        clusters = 0
        pending = [("", self.entries(root))]
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
            if clusters > self.geometry.cluster_count:
                raise DiskError(f"'{path}' shares clusters with other files")
            yield file
            if entry.is_folder:
                if entry.first_cluster in seen:
                    raise DiskError(f"the folder '{path}' is in the tree twice")
                seen.add(entry.first_cluster)
                extents = self.folder_extents(entry.first_cluster, f"the folder '{path}'")
                slots += _slots(extents)
                if slots > WALK_SLOTS_MAX:
                    raise DiskError(f"more than {WALK_SLOTS_MAX} folder entries")
                pending.append((path + "/", self.entries(extents)))

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
        pieces = (read_at(self.image, e.offset_bytes, e.length_bytes) for e in file.extents)
        return b"".join(pieces)

    def _file(self, path: str, entry: Entry) -> FatFile:
        if entry.is_folder:
            return FatFile(path, True, 0, ())
        runs = self.file_runs(path, entry)
        return FatFile(path, False, entry.size_bytes, self.extents(runs, entry.size_bytes))

    def file_runs(self, path: str, entry: Entry) -> List[Run]:
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
            runs, ended = self.table.runs(entry.first_cluster, count, what)
        have = sum(length for _, length in runs)
        if have < count or not (ended or self.dirty):
            more = f"{have}" if have < count else f"more than {have}"
            raise DiskError(
                f"{what} is damaged: {more} clusters for a size of {entry.size_bytes} bytes"
            )
        return runs

    def extents(self, runs: List[Run], size_bytes: int) -> Tuple[Extent, ...]:
        """Return where ``size_bytes`` in these clusters lie in the image."""
        extents = []
        left = size_bytes
        for first, count in runs:
            length = min(left, count * self.cluster_bytes)
            extents.append(Extent(self.geometry.cluster_offset(first), length))
            left -= length
        return tuple(extents)

    # --- folders

    def folder_bytes(self, cluster: int, what: str) -> bytes:
        """Return all of a folder."""
        extents = self.folder_extents(cluster, what)
        return b"".join(read_at(self.image, e.offset_bytes, e.length_bytes) for e in extents)

    def folder_extents(self, cluster: int, what: str) -> Tuple[Extent, ...]:
        """Return where a folder lies; `DiskError` naming ``what`` where it is damaged."""
        geometry = self.geometry
        if cluster == geometry.root_cluster == 0:
            return (Extent(geometry.root_offset, geometry.root_bytes),)
        runs = self.folder_runs(cluster, what)
        count = sum(length for _, length in runs)
        return self.extents(runs, count * self.cluster_bytes)

    def folder_runs(self, cluster: int, what: str) -> List[Run]:
        """Return the clusters of a folder that is not the root of FAT12 and FAT16."""
        limit = max(1, FOLDER_BYTES_MAX // self.cluster_bytes)
        runs, ended = self.table.runs(cluster, limit, what)
        if not runs or not ended:
            raise DiskError(f"{what} is damaged: its clusters do not end")
        return runs


def _slots(extents: Tuple[Extent, ...]) -> int:
    return sum(extent.length_bytes for extent in extents) // fat_names.SLOT_BYTES
