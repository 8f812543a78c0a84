"""What a disk may hold after a power cut, by what a piece of work asks of the system.

What is asked is recorded, and after each call all that may be found on the disk then is
looked at.  Data that was not flushed is gone; names that were not flushed are as they were
or as they are, below each folder of the top for itself.
"""

from __future__ import annotations

import os
import shutil
import stat
from itertools import product
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Union
from unittest import mock

from vmcapsule import atomic

#: What is found after a power cut, by path: a file's bytes, a link's target.
Found = Mapping[str, Union[bytes, str]]


class Node:
    """A file or folder: how it is, and how it is on the disk."""

    def __init__(self, real: Optional[Path] = None) -> None:
        self.target: Optional[str] = None
        self.names: Optional[dict[str, Node]] = None
        self.names_on_disk: dict[str, Node] = {}
        self.data_on_disk = b""
        if real is None or not os.path.lexists(real):
            return
        if real.is_symlink():
            self.target = str(real.readlink())
        elif real.is_dir():
            self.names = {path.name: Node(path) for path in real.iterdir()}
            self.names_on_disk = dict(self.names)
        else:
            self.data_on_disk = real.read_bytes()


class Disk:
    """Follows what is done below ``root``; ``look`` is called when something has changed."""

    def __init__(self, root: Path, look: Callable[[Disk], None]) -> None:
        self.root, self.look = root, look
        self.top = Node(root)
        self.open_files: dict[int, Node] = {}
        self.flushes = 0

    def node(self, path: Any) -> Optional[Node]:
        folder, name = self._place(path)
        return None if folder is None else folder.get(name)

    def _place(self, path: Any) -> tuple[Optional[dict[str, Node]], str]:
        """The names of the folder that a path is in, and its own."""
        place = Path(os.fsdecode(path)).absolute()
        if not place.is_relative_to(self.root):
            return None, ""
        names = self.top.names
        *above, name = place.relative_to(self.root).parts or ("",)
        for each in above:
            if names is None or each not in names:
                return None, ""
            names = names[each].names
        return names, name

    def put(self, path: Any, node: Node) -> None:
        names, name = self._place(path)
        if names is not None:
            names[name] = node
            self.look(self)

    def taken(self, path: Any) -> Optional[Node]:
        names, name = self._place(path)
        return names.pop(name, None) if names is not None else None

    def flushed(self, node: Optional[Node], read: Callable[[], bytes]) -> None:
        if node is None or node.target is not None:
            return
        if node.names is None:
            node.data_on_disk = read()
        else:
            node.names_on_disk = dict(node.names)

    def flush_all(self, node: Node, real: Path) -> None:
        self.flushed(node, real.read_bytes)
        for name, inner in (node.names or {}).items():
            self.flush_all(inner, real / name)

    def after_a_power_cut(self) -> Iterator[Found]:
        """All that may be found: the names as flushed or not, in each folder of the top."""
        tops = sorted({*(self.top.names or {}), *self.top.names_on_disk})
        for on_disk in product((True, False), repeat=len(tops)):
            found: dict[str, Union[bytes, str]] = {}
            for top, as_flushed in zip(tops, on_disk):
                node = (self.top.names or {}).get(top)
                if node is not None:
                    self._collect(node, top, as_flushed, found)
            yield found

    def _collect(self, node: Node, path: str, as_flushed: bool, found: dict[str, Any]) -> None:
        if node.target is not None:
            found[path] = node.target
        elif node.names is None:
            found[path] = node.data_on_disk
        else:
            names = node.names_on_disk if as_flushed else node.names
            for name, inner in names.items():
                self._collect(inner, f"{path}/{name}", as_flushed, found)


class Recorded:
    """While it is entered, `os` tells a `Disk` what is done."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.stack: list[Any] = []

    def __enter__(self) -> Disk:
        for name in ("open", "dup", "mkdir", "replace", "rename", "unlink", "rmdir", "symlink"):
            self._patch(os, name, getattr(self, name))
        self._patch(os, "fsync", self.fsync)
        self._patch(atomic, "_syncfs", self.syncfs)
        self._patch(shutil, "rmtree", self.rmtree)
        return self.disk

    def __exit__(self, *_: object) -> None:
        while self.stack:
            self.stack.pop().stop()

    def _patch(self, where: Any, name: str, told: Callable[..., Any]) -> None:
        real = getattr(where, name)
        patch = mock.patch.object(where, name, lambda *args, **more: told(real, *args, **more))
        patch.start()
        self.stack.append(patch)

    def open(self, real: Any, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        fd: int = real(path, flags, *rest, **more)
        if "dir_fd" in more:
            return fd
        node = self.disk.node(path)
        if node is None and flags & os.O_CREAT:
            self.disk.put(path, Node())
            node = self.disk.node(path)
        if node is not None:
            self.disk.open_files[fd] = node
        return fd

    def dup(self, real: Any, fd: int) -> int:
        copy: int = real(fd)
        if fd in self.disk.open_files:
            self.disk.open_files[copy] = self.disk.open_files[fd]
        return copy

    def mkdir(self, real: Any, path: Any, *rest: Any, **more: Any) -> None:
        real(path, *rest, **more)
        self.disk.put(path, Node(Path(os.fsdecode(path))))

    def symlink(self, real: Any, target: Any, path: Any, *rest: Any, **more: Any) -> None:
        real(target, path, *rest, **more)
        self.disk.put(path, Node(Path(os.fsdecode(path))))

    def replace(self, real: Any, source: Any, target: Any, **more: Any) -> None:
        real(source, target, **more)
        self.disk.put(target, self.disk.taken(source) or Node())

    rename = replace

    def unlink(self, real: Any, path: Any, **more: Any) -> None:
        real(path, **more)
        if not more:
            self.disk.taken(path)
            self.disk.look(self.disk)

    rmdir = unlink

    def rmtree(self, real: Any, path: Any, *rest: Any, **more: Any) -> None:
        self.disk.taken(path)
        self.disk.look(self.disk)
        real(path, *rest, **more)

    def fsync(self, real: Any, fd: int) -> None:
        there = Path(f"/proc/self/fd/{fd}")  # what is open for writing alone is read so
        self.disk.flushed(self.disk.open_files.get(fd), there.read_bytes)
        self.disk.flushes += 1
        self.disk.look(self.disk)

    def syncfs(self, real: Any, fd: int) -> None:
        assert stat.S_ISREG(os.fstat(fd).st_mode) or stat.S_ISDIR(os.fstat(fd).st_mode)
        self.disk.flush_all(self.disk.top, self.disk.root)
        self.disk.flushes += 1
        self.disk.look(self.disk)
