"""The attributes that HTCondor reads in a job's ad, and what becomes of each in a capsule.

As a program, ``python tests/job_attributes.py FOLDER`` derives the names anew from the
``src`` folder of a checkout of HTCondor, and says which are not in the list yet.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

LIST = Path(__file__).resolve().parent / "fixtures" / "job-attributes.txt"

#: Where the starter, the shadow and what they share for a job's files read job ads.
_SOURCES = (
    "condor_starter.V6.1/*.cpp",
    "condor_starter.V6.1/*.h",
    "condor_shadow.V6.1/*.cpp",
    "condor_shadow.V6.1/*.h",
    "condor_utils/file_transfer.cpp",
    "condor_utils/FileTransferControlBlock.cpp",
    "condor_utils/env.cpp",
    "condor_utils/condor_arglist.cpp",
    "condor_utils/filename_tools_cpp.cpp",
    "condor_utils/user_job_policy.cpp",
    "condor_utils/manifest.cpp",
    "condor_utils/checkpoint_cleanup_utils.cpp",
    "condor_utils/catalog_utils.cpp",
    "condor_utils/set_user_priv_from_ad.cpp",
    "condor_utils/condor_crontab.cpp",
    "condor_utils/data_reuse.cpp",
    "condor_utils/spooled_job_files.cpp",
    "condor_utils/mk_cache_links.cpp",
)
_REMARK = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
#: Code that only writes an attribute, or speaks of it.
_WRITTEN = re.compile(
    r"\b(?:Assign\w*|Insert\w*|Delete|emplace_back|insert|CopyAttribute|setAttribute)\s*\("
    r"\s*(?:[\w.>*&()\"-]+\s*,\s*)?ATTR_\w+|d?printf\s*\([^;]*;"
)
_CONSTANT = re.compile(r"\bATTR_\w+")
_LITERAL = re.compile(r'\b(?:Lookup|Eval)\w*\s*\(\s*(?:\w+\s*,\s*)?"(\w+)"')
_DEFINITION = re.compile(r'\b(ATTR_\w+)\s*(?:\[\]\s*=\s*)?\s*"([^"]+)"')


@dataclass(frozen=True)
class Attribute:
    """One entry: ``value`` shows the verdict, given the attributes of ``companions``."""

    name: str
    verdict: str
    why: str
    value: str
    companions: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        return f"{self.name} = {self.value}\n"


def listed() -> tuple[Attribute, ...]:
    """All entries of the list, in its order."""
    found: list[Attribute] = []
    verdict = why = ""
    for line in LIST.read_text(encoding="ascii").splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("["):
            verdict, _, why = line[1:].partition("] ")
        elif " = " in line:
            entry, *companions = line.split(" with ")
            name, _, value = entry.partition(" = ")
            found.append(Attribute(name, verdict, why, value, tuple(companions)))
        else:
            # A number where HTCondor has mostly texts: whoever reads it will complain.
            found += [Attribute(name, verdict, why, "12345") for name in line.split()]
    return tuple(found)


def derived(source: Path) -> Iterator[str]:
    """The names that HTCondor's code in ``source`` reads in ads, in no order."""
    header = source / "condor_includes" / "condor_attributes.h"
    names = dict(_DEFINITION.findall(header.read_text(errors="replace")))
    for pattern in _SOURCES:
        for path in source.glob(pattern):
            text = _REMARK.sub(" ", path.read_text(errors="replace"))
            text = _WRITTEN.sub("(", text)
            # Constants of other headers name no attribute of a job.
            yield from (names[name] for name in _CONSTANT.findall(text) if name in names)
            yield from _LITERAL.findall(text)


def main() -> int:
    known = {attribute.name.lower() for attribute in listed()}
    new = {name for name in derived(Path(sys.argv[1])) if name.lower() not in known}
    print("\n".join(sorted(new, key=str.lower)) if new else "nothing new")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
