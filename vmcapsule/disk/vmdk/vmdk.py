"""vmdk disks: made, read where they lie, and opened as raw images for reading."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Dict, Iterator, Optional, Sequence, Union

from vmcapsule.disk.disk_map import DiskMap
from vmcapsule.disk.extents import Image, open_image
from vmcapsule.disk.vmdk.format import ADAPTERS, FORMS, Vmdk, VmdkExtent, read_vmdk
from vmcapsule.disk.vmdk.read import sources_in
from vmcapsule.disk.vmdk.write import sources_of
from vmcapsule.errors import DiskError, SpaceError, ToolError, one_line
from vmcapsule.named import NamedTuple

__all__ = [
    "FORMS",
    "RawDisk",
    "Vmdk",
    "VmdkExtent",
    "create_vmdk",
    "in_place",
    "mapped",
    "raw_view",
    "read_vmdk",
    "viewed",
]

#: A conversion is bound by the disk's speed; this is for one that hangs.
CONVERT_TIMEOUT_S = 4 * 3600.0
#: Each costs some hundred bytes of memory; a disk of ours is in a few.
PIECES_MAX = 1 << 18
#: 'qemu-img check': nothing is wrong, or this form is not checked.
_CHECK_OK = (0, 63)


class RawDisk(NamedTuple):
    """An open raw image of a disk: ``fd`` is valid inside the ``with`` block only."""

    fd: int
    size_bytes: int
    path: Path


@contextmanager
def raw_view(vmdk_path: Path, scratch: Path) -> Iterator[RawDisk]:
    """Open a disk as a raw image for reading.

    A monolithicFlat disk is its extent file: nothing is copied.  Any other is converted
    into a folder of its own in ``scratch``, removed afterwards in every case.
    """
    disk = read_vmdk(vmdk_path)
    if _is_raw(disk):
        with _opened(disk.files[1], disk.capacity_bytes) as raw:
            yield raw
        return
    with _aside(scratch) as folder:
        image = _to_raw(disk, folder)
        with _opened(image, disk.capacity_bytes) as raw:
            yield raw


@contextmanager
def mapped(disk: Vmdk, scratch: Path) -> Iterator[DiskMap]:
    """Open a disk of any form for reading; the map is valid inside the ``with`` block only.

    A disk that is compressed, or in more than `PIECES_MAX` pieces, is converted into a folder
    of its own in ``scratch``; any other is read where it lies.  Raises `DiskError` for a redo
    log that would have to be converted.
    """
    with ExitStack() as stack:
        there = _where_it_lies(disk, stack, os.O_RDONLY)
        if there is None:
            raw = stack.enter_context(raw_view(disk.path, scratch))
            there = DiskMap(raw.size_bytes, sources_of(raw.fd, raw.size_bytes))
        yield there


@contextmanager
def viewed(disk: Vmdk, scratch: Path) -> Iterator[Image]:
    """Open a disk of any form to be read as a raw image, whatever is on it.

    As `mapped`, but that what is, or becomes, one file needs no map.
    """
    with ExitStack() as stack:
        there = None if _is_raw(disk) else _where_it_lies(disk, stack, os.O_RDONLY)
        yield there or stack.enter_context(raw_view(disk.path, scratch)).fd


@contextmanager
def in_place(disk: Vmdk) -> Iterator[DiskMap]:
    """Open a disk for writing what is no hole of it, where that lies.

    Raises `DiskError` for one that `mapped` would convert.
    """
    with ExitStack() as stack:
        there = None if disk.parent else _where_it_lies(disk, stack, os.O_RDWR)
        if there is None:
            raise DiskError(
                f"'{disk.path}' is compressed, a snapshot or in too many pieces to be written",
                "convert it to monolithicSparse",
            )
        yield there


def _where_it_lies(disk: Vmdk, stack: ExitStack, flags: int) -> Optional[DiskMap]:
    """A map of the disk, whose files ``stack`` closes; None where it must be converted."""
    layers = (disk,) if disk.parent is None else (disk, disk.parent)
    if any(layer.form == "streamOptimized" for layer in layers):
        _check_converts(disk)
        return None
    fds: Dict[Path, int] = {}
    for extent in (extent for layer in layers for extent in layer.extents):
        if extent.file is not None and extent.file not in fds:
            fds[extent.file] = open_image(extent.file, flags)
            stack.callback(os.close, fds[extent.file])
    # A hostile one could be of as many as its bytes.
    found = list(islice(sources_in(disk, fds), PIECES_MAX + 1))
    if len(found) > PIECES_MAX:
        _check_converts(disk)
        return None
    return DiskMap(disk.capacity_bytes, found)


def _check_converts(disk: Vmdk) -> None:
    """Raise `DiskError` for a redo log: what converts it opens whatever that names."""
    if disk.parent is not None:
        raise DiskError(
            f"'{disk.path}' is a snapshot, and it or what it is over is compressed, or in more "
            f"than {PIECES_MAX} pieces",
            "run the job again without VMPARAM_VMware_SnapshotDisk",
        )


def create_vmdk(raw: Path, target: Path, form: str, *, adapter: str = "ide") -> Vmdk:
    """Make the vmdk disk ``target`` of the given form (see `FORMS`) from a raw image.

    The flat and split forms also make files beside it (``NAME-flat.vmdk``,
    ``NAME-s001.vmdk``, ``NAME-f001.vmdk``).  Zeros become holes.  Raises `DiskError`
    when ``target`` exists or the form is unknown, `SpaceError`, `ToolError`.
    """
    if form not in FORMS:
        raise DiskError(f"unknown vmdk form '{form}'", f"use one of {', '.join(FORMS)}")
    if adapter not in ADAPTERS:
        raise DiskError(f"unknown adapter '{adapter}'", f"use one of {', '.join(ADAPTERS)}")
    # qemu-img takes a relative "a:b" for a protocol.
    raw, target = raw.absolute(), target.absolute()
    if os.path.lexists(target):
        raise DiskError(f"'{target}' is already there", "remove it or choose another name")
    options = f"subformat={form},adapter_type={adapter}"
    _qemu_img(["convert", "-f", "raw", "-O", "vmdk", "-o", options, raw, target], target)
    return read_vmdk(target)


def _is_raw(disk: Vmdk) -> bool:
    return disk.form == "monolithicFlat" and disk.extents[0].offset_sectors == 0


@contextmanager
def _opened(path: Path, size_bytes: int) -> Iterator[RawDisk]:
    fd = open_image(path, os.O_RDONLY)
    try:
        yield RawDisk(fd, size_bytes, path)
    finally:
        os.close(fd)


@contextmanager
def _aside(parent: Path) -> Iterator[Path]:
    try:
        folder = parent.absolute() / f".vmdk-{os.urandom(8).hex()}"
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise SpaceError(
            f"cannot make a folder in '{parent}': {error.strerror}",
            "make it a folder that you can write to",
        ) from error
    try:
        yield folder
    finally:
        _remove_tree(folder)


def _remove_tree(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        import shutil  # slow to import, and mostly the folder is empty

        shutil.rmtree(folder)


def _check(disk: Vmdk) -> None:
    """Raise `DiskError` for a sparse disk that was cut short: 'convert' sees zeros there."""
    from vmcapsule import process

    argv: list[process.Arg] = ["qemu-img", "check", "-f", "vmdk", disk.path]
    checked = process.run(argv, timeout_s=CONVERT_TIMEOUT_S, check=False)
    if checked.returncode not in _CHECK_OK:
        said = one_line((checked.stderr or checked.stdout).decode(errors="replace"), 200)
        raise DiskError(
            f"'{disk.path}' is damaged: {said}",
            "it did not arrive as it was; run the job again",
        )


def _to_raw(disk: Vmdk, folder: Path) -> Path:
    _check(disk)
    image = folder / "disk.raw"
    _qemu_img(["convert", "-f", "vmdk", "-O", "raw", disk.path, image], image)
    size_bytes = image.stat().st_size
    if size_bytes != disk.capacity_bytes:
        raise DiskError(
            f"'{disk.path}' became a raw image of {size_bytes} bytes "
            f"where its descriptor says {disk.capacity_bytes}"
        )
    return image


def _qemu_img(arguments: Sequence[Union[str, Path]], target: Path) -> None:
    # A hook that starts no program has no time to import what starts them.
    from vmcapsule import process

    try:
        process.run(["qemu-img", *arguments], timeout_s=CONVERT_TIMEOUT_S)
    except ToolError as error:
        if "No space left on device" in error.message or "Disk quota" in error.message:
            raise SpaceError(
                f"no room for '{target}'", "free some room on that file system"
            ) from error
        raise
