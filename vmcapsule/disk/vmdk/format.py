"""Reading vmdk descriptors and headers, with nothing in them trusted.

Sources: VMware's "Virtual Disk Format 5.0" (descriptor file, hosted sparse extents) and
the behavior of QEMU's vmdk driver, which opens whatever files a descriptor names.  What
`read_vmdk` accepts is therefore a strict subset: a descriptor that QEMU could
understand in another way than we do is refused.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from vmcapsule.disk.extents import image_bytes, open_image, read_at
from vmcapsule.errors import DiskError
from vmcapsule.named import NamedTuple

SECTOR_BYTES = 512
DESCRIPTOR_BYTES_MAX = 64 << 10
#: VMware's own limit for one disk.
CAPACITY_BYTES_MAX = 62 << 40

#: The forms that are supported, and the one kind of extent each is made of.
FORMS = {
    "monolithicFlat": "FLAT",
    "monolithicSparse": "SPARSE",
    "streamOptimized": "SPARSE",
    "twoGbMaxExtentSparse": "SPARSE",
    "twoGbMaxExtentFlat": "FLAT",
}
#: Those of a redo log that is read.
_DELTA_FORMS = ("monolithicSparse", "twoGbMaxExtentSparse")
_NO_PARENT = "ffffffff"
ADAPTERS = ("ide", "buslogic", "lsilogic", "legacyESX")

_MAGIC = b"KDMV"
#: magic, version, flags, capacity, grain size, descriptor offset and size (sectors),
#: entries per grain table, redundant and first grain directory, overhead.
_HEADER = struct.Struct("<4sIIQQQQIQQQ")
_DIRECTORY_AT_END = 0xFFFFFFFFFFFFFFFF
#: A stream's footer is the last but one sector, before the end-of-stream marker.
_FOOTER_FROM_END = 1024
#: QEMU looks for a parent in this many bytes from the descriptor on, whatever its size.
_QEMU_DESCRIPTOR_BYTES = 20 * SECTOR_BYTES

_EXTENT = re.compile(
    r"(RW|RDONLY|NOACCESS)[ \t]+([0-9]{1,15})[ \t]+([A-Z]+)"
    r'(?:[ \t]+"([^"]*)"(?:[ \t]+([0-9]{1,15}))?)?'
)
_SETTING = re.compile(r"([A-Za-z][\w.]*)[ \t]*=[ \t]*(\"[^\"]*\"|[^\"]*)")


class VmdkExtent(NamedTuple):
    """One line of a descriptor: ``size_sectors`` of the disk are in ``file``."""

    access: str
    size_sectors: int
    kind: str
    file: Optional[Path]
    offset_sectors: int


class Vmdk(NamedTuple):
    """A vmdk disk whose descriptor, extents and files were checked.

    ``form`` is the descriptor's createType, ``adapter`` its ddb.adapterType, ``content_id``
    its CID.  ``parent`` is the disk that a redo log is over: what it does not have is there.
    """

    path: Path
    form: str
    capacity_bytes: int
    extents: Tuple[VmdkExtent, ...]
    adapter: str = "ide"
    content_id: str = ""
    parent: Optional[Vmdk] = None

    @property
    def files(self) -> Tuple[Path, ...]:
        """All files of the disk, the descriptor's first, each once."""
        extents = [extent.file for extent in self.extents if extent.file is not None]
        return tuple(dict.fromkeys([self.path, *extents]))


class _Descriptor(NamedTuple):
    form: str
    adapter: str
    content_id: str
    #: access, sectors, kind, name, offset in sectors
    extents: Tuple[Tuple[str, int, str, Optional[str], int], ...]


class _SparseHeader(NamedTuple):
    capacity_sectors: int
    descriptor_offset: int
    descriptor_bytes: int


def read_vmdk(path: Path) -> Vmdk:
    """Read and check the disk at ``path``, a text descriptor or a hosted sparse extent.

    Raises `DiskError` when it is damaged, of an unsupported form, has a parent, or names
    a file that is not a plain, large enough file beside it.  Use: ``qemu-img`` is only
    ever run on a vmdk that passed here, as it would open whatever the descriptor names.
    """
    return _read(path, None)


