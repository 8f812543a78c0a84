"""What a program and all that came of it asked of the kernel, as ``strace -ff`` wrote it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

#: Whatever names a file, makes, ends or looks into a process, connects, or changes who one is.
CALLS = (
    "%file,%process,%creds,kill,tkill,tgkill,rt_sigqueueinfo,pidfd_open,pidfd_send_signal,"
    "pidfd_getfd,ptrace,process_vm_readv,process_vm_writev,connect,bind,fchdir"
)
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\w+|\?)(?:<(.*?)>)?(?: .*)?", re.DOTALL)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\.\.\.)?')
#: How many of the strings in a call are the caller's, where not all are.
_NAMED = {"readlink": 1, "readlinkat": 1, "getcwd": 0}
_FOLDER = re.compile(r"(?:AT_FDCWD|\d+)<(/[^>]*)>, \"")
_MAKES_A_PROCESS = ("clone", "clone3", "fork", "vfork")
_CHANGES_THE_USER = ("setuid", "setreuid", "setresuid")


@dataclass(frozen=True)
class Call:
    """A system call: of which process, as root or not, and what came of it."""

    pid: int
    is_root: bool
    name: str
    arguments: str
    result: str
    #: What a descriptor that was returned is of.
    opened: str

    @property
    def has_worked(self) -> bool:
        """Was it not refused?"""
        return not self.result.startswith("-")

    @property
    def paths(self) -> Tuple[str, ...]:
        """What it names, below the folder that it is told; not what it is told itself."""
        found = tuple(_plain(text) for text, _ in _STRING.findall(self.arguments))
        folder = _FOLDER.match(self.arguments)
        return tuple(
            f"{folder[1].rstrip('/')}/{path}" if folder and path[:1] not in ("", "/") else path
            for path in found[: _NAMED.get(self.name)]
        )

    def number(self, place: int) -> int:
        """Its argument in that place, which is a number (and a comment, maybe)."""
        return int(self.arguments.split(", ")[place].split("<")[0].split(" ")[0])


def _plain(text: str) -> str:
    return text.encode().decode("unicode_escape").encode("latin-1").decode(errors="replace")


def strace(folder: Path) -> List[str]:
    """The beginning of a command that writes a trace into ``folder``, for `calls`."""
    return ["strace", "-ff", "-y", "-s", "9999", "-e", f"trace={CALLS}", "-e", "signal=none",
            "-o", str(folder / "of")]  # fmt: skip


def calls(folder: Path, first: int) -> Iterator[Call]:
    """All calls of the process ``first``, which began as root, and of those it made."""
    waiting: List[Tuple[int, bool]] = [(first, True)]
    while waiting:
        pid, is_root = waiting.pop()
        for line in _lines(folder, pid):
            match = _CALL.fullmatch(line)
            if match is None:
                continue
            name, arguments, result, opened = match.groups()
            call = Call(pid, is_root, name, arguments, result, opened or "")
            yield call
            if name in _MAKES_A_PROCESS and call.has_worked and result != "?":
                waiting.append((int(result), is_root))
            if name in _CHANGES_THE_USER and call.has_worked:
                is_root = is_root and call.number(0) == 0


def _lines(folder: Path, pid: int) -> List[str]:
    path = folder / f"of.{pid}"
    return path.read_text(errors="replace").split("\n") if path.exists() else []


def first_of(folder: Path) -> int:
    """The process that was traced from the beginning: nobody's child."""
    made: Dict[int, Optional[int]] = {
        int(path.suffix[1:]): None for path in folder.glob("of.*")
    }
    for pid in list(made):
        for line in _lines(folder, pid):
            match = _CALL.fullmatch(line)
            if match and match[1] in _MAKES_A_PROCESS and match[3].isdigit():
                made[int(match[3])] = pid
    (first,) = (pid for pid, parent in made.items() if parent is None)
    return first
