"""A case: a folder with a submit file and its inputs, and what is expected of it.

``job.sub`` begins with a comment that says what the case is about.  ``job.dag`` may stand
beside it: then that is submitted.  An executable ``prepare``, run in the fresh copy of the
folder, makes the inputs that cannot be committed.  ``expected.ini`` says what is not as
natively, and anything else about the case; neither of the two is an input of the job's.
"""

from __future__ import annotations

import configparser
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Callable, Collection, Dict, Iterable, List, Tuple

from vmcapsule.errors import UsageError

CASES = Path(__file__).parent / "cases"
EXPECTED, PREPARE, SUBMIT_FILE, DAG_FILE = "expected.ini", "prepare", "job.sub", "job.dag"
#: What a section of ``expected.ini`` may say.
_KEYS = {
    "case": {"submit", "native", "idle", "vague", "ignore", "slow", "busy", "room_gib"},
    "refused": {"ways", "names"},
    "different": {"ways", "what", "reason", "perhaps"},
}


@dataclass(frozen=True)
class Expected:
    """What a section says of some ways: a refusal, or differences and their reason.

    ``patterns`` match the text of differences (fnmatch); of a refusal they are the words
    that the reason must name.  What is a matter of time is there ``perhaps``.
    """

    kind: str
    ways: Tuple[str, ...]
    patterns: Tuple[str, ...]
    reason: str = ""
    perhaps: bool = False

    def matches(self, difference: str) -> bool:
        """Is this difference one of those listed?"""
        return any(fnmatchcase(difference, pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class Case:
    """A case and what is expected of it.

    ``submit`` are options for condor_submit.  ``native_waits``: no machine of the pool can
    run it as it is, and so nobody waits for that.  ``idle`` of its jobs match no machine,
    whatever the way, and end as they began.  Of files that match ``vague`` only
    the kind is compared, of those that match ``ignore`` nothing.  A case ``is_busy`` that
    takes so much CPU time that, emulated, it could as well be the hypervisor's.  One is run
    only where ``room_gib`` are free, if it needs much.
    """

    name: str
    folder: Path
    about: str
    submit: Tuple[str, ...] = ()
    native_waits: bool = False
    idle: int = 0
    vague: Tuple[str, ...] = ()
    ignore: Tuple[str, ...] = ()
    is_slow: bool = False
    is_busy: bool = False
    room_gib: int = 0
    expected: Tuple[Expected, ...] = field(default=())

    @property
    def is_dag(self) -> bool:
        """Is it DAGMan that submits the jobs?"""
        return (self.folder / DAG_FILE).exists()

    @property
    def is_spooled(self) -> bool:
        """Are the outputs to be fetched from the access point's spool?"""
        return "-spool" in self.submit

    def expected_of(self, way: str) -> List[Expected]:
        """What is listed for a way."""
        return [one for one in self.expected if way in one.ways]


def load_cases(names: Iterable[str], ways: Collection[str], folder: Path = CASES) -> List[Case]:
    """The cases of these names, or all; `UsageError` for one that is not there."""
    known = sorted(path.name for path in folder.iterdir() if (path / SUBMIT_FILE).exists())
    wanted = list(names) or known
    for name in wanted:
        if name not in known:
            raise UsageError(f"there is no case '{name}'", f"see the folders in {folder}")
    return [read_case(folder / name, ways) for name in wanted]


def with_room(cases: Iterable[Case], free_bytes: int, say: Callable[[str], None]) -> List[Case]:
    """The cases for which ``free_bytes`` are enough; ``say`` is told of each other one."""
    kept = []
    for case in cases:
        if case.room_gib << 30 <= free_bytes:
            kept.append(case)
        else:
            say(
                f"{case.name}: left out: it needs {case.room_gib} GiB, and "
                f"{free_bytes >> 30} GiB are free here"
            )
    return kept


def read_case(folder: Path, ways: Collection[str]) -> Case:
    """Read a case's folder; ``ways`` are those that may differ from the native one."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.read(folder / EXPECTED)
    sections = {name: dict(parser[name]) for name in parser.sections()}
    for name, values in sections.items():
        _check_keys(folder, name, values)
    about = sections.pop("case", {})
    expected = [_expected(folder, name, said, ways) for name, said in sections.items()]
    return Case(
        name=folder.name,
        folder=folder,
        about=_about(folder / SUBMIT_FILE),
        submit=tuple(about.get("submit", "").split()),
        native_waits=about.get("native") == "waits",
        idle=int(about.get("idle", "0")),
        vague=tuple(about.get("vague", "").split()),
        ignore=tuple(about.get("ignore", "").split()),
        is_slow=about.get("slow") == "yes",
        is_busy=about.get("busy") == "yes",
        room_gib=int(about.get("room_gib", "0")),
        expected=tuple(expected),
    )


def _check_keys(folder: Path, section: str, values: Dict[str, str]) -> None:
    known = _KEYS.get(section.split(":")[0])
    wrong = sorted(set(values) - known) if known is not None else [f"[{section}]"]
    if wrong:
        raise UsageError(f"{folder / EXPECTED}: '{wrong[0]}' means nothing", "correct it")


def _expected(
    folder: Path, section: str, values: Dict[str, str], ways: Collection[str]
) -> Expected:
    kind = section.split(":")[0]
    named = tuple(values.get("ways", " ".join(ways)).split())
    strange = [way for way in named if way not in ways]
    if strange:
        raise UsageError(f"{folder / EXPECTED}: there is no way '{strange[0]}'", "correct it")
    if kind == "refused":
        return Expected(kind, named, tuple(values.get("names", "").split()))
    reason = " ".join(values.get("reason", "").split())
    patterns = tuple(line.strip() for line in values.get("what", "").splitlines() if line)
    if not reason or not patterns:
        raise UsageError(f"{folder / EXPECTED}: [{section}] lacks what or reason", "add it")
    return Expected(kind, named, patterns, reason, values.get("perhaps") == "yes")


def _about(submit_file: Path) -> str:
    """The comment at the beginning of a submit file, as one line."""
    lines = submit_file.read_text(encoding="utf-8").splitlines()
    remarks = []
    for line in lines:
        if not line.startswith("#"):
            break
        remarks.append(line.lstrip("# "))
    text = re.sub(r"\s+", " ", " ".join(remarks)).strip()
    if not text:
        raise UsageError(f"{submit_file} does not say what it is about", "add a comment above")
    return text