def read_delta(path: Path, parent: Vmdk) -> Vmdk:
    """Read and check a redo log, which has what was written over the disk ``parent``.

    VMware makes one for a snapshot.  Which disk it is over is the caller's to know: what it
    says of its parent's name is not looked at, but its CID has to be that disk's.  Raises
    `DiskError` as `read_vmdk` does.  qemu-img must never see one: it opens what is named.
    """
    delta = _read(path, parent)
    if delta.capacity_bytes != parent.capacity_bytes:
        raise DiskError(
            f"'{path}' has {delta.capacity_bytes} bytes, the disk that it is said to be over "
            f"{parent.capacity_bytes}",
            "it is of another disk; run the job again",
        )
    return delta._replace(parent=parent)


def _read(path: Path, parent: Optional[Vmdk]) -> Vmdk:
    path = path.absolute()  # qemu-img takes a relative "a:b" for a protocol
    fd = open_image(path, os.O_RDONLY)
    try:
        size_bytes = image_bytes(fd)
        if read_at(fd, 0, min(4, size_bytes)) == _MAGIC:
            return _read_monolithic(path, fd, size_bytes, parent)
        if size_bytes > DESCRIPTOR_BYTES_MAX:
            raise DiskError(
                f"'{path}' is no vmdk disk: neither a sparse extent nor a text descriptor",
                "name the descriptor (not the -flat file), or convert it with qemu-img",
            )
        descriptor = _parse(read_at(fd, 0, size_bytes), path, parent)
    finally:
        os.close(fd)
    if descriptor.form in ("monolithicSparse", "streamOptimized"):
        raise DiskError(f"'{path}' says {descriptor.form} but is a text descriptor only")
    is_delta = parent is not None
    extents = tuple(
        _resolve(path, line, descriptor.form, is_delta=is_delta) for line in descriptor.extents
    )
    if descriptor.form == "monolithicFlat" and len(extents) != 1:
        raise DiskError(f"'{path}' says monolithicFlat but has {len(extents)} extents")
    return _checked(path, descriptor, sum(extent.size_sectors for extent in extents), extents)


def _checked(
    path: Path, descriptor: _Descriptor, sectors: int, extents: Tuple[VmdkExtent, ...]
) -> Vmdk:
    capacity_bytes = sectors * SECTOR_BYTES
    if not 0 < capacity_bytes <= CAPACITY_BYTES_MAX:
        raise DiskError(f"'{path}' has a capacity of {capacity_bytes} bytes")
    return Vmdk(
        path,
        descriptor.form,
        capacity_bytes,
        extents,
        descriptor.adapter,
        descriptor.content_id,
    )


def _read_monolithic(path: Path, fd: int, size_bytes: int, parent: Optional[Vmdk]) -> Vmdk:
    header = _read_sparse_header(path, fd, size_bytes, is_delta=parent is not None)
    if header.descriptor_offset == 0 or not (
        0 < header.descriptor_bytes <= DESCRIPTOR_BYTES_MAX
        and header.descriptor_offset + header.descriptor_bytes <= size_bytes
    ):
        raise DiskError(
            f"'{path}' is a sparse extent without a descriptor of its own",
            "name the disk's descriptor, not one of its -s files",
        )
    raw = read_at(fd, header.descriptor_offset, header.descriptor_bytes)
    descriptor = _parse(raw, path, parent)
    if descriptor.form not in ("monolithicSparse", "streamOptimized"):
        raise DiskError(f"'{path}' is one sparse file but says {descriptor.form}")
    # The name in the line is what the file was called when it was made: it is not used.
    if len(descriptor.extents) != 1:
        raise DiskError(f"'{path}' is one sparse file but names several")
    if descriptor.extents[0][2] != "SPARSE":
        raise DiskError(f"'{path}' is sparse but has a {descriptor.extents[0][2]} extent")
    extent = VmdkExtent("RW", header.capacity_sectors, "SPARSE", path, 0)
    return _checked(path, descriptor, header.capacity_sectors, (extent,))


