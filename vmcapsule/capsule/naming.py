"""What a capsule's folder is called: its kind and job can be told, the rest not guessed."""

from __future__ import annotations

import os
import re
import zlib
from typing import Optional

from vmcapsule.named import NamedTuple

#: Capsules of ``vmcapsule run``, and those that a batch system runs.
RUN, ROUTED = "run", "capsule"
_NAME = re.compile(
    rf"(?P<kind>{RUN}|{ROUTED})-(?P<job_id>\d+\.\d+)-(?P<digest>[0-9a-f]{{8}})-[0-9a-f]{{8}}"
)


class Name(NamedTuple):
    """What the name of a folder in scratch says: a capsule, or the remains of one.

    A name that begins with a dot is that of a draft, or of a capsule half deleted.
    """

    kind: str
    job_id: str
    digest: str
    is_whole: bool


def new_name(kind: str, job_id: str, global_job_id: Optional[str]) -> str:
    """A name for a capsule: nobody can guess it, and its job can be told by it."""
    return f"{kind}-{job_id}-{digest_of(job_id, global_job_id)}-{os.urandom(4).hex()}"


def digest_of(job_id: str, global_job_id: Optional[str]) -> str:
    """What tells equal job ids of different queues apart: 8 hexadecimal digits."""
    return f"{zlib.crc32((global_job_id or job_id).encode(errors='replace')):08x}"


def read_name(name: str) -> Optional[Name]:
    """What a folder's name says, None when it is not of a capsule."""
    match = _NAME.match(name.lstrip("."))
    if match is None:
        return None
    whole = match.end() == len(name)
    return Name(match["kind"], match["job_id"], match["digest"], whole)
