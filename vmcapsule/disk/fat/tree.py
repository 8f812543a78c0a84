"""Files put into a FAT volume in bulk: the whole tree is laid out, then written once.

`lay_out` gives every new file and folder its name and its clusters, in as few pieces as
there can be, and writes nothing.  The caller has the kernel move the files' data to where
`Layout.places` says (`extents.copy_to`); `Layout.write` then writes the folders and the
copies of the FAT.  100,000 files take less than 64 MiB of memory, on a disk of any size.

The volume that a tree is laid out on is only read: it can be one that a new disk is to have,
to which everything is then written.

Source: Microsoft's FAT specification (fatgen103).
"""

from __future__ import annotations

import struct
import time
from array import array
from itertools import count
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from vmcapsule.disk.extents import Extent, Image, read_at, write_at, write_extents
from vmcapsule.disk.fat import names as fat_names
from vmcapsule.disk.fat.chains import Chains, choose
from vmcapsule.disk.fat.folder import Entry, Stamp
from vmcapsule.disk.fat.new_folder import NewFolder
from vmcapsule.disk.fat.table import FatEditor, Run, entries_of
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import DiskError, SpaceError

FILE_BYTES_MAX = (4 << 30) - 1

_INFO_SIGNATURES = ((0, 0x41615252), (484, 0x61417272), (508, 0xAA550000))
_INFO_BYTES = 512
_INFO_COUNTS_AT = 488
_UNKNOWN = 0xFFFFFFFF


def lay_out(
    volume: FatVolume,
    files: Mapping[str, int],
    *,
    folders: Iterable[str] = (),
    remove: Iterable[str] = (),
) -> Layout:
    """Find names and room on ``volume`` for ``files``: their sizes in bytes, by path.

    The folders that they lie in are made, and ``folders``.  A file that is there under the
    same name, as vfat compares names, gets the new content; files in ``remove`` go.  Raises
    `SpaceError` when there is too little room, `DiskError` for a name or size that vfat
    cannot have.  What the caller does not write of a file holds whatever was there before.
    """
    paths = list(files)
    for path, size_bytes in files.items():
        if not 0 <= size_bytes <= FILE_BYTES_MAX:
            raise DiskError(f"'{path}' cannot have {size_bytes} bytes: vfat ends at 4 GiB - 1")
    tree = _Tree(volume, remove)
    for number, path in enumerate(paths):
        if path.startswith("/"):
            raise DiskError(f"'{path}' is not relative to the volume's root")
        tree.folder(_above(path)).files.append(number)
    for path in folders:
        tree.folder(path)
    return Layout(volume, paths, array("I", files.values()), tree)