def _parse(raw: bytes, path: Path, parent: Optional[Vmdk]) -> _Descriptor:
    if parent is None and b"parentFileNameHint" in raw:
        raise DiskError(
            f"'{path}' is a snapshot: it has a parent disk",
            "give a disk that stands alone (qemu-img convert makes one)",
        )
    text_bytes, _, rest = raw.partition(b"\0")
    # QEMU writes the CID without leading zeros over one that had them, and so leaves up to
    # seven old bytes behind the text's new end.
    if len(rest.replace(b"\0", b"")) > 8:
        raise DiskError(f"'{path}' is no vmdk disk: its descriptor goes on behind its end")
    try:
        text = text_bytes.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DiskError(f"'{path}' is no vmdk disk: its descriptor is not text") from error
    text = text.replace("\r\n", "\n")
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text):
        raise DiskError(f"'{path}' is no vmdk disk: control characters in its descriptor")
    settings: Dict[str, str] = {}
    extents: List[Tuple[str, int, str, Optional[str], int]] = []
    lines = [line.strip(" \t") for line in text.split("\n")]
    for before, line in zip(["#", *lines], lines):
        if not line or line.startswith("#"):
            if "createType" in line or "parentCID" in line:
                raise DiskError(f"'{path}' has a setting in a comment: {line[:80]!r}")
            continue
        extent, setting = _EXTENT.fullmatch(line), _SETTING.fullmatch(line)
        if extent and not before:
            raise DiskError(
                f"'{path}' has an empty line before an extent: QEMU counts that one twice",
                "take the line out",
            )
        if extent:
            access, sectors, kind, name, offset = extent.groups()
            extents.append((access, int(sectors), kind, name, int(offset or 0)))
        elif setting:
            name, value = setting[1], setting[2].strip('" \t')
            if name in settings:
                raise DiskError(f"'{path}' sets '{name}' twice")
            settings[name] = value
        else:
            raise DiskError(f"'{path}' has a line that no vmdk descriptor has: {line[:80]!r}")
    return _check_settings(path, settings, extents, parent)


def _check_settings(
    path: Path,
    settings: Dict[str, str],
    extents: List[Tuple[str, int, str, Optional[str], int]],
    parent: Optional[Vmdk],
) -> _Descriptor:
    form = settings.get("createType")
    if form is None:
        raise DiskError(f"'{path}' is no vmdk disk: its descriptor has no createType")
    if form not in FORMS:
        raise DiskError(
            f"'{path}' has the unsupported createType '{form[:80]}'",
            f"convert it with qemu-img to one of {', '.join(FORMS)}",
        )
    _check_parent(path, form, _content_id(settings.get("parentCID", _NO_PARENT)), parent)
    if not extents:
        raise DiskError(f"'{path}' names no extents")
    for access, _, kind, name, _ in extents:
        if access != "RW":
            raise DiskError(f"'{path}' has an extent with access {access}, not RW")
        if kind != FORMS[form]:
            raise DiskError(f"'{path}' says {form} but has a {kind} extent")
        if name is None or not _is_plain(name):
            raise DiskError(
                f"'{path}' names the extent {name!r}, which is not a plain file name beside it"
            )
    adapter = settings.get("ddb.adapterType", "ide")
    return _Descriptor(
        form,
        adapter if adapter in ADAPTERS else "ide",
        _content_id(settings.get("CID", "")),
        tuple(extents),
    )


def _content_id(text: str) -> str:
    """As VMware writes it; QEMU leaves out zeros at its beginning."""
    return text.lower().zfill(8)


def _check_parent(path: Path, form: str, content_id: str, parent: Optional[Vmdk]) -> None:
    if parent is None and content_id != _NO_PARENT:
        raise DiskError(
            f"'{path}' is a snapshot: its parentCID is '{content_id[:80]}'",
            "give a disk that stands alone (qemu-img convert makes one)",
        )
    if parent is not None and content_id != parent.content_id:
        raise DiskError(
            f"'{path}' is a snapshot of another disk: its parentCID is '{content_id[:80]}', "
            f"the CID of '{parent.path}' is '{parent.content_id[:80]}'",
            "run the job again",
        )
    if parent is not None and form not in _DELTA_FORMS:
        raise DiskError(f"'{path}' is a snapshot, and of the form {form}")


