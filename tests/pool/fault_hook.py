#!/usr/bin/env python3
"""A JobRouter hook with a fault in it: stands in for the installed one of the same name.

It runs inside the pool and imports nothing of the tests.  The job's own ad says what is to
happen, so that jobs with different faults can be in flight together:

``+Fault = "NAME ACTION HOOK POINT"``
    In HOOK (translate, update, finalize, cleanup), the first time it comes to POINT,
    ACTION: ``kill`` is SIGKILL, ``wait`` is to stand still until NAME.go exists.
``+FaultKnobs = "KNOB=VALUE ..."``
    Configuration (VM_CAPSULE_KNOB) for the hooks of this job alone.

The points are what a process does to files, as Python's audit events tell it, so that
nothing here depends on how the product's functions are named.
"""

from __future__ import annotations

import os
import re
import runpy
import signal
import sys
import time
from io import BufferedWriter, RawIOBase, TextIOWrapper
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

INSTALLED = Path("/opt/vmcapsule/hooks")
#: Who was at which point: NAME.reached; who may go on: NAME.go.
STATE = Path("/var/faults")
POLL_S = 0.1

Test = Callable[[str, Tuple[Any, ...], Path], bool]


def main() -> None:
    """Run the installed hook, and let happen in it what the ad says."""
    name = Path(sys.argv[0]).name
    text = sys.stdin.buffer.read()
    _give_back(text)
    for knob in _string(text, "FaultKnobs").split():
        key, _, value = knob.partition("=")
        os.environ[f"_CONDOR_VM_CAPSULE_{key}"] = value
    words = _string(text, "Fault").split()
    hook = INSTALLED / name
    is_shell = hook.read_bytes().startswith(b"#!/bin/sh")
    if words and words[2] == name:
        _prepare(words[3], Path(_string(text, "Iwd")), _happening(words[0], words[1]))
        if is_shell:
            # What it starts in a process of its own.
            sys.path.insert(0, str(INSTALLED.parent))
            sys.argv = ["vmcapsule", name]
            runpy.run_module("vmcapsule", run_name="__main__")
    if is_shell:
        os.execv(hook, [str(hook)])  # noqa: S606 - the hook is ours
    runpy.run_path(str(hook), run_name="__main__")


def _give_back(text: bytes) -> None:
    """Let the hook find on its standard input what was read from it."""
    fd = os.memfd_create("stdin")
    os.write(fd, text)
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 0)
    sys.stdin = open(0)  # noqa: SIM115, PTH123 - it stays open


def _string(text: bytes, attribute: str) -> str:
    """The first string of that name in the ads: the source's, where it comes first."""
    match = re.search(rf'^{attribute} = "(.*)"$', text.decode(errors="replace"), re.MULTILINE)
    return match[1] if match else ""


def _happening(name: str, action: str) -> Callable[[], None]:
    """What happens at the point, once for a job."""

    def happen() -> None:
        try:
            (STATE / f"{name}.reached").open("x").close()
        except FileExistsError:
            return
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        while not (STATE / f"{name}.go").exists():
            time.sleep(POLL_S)

    return happen


class _Printing(RawIOBase):
    """Standard output where something happens before the first byte of it is written."""

    def __init__(self, happen: Callable[[], None]) -> None:
        self._happen = happen

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def write(self, data: Any) -> int:
        self._happen()
        return os.write(1, data)


def _prepare(point: str, iwd: Path, happen: Callable[[], None]) -> None:
    """Have ``happen`` called at ``point``, once in this process."""
    if point == "begin":
        happen()
    elif point == "print":
        sys.stdout = TextIOWrapper(BufferedWriter(_Printing(happen)))
    elif point == "end":
        import atexit

        atexit.register(happen)
    else:
        _watch(_EVENTS[point], iwd, happen)


def _staging() -> Test:
    """An input is opened once there is a folder to put the capsule's parts into."""
    has_folder = False

    def is_input(event: str, words: Tuple[Any, ...], iwd: Path) -> bool:
        nonlocal has_folder
        has_folder = has_folder or event == "os.mkdir"
        return has_folder and event == "open" and str(words[0]) == str(iwd / "in.bin")

    return is_input


def _is_draft(event: str, words: Tuple[Any, ...], iwd: Path) -> bool:
    """A file is made in the user's folder."""
    if event != "open" or isinstance(words[0], int) or not words[2] & os.O_CREAT:
        return False
    return Path(os.fsdecode(words[0])).parent == iwd


def _is_rename(event: str, words: Tuple[Any, ...], iwd: Path) -> bool:
    """A file gets its name in the user's folder."""
    return event == "os.rename" and Path(os.fsdecode(words[1])).parent == iwd


def _is_removal(event: str, words: Tuple[Any, ...], iwd: Path) -> bool:
    return event == "os.remove" and not os.fsdecode(words[0]).endswith(".pyc")


#: Which event it is, and before which of its kind (from 1) the point lies.
_EVENTS: Dict[str, Tuple[Test, int]] = {
    "staging": (_staging(), 1),
    "drafting": (_is_draft, 2),
    "renaming": (_is_rename, 2),
    "deleting": (_is_removal, 2),
}


def _watch(which: Tuple[Test, int], iwd: Path, happen: Callable[[], None]) -> None:
    test, number = which
    seen = 0

    def hear(event: str, words: Tuple[Any, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.mkdir", "os.rename", "os.remove") and test(event, words, iwd):
            seen += 1
            if seen == number:
                happen()

    sys.addaudithook(hear)


if __name__ == "__main__":
    main()
