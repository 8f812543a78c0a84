"""Timing whole processes, in turns: what disturbs the machine disturbs all alike."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from vmcapsule.errors import ToolError, one_line
from vmcapsule.process import find

#: For a program that hangs.
LIMIT_S = 900.0


@dataclass(frozen=True)
class Run:
    """What one process used, its children included; None: nobody can tell."""

    wall_s: float
    cpu_s: Optional[float] = None


Runs = Tuple[Run, ...]


@dataclass(frozen=True)
class Command:
    """A program to time, with its standard input and what its environment adds to ours."""

    argv: Tuple[str, ...]
    stdin: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


def command(*argv: object, stdin: str = "", env: Optional[Mapping[str, str]] = None) -> Command:
    """A `Command` of anything that has a string."""
    return Command(tuple(str(one) for one in argv), stdin, env or {})


@dataclass(frozen=True)
class Contender:
    """Somebody who does the work; ``prepare`` clears the table before, and is not timed."""

    name: str
    command: Command
    prepare: Callable[[], None] = lambda: None


def timed(todo: Command) -> Run:
    """Run a program to its end; `ToolError` with what it printed when it fails."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as output:
        stdin.write(todo.stdin.encode())
        stdin.seek(0)
        argv = [find(todo.argv[0]), *todo.argv[1:]]
        started_s = time.perf_counter()
        process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=output,
            stderr=output,
            env={**os.environ, **todo.env},
            start_new_session=True,
        )
        timer = threading.Timer(LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
        timer.daemon = True
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - started_s
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            said = one_line(output.read()[-1000:].decode(errors="replace"))
            raise ToolError(f"'{' '.join(argv)}' ended with {process.returncode}: {said}")
    return Run(wall_s, usage.ru_utime + usage.ru_stime)


def alternate(
    contenders: Sequence[Contender], rounds: int, budget_s: float = 120.0
) -> Dict[str, Runs]:
    """Time each contender ``rounds`` times, in turns; every second round backwards.

    One that has used up ``budget_s`` seconds is not run again.  What earlier runs wrote
    goes to the disk first, so that nobody pays for another's writing.
    """
    runs: Dict[str, List[Run]] = {one.name: [] for one in contenders}
    for number in range(rounds):
        for one in contenders if number % 2 == 0 else contenders[::-1]:
            if sum(run.wall_s for run in runs[one.name]) < budget_s:
                one.prepare()
                os.sync()
                runs[one.name].append(timed(one.command))
    return {name: tuple(found) for name, found in runs.items()}


def median_s(runs: Sequence[Run]) -> float:
    """The median wall-clock time, in seconds."""
    return statistics.median(run.wall_s for run in runs)


def ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    """How much longer ours took: the median over the rounds that both were in."""
    return statistics.median(a.wall_s / b.wall_s for a, b in zip(ours, theirs))