def _is_plain(name: str) -> bool:
    # A colon would make it a protocol ("nbd:...") or "json:..." for QEMU.
    return (
        name not in ("", ".", "..")
        and len(name.encode()) <= 255
        and name.isprintable()
        and not set(name) & set('/\\:"')
    )


def _resolve(
    path: Path, line: Tuple[str, int, str, Optional[str], int], form: str, *, is_delta: bool
) -> VmdkExtent:
    access, sectors, kind, name, offset = line
    file = path.parent / str(name)
    if file == path:
        raise DiskError(f"'{path}' names itself as an extent")
    if sectors == 0:
        raise DiskError(f"'{path}' has an empty extent '{name}'")
    fd = open_image(file, os.O_RDONLY)
    try:
        size_bytes = image_bytes(fd)
        if FORMS[form] == "FLAT":
            needed = (offset + sectors) * SECTOR_BYTES
            if size_bytes < needed:
                raise DiskError(
                    f"'{file}' is too short for its disk: {size_bytes} bytes, not {needed}",
                    "see whether the copy was cut short",
                )
        else:
            header = _read_sparse_header(file, fd, size_bytes, is_delta=is_delta)
            if header.capacity_sectors != sectors or offset != 0:
                raise DiskError(
                    f"'{file}' holds {header.capacity_sectors} sectors, "
                    f"not the {sectors} that '{path.name}' says"
                )
    finally:
        os.close(fd)
    return VmdkExtent(access, sectors, kind, file, offset)


def _read_sparse_header(
    path: Path, fd: int, size_bytes: int, *, is_delta: bool
) -> _SparseHeader:
    """Check the header (and a stream's footer, which overrules it) of a sparse extent."""
    if size_bytes < SECTOR_BYTES:
        raise DiskError(f"'{path}' is too short for a sparse extent")
    header, directory = _unpack_header(path, read_at(fd, 0, SECTOR_BYTES), size_bytes)
    headers = [header]
    if directory == _DIRECTORY_AT_END:
        at = size_bytes - _FOOTER_FROM_END
        if at < SECTOR_BYTES or size_bytes % SECTOR_BYTES:
            raise DiskError(f"'{path}' is too short for its footer")
        footer, _ = _unpack_header(path, read_at(fd, at, SECTOR_BYTES), size_bytes)
        if footer.capacity_sectors != header.capacity_sectors:
            raise DiskError(f"'{path}' has a footer that contradicts its header")
        headers.append(footer)
    for each in () if is_delta else headers:
        at = each.descriptor_offset
        length = max(0, min(_QEMU_DESCRIPTOR_BYTES, size_bytes - at))
        if b"parentFileNameHint" in read_at(fd, at, length):
            raise DiskError(
                f"'{path}' is a snapshot: it has a parent disk",
                "give a disk that stands alone (qemu-img convert makes one)",
            )
    return header


def _unpack_header(path: Path, sector: bytes, size_bytes: int) -> Tuple[_SparseHeader, int]:
    magic, version, _, capacity, grain, at, length, entries, _, directory, _ = (
        _HEADER.unpack_from(sector)
    )
    if magic != _MAGIC:
        raise DiskError(f"'{path}' is no sparse extent: it does not start with 'KDMV'")
    if version not in (1, 2, 3):
        raise DiskError(f"'{path}' is a sparse extent of the unknown version {version}")
    # With a capacity of 0 QEMU opens whatever files an embedded descriptor names.
    if not 0 < capacity <= CAPACITY_BYTES_MAX // SECTOR_BYTES:
        raise DiskError(f"'{path}' has a capacity of {capacity} sectors")
    if not 0 < grain <= 0x200000 // SECTOR_BYTES or grain & (grain - 1) or entries != 512:
        raise DiskError(f"'{path}' has damaged grains: {grain} sectors, {entries} a table")
    if at > size_bytes // SECTOR_BYTES or length > size_bytes // SECTOR_BYTES:
        raise DiskError(f"'{path}' has its descriptor past its end")
    header = _SparseHeader(capacity, at * SECTOR_BYTES, length * SECTOR_BYTES)
    return header, directory
