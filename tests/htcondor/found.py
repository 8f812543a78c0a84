"""What a folder of HTCondor's tests holds, and which of them can be run here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Iterable, List, Tuple

from vmcapsule.errors import UsageError

#: Tests of ordinary vanilla jobs, by name.
KINDS = (
    "*_van",
    "job_basic_*",
    "job_check_*",
    "job_core_*",
    "job_filexfer_*",
    "job_foreach_submit-*-run",
    "job_slash_transfer",
    "job_starter_script-*",
    "file_transfer_submit",
    "lib_chirp",
    "lib_userlog",
)
#: Of another universe, or of another system.
_OTHERS = ("*_sched", "*_java", "*_local", "*_par", "win_*")
_OWN_POOL = re.compile(r"StartCondorWithParams|StartPersonal\b|CondorPersonal::")
#: The configuration that a test asks for, and of it what every pool here has.
_CONFIG = re.compile(
    r"<<['\"]?CONDOR_TESTREQ_CONFIG.*?\n(.*?)^CONDOR_TESTREQ_CONFIG", re.S | re.M
)
_DAEMONS = re.compile(r"^\s*DAEMON_LIST\s*=.*\n", re.M)
_PROGRAM = re.compile(r"\b([\w-]+)\.exe\b")
#: Where the tests' perl modules lie: installed beside them, or in a source tree.
_MODULE = "CondorTest.pm"
_MODULE_FOLDERS = (".", "../condor_scripts")


@dataclass(frozen=True)
class Script:
    """One test: ``name`` without ``.run``, and the compiled programs it wants.

    ``config`` is what its pool's configuration must say besides.  ``unfit`` says why it
    cannot judge a route; it is empty for one that can.
    """

    name: str
    programs: Tuple[str, ...] = ()
    config: str = ""
    unfit: str = ""


def find_modules(folder: Path) -> Path:
    """The folder of the tests' perl modules; `UsageError` when there is none."""
    for name in _MODULE_FOLDERS:
        if (folder / name / _MODULE).is_file():
            return (folder / name).resolve()
    raise UsageError(
        f"{folder} has no {_MODULE}, nor has ../condor_scripts beside it",
        "give src/condor_tests of a checkout of HTCondor",
    )


def find_scripts(folder: Path, names: Iterable[str] = ()) -> List[Script]:
    """The tests of these names (patterns as fnmatch's), or all of vanilla jobs.

    Raises `UsageError` for a name that no test has.
    """
    present = sorted(path.stem for path in folder.glob("*.run"))
    chosen = [name for name in present if _is_vanilla(name)]
    if names:
        chosen = [name for pattern in names for name in _matching(pattern, present, folder)]
    return [read_script(folder, name) for name in dict.fromkeys(chosen)]


def _is_vanilla(name: str) -> bool:
    return _is_any(name, KINDS) and not _is_any(name, _OTHERS)


def _is_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _matching(pattern: str, present: List[str], folder: Path) -> List[str]:
    found = [name for name in present if fnmatchcase(name, pattern)]
    if not found:
        raise UsageError(f"there is no test '{pattern}'", f"see the *.run in {folder}")
    return found


def read_script(folder: Path, name: str) -> Script:
    """Read one test, and the submit files that are named for it."""
    text = (folder / f"{name}.run").read_text(errors="replace")
    if _OWN_POOL.search(text):
        return Script(name, unfit="it starts a pool of its own, which has no router")
    submits = [path.read_text(errors="replace") for path in _submit_files(folder, name)]
    programs = sorted({word for one in (text, *submits) for word in _PROGRAM.findall(one)})
    return Script(name, tuple(programs), _config(text))


def _config(text: str) -> str:
    """What a test says of its pool; without the daemons, or the router would be missing."""
    said = "".join(_CONFIG.findall(text))
    return _DAEMONS.sub("", said)


def _submit_files(folder: Path, name: str) -> List[Path]:
    """NAME.cmd; of a test of several jobs, such as A_van, also A-one_van.cmd."""
    stem, _, universe = name.rpartition("_")
    paths = {folder / f"{name}.cmd", *folder.glob(f"{stem}-*_{universe}.cmd")}
    return sorted(path for path in paths if path.is_file())