class Layout:
    """A tree that has its place on a volume and is not written yet; `lay_out` makes it."""

    def __init__(
        self, volume: FatVolume, paths: List[str], sizes: array[int], tree: _Tree
    ) -> None:
        self._volume = volume
        self._paths = paths
        self._sizes = sizes
        self._folders = tree.folders
        growth = [_growth(volume, folder, folder.settle(paths)) for folder in self._folders]
        for folder in self._folders:
            for number, entry in folder.replaced():
                tree.released += volume.file_runs(paths[number], entry)
        self._released = tree.released
        needs = array("I", growth)
        needs.extend(-(-size // volume.cluster_bytes) for size in sizes)
        self._taken = sum(needs)
        runs, have = choose(volume.table.free_runs(self._released, self._taken), self._taken)
        if have < self._taken:
            raise _no_room(volume, self._taken, have)
        self._runs = runs
        self._chains = Chains(needs, runs)
        self._last = runs[-1][0] + runs[-1][1] - 1 if runs else 0
        for number, folder in enumerate(self._folders):
            folder.cluster = folder.cluster or self._chains.first(number)

    def places(self) -> Iterator[Tuple[str, Tuple[Extent, ...]]]:
        """Yield each file, in the order given, and where its bytes belong in the image."""
        runs = map(self._chains.runs, count(len(self._folders)))
        for path, size_bytes, chain in zip(self._paths, self._sizes, runs):
            yield path, self._volume.extents(chain, size_bytes)

    def extents(self) -> Iterator[Extent]:
        """Yield where everything is that is written: the files, and all that `write` writes."""
        volume, info = self._volume, self._volume.geometry.info_offset
        yield from volume.extents(self._runs, self._taken * volume.cluster_bytes)
        for folder in self._folders:
            yield from folder.extents
        grown = [
            (self._last_of(folder), 1)
            for number, folder in enumerate(self._folders)
            if folder.extents and self._chains.first(number)
        ]
        yield from entries_of(volume.geometry, [*self._runs, *self._released, *grown])
        if info:
            yield Extent(info, _INFO_BYTES)

    def write(self, image: Optional[Image] = None) -> None:
        """Write the folders, the copies of the FAT, and FAT32's count of free clusters.

        They are written to ``image``, which has all that the volume has, or else to where
        the volume is.
        """
        volume = self._volume
        image = volume.image if image is None else image
        editor = FatEditor(image, volume.geometry)
        stamp = Stamp.at(tuple(time.gmtime()))
        for number, folder in enumerate(self._folders):
            new = self._chains.runs(number)
            if folder.extents and new:
                editor.link(self._last_of(folder), 1, new[0][0])
            data = folder.built(self._paths, self._content, stamp)
            more = sum(length for _, length in new) * volume.cluster_bytes
            extents = (*folder.extents, *volume.extents(new, more))
            room = sum(extent.length_bytes for extent in extents)
            write_extents(image, extents, data.ljust(room, b"\0"))
        for first, length in self._released:
            editor.release(first, length)
        self._chains.link(editor)
        editor.flush()
        self._write_info(image)
        volume.forget()

    def _last_of(self, folder: NewFolder) -> int:
        """The last cluster that a folder has on the volume."""
        first, length = self._volume.folder_runs(folder.cluster, "a folder")[-1]
        return first + length - 1

    def _content(self, number: int) -> Tuple[int, int]:
        """The first cluster and the size of a file."""
        return self._chains.first(len(self._folders) + number), self._sizes[number]

    def _write_info(self, image: Image) -> None:
        """Bring FSInfo's count up to date; one that was not known stays so."""
        volume, at = self._volume, self._volume.geometry.info_offset
        if at == 0:
            return
        sector = read_at(image, at, _INFO_BYTES)
        if any(struct.unpack_from("<I", sector, o)[0] != s for o, s in _INFO_SIGNATURES):
            return  # optional by the specification: what is not an FSInfo sector is let be
        free, last = struct.unpack_from("<II", sector, _INFO_COUNTS_AT)
        free += sum(length for _, length in self._released) - self._taken
        if not 0 <= free <= volume.geometry.cluster_count:
            free = _UNKNOWN
        counts = struct.pack("<II", free, self._last or last)
        write_at(image, at + _INFO_COUNTS_AT, counts)


def _growth(volume: FatVolume, folder: NewFolder, size_bytes: int) -> int:
    """How many clusters a folder needs beside those it has."""
    have = sum(extent.length_bytes for extent in folder.extents)
    if size_bytes > have and folder.extents and folder.cluster == 0:
        raise SpaceError(
            f"no room for {size_bytes // fat_names.SLOT_BYTES} entries: the root folder of the "
            "data disk is full",
            "format it as FAT32, or with more root entries (mkfs.vfat -r)",
        )
    return -(-max(size_bytes - have, 0) // volume.cluster_bytes)


def _no_room(volume: FatVolume, need: int, have: int) -> SpaceError:
    cluster_bytes = volume.cluster_bytes
    return SpaceError(
        f"no room on the data disk: the files need {need * cluster_bytes} bytes, "
        f"{have * cluster_bytes} are free",
        "make the template's data disk larger",
    )


class _Tree:
    """The folders that change, each after the one it is in, and what becomes free."""

    def __init__(self, volume: FatVolume, remove: Iterable[str]) -> None:
        self.folders: List[NewFolder] = []
        self.released: List[Run] = []
        self._volume = volume
        self._by_path: Dict[str, NewFolder] = {}
        self._by_cluster: Dict[int, NewFolder] = {}
        self._removed: Dict[int, List[Entry]] = {}
        removed = list(remove)
        for path in removed:
            self._remove(path)
        for path in removed:
            self.folder(_above(path))

    def _remove(self, path: str) -> None:
        cluster = self._volume.folder_cluster(_above(path))
        entry = self._volume.find(path)
        if cluster is None or entry is None or entry.is_folder:
            raise DiskError(f"there is no file '{path}' on the data disk")
        entries = self._removed.setdefault(cluster, [])
        if entry not in entries:
            entries.append(entry)
            self.released += self._volume.file_runs(path, entry)

    def folder(self, path: str) -> NewFolder:
        """Return a folder of the tree, which is loaded or made with those above it."""
        if path not in self._by_path:
            missing = [path]
            while missing[-1] and _above(missing[-1]) not in self._by_path:
                missing.append(_above(missing[-1]))
            for each in reversed(missing):
                self._enter(each)
        return self._by_path[path]

    def _enter(self, path: str) -> None:
        """Find a folder, under this spelling or another, or make it."""
        folded = fat_names.fold(path)
        folder = self._by_path.get(folded) or self._loaded(path) or self._made(path)
        self._by_path[path] = self._by_path[folded] = folder

    def _loaded(self, path: str) -> Optional[NewFolder]:
        """The folder as it is on the disk, if it is there."""
        cluster = self._volume.geometry.root_cluster
        if path:
            entry = self._by_path[_above(path)].find(_name(path))
            if entry is None:
                return None
            if not entry.is_folder:
                raise DiskError(f"cannot make the folder '{path}': a file has that name")
            cluster = entry.first_cluster
        if cluster not in self._by_cluster:
            folder = NewFolder(path, None)
            folder.load(self._volume, cluster, self._removed.get(cluster, ()))
            self.folders.append(folder)
            self._by_cluster[cluster] = folder
        return self._by_cluster[cluster]

    def _made(self, path: str) -> NewFolder:
        fat_names.check_name(_name(path))
        above = self._by_path[_above(path)]
        folder = NewFolder(path, above)
        above.folders.append(folder)
        self.folders.append(folder)
        return folder


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]
