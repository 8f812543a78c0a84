"""A folder that gets new entries: what is in it, what comes into it, and its bytes then."""

from __future__ import annotations

from array import array
from typing import Callable, Dict, ItemsView, List, Optional, Sequence, Tuple

from vmcapsule.disk.extents import Extent, read_at
from vmcapsule.disk.fat import names as fat_names
from vmcapsule.disk.fat.folder import (
    ATTR_ARCHIVE,
    ATTR_FOLDER,
    DELETED,
    FOLDER_BYTES_MAX,
    Entry,
    Names,
    Stamp,
    dot_entries,
    pack_entry,
    parse,
    put_content,
    squeezed,
)
from vmcapsule.disk.fat.names import SLOT_BYTES
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import DiskError


class NewFolder:
    """One folder of a tree that is being laid out.

    ``path`` is "" for the root, ``files`` has the numbers of the files that come into it.
    A folder that is on the disk has ``extents``, and ``cluster`` is its first; a new one
    lies in the folder ``above``.
    """

    __slots__ = (
        "_data",
        "_kept",
        "_names",
        "above",
        "cluster",
        "extents",
        "files",
        "folders",
        "path",
    )

    def __init__(self, path: str, above: Optional[NewFolder]) -> None:
        self.path = path
        self.above = above
        self.cluster = 0
        self.files = array("I")
        self.folders: List[NewFolder] = []
        self.extents: Tuple[Extent, ...] = ()
        self._data = b""
        self._names: Optional[Names] = None
        self._kept: Dict[int, Entry] = {}

    @property
    def name(self) -> str:
        """Its name in the folder above."""
        return self.path.rpartition("/")[2]

    def load(self, volume: FatVolume, cluster: int, removed: Sequence[Entry]) -> None:
        """Begin with what it has on the disk, without some of its entries."""
        self.cluster = cluster
        self.extents = volume.folder_extents(cluster, f"the folder '{self.path}'")
        data = b"".join(
            read_at(volume.image, e.offset_bytes, e.length_bytes) for e in self.extents
        )
        left = bytearray(data)
        for entry in removed:
            for slot in range(entry.slot - entry.slots + 1, entry.slot + 1):
                left[slot * SLOT_BYTES] = DELETED
        # What was deleted goes for good, so that there is room behind all that is kept.
        self._data = squeezed(left)
        self._names = Names(parse((self._data,), volume.bits))

    def find(self, name: str) -> Optional[Entry]:
        """Return the entry of that name which is there already and stays."""
        return self._names.find(name) if self._names else None

    def replaced(self) -> ItemsView[int, Entry]:
        """The entries of files that get other contents, by the numbers of the new ones."""
        return self._kept.items()

    def settle(self, paths: Sequence[str]) -> int:
        """Check every name that comes into it; return how many bytes it will have.

        Raises `DiskError` for names that vfat cannot hold or tell apart, and where a
        folder has a file's name.
        """
        slots = 2 if self.above else len(self._data) // SLOT_BYTES
        seen = {fat_names.fold(folder.name) for folder in self.folders}
        slots += sum(fat_names.slots_for(folder.name) for folder in self.folders)
        added = array("I")
        for number in self.files:
            name = _name(paths[number])
            entry = self.find(name)
            if entry is None:
                fat_names.check_name(name)
                slots += fat_names.slots_for(name)
                added.append(number)
            elif entry.is_folder:
                raise DiskError(f"cannot create '{paths[number]}': a folder has that name")
            else:
                self._kept[number] = entry
            key = fat_names.fold(entry.name if entry else name)
            if key in seen:
                raise DiskError(f"vfat cannot tell '{paths[number]}' from another name")
            seen.add(key)
        self.files = added
        if slots * SLOT_BYTES > FOLDER_BYTES_MAX:
            raise DiskError(f"the folder '{self.path}' is full: vfat allows 65,536 entries")
        return slots * SLOT_BYTES

    def built(
        self,
        paths: Sequence[str],
        content: Callable[[int], Tuple[int, int]],
        stamp: Stamp,
    ) -> bytes:
        """Return its bytes, when it is known where every file and folder begins.

        ``content`` tells a file's first cluster (0: none) and its size in bytes.
        """
        data = bytearray(self._data)
        if self.above:
            # The root counts as cluster 0, wherever FAT32 has it.
            above = self.above.cluster if self.above.path else 0
            data += dot_entries(self.cluster, above, stamp)
        for number, entry in self._kept.items():
            put_content(data, entry.slot, *content(number), stamp)
        shorts = fat_names.ShortNames(set(self._names.shorts()) if self._names else set())
        for folder in self.folders:
            shorts.reserve(folder.name)
        for number in self.files:
            shorts.reserve(_name(paths[number]))
        for folder in self.folders:
            short = shorts.make(folder.name)
            data += _long(folder.name, short)
            data += pack_entry(short, ATTR_FOLDER, folder.cluster, 0, stamp)
        for number in self.files:
            name = _name(paths[number])
            short = shorts.make(name)
            data += _long(name, short)
            data += pack_entry(short, ATTR_ARCHIVE, *content(number), stamp)
        return bytes(data)


def _long(name: str, short: bytes) -> bytes:
    """The slots of the long name, where there has to be one."""
    return b"" if fat_names.is_short(name) else fat_names.long_slots(name, short)


def _name(path: str) -> str:
    return path.rpartition("/")[2]
