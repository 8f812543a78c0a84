"""Which template this is, wherever a copy of it lies: told by a little of each of its files.

That tells templates apart.  It does not tell a copy that was damaged or changed on purpose:
who puts a template on a machine answers for it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Iterator

from vmcapsule.disk.disk import Disk
from vmcapsule.errors import TemplateError
from vmcapsule.template.template import RECORD, Template

#: Of each file: its beginning, where disks say what they are, and so much, so often, of the
#: rest.
_HEAD_BYTES, _SAMPLE_BYTES, _SAMPLES = 64 << 10, 4 << 10, 16
_CHARS = 32


def likeness(template: Template) -> str:
    """32 hexadecimal digits that copies of one template have in common, and no two templates.

    The folder's name does not count, and of the files only their names, sizes and some of what
    is in them.  Raises `TemplateError` where one cannot be read.
    """
    digest = hashlib.sha256()
    for path in files_of(template):
        try:
            with path.open("rb", buffering=0) as file:
                _add(digest, path.name, file.fileno())
        except OSError as error:
            raise TemplateError(
                f"the template's file '{path}' cannot be read: {error.strerror}",
                "make it readable for everybody",
            ) from error
    return digest.hexdigest()[:_CHARS]


def files_of(template: Template) -> list[Path]:
    """All files of a template, by name; of several kernels the one that is booted."""
    found = {template.vmx, *filter(None, (template.kernel, template.initrd))}
    for disk in (template.system_disk, *template.other_disks, template.data_disk):
        found.update(Disk.at(disk).files)
    record = template.folder / RECORD
    return sorted({*found, record} if record.exists() else found)


def _add(digest: hashlib._Hash, name: str, fd: int) -> None:
    size_bytes = os.fstat(fd).st_size
    digest.update(f"{name}\0{size_bytes}\0".encode(errors="surrogateescape"))
    for offset, length in _samples(size_bytes):
        digest.update(os.pread(fd, length, offset))


def _samples(size_bytes: int) -> Iterator[tuple[int, int]]:
    yield 0, _HEAD_BYTES
    rest = size_bytes - _HEAD_BYTES - _SAMPLE_BYTES
    for number in range(_SAMPLES) if rest > 0 else ():
        yield _HEAD_BYTES + rest * number // (_SAMPLES - 1), _SAMPLE_BYTES
