"""One test, run in a pool as an ordinary user would run it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import List, Tuple

from tests.htcondor.found import Script
from tests.htcondor.judge import End, reason
from tests.pool.pool import Pool
from vmcapsule.process import run

NATIVE, ROUTED = "native", "routed"
USER = "alice"
HOME = f"/home/{USER}/htcondor"
#: The tests look for this name in the path of the folder they run in.
_FOLDER = "condor_tests"
_CONFIG = "/etc/condor/condor_config"
#: What the submitting user's HTCondor reads: the pool's configuration, and every job routed.
_ROUTED_CONFIG = f"""\
include : {_CONFIG}
WantJobRouter = True
SUBMIT_ATTRS = $(SUBMIT_ATTRS) WantJobRouter
"""
_TIMED_OUT = 124
_LEAVE_S = 120


@dataclass(frozen=True)
class Source:
    """HTCondor's tests on this machine, and the folder of their perl modules."""

    folder: Path
    modules: Path


@dataclass(frozen=True)
class Trial:
    """Runs tests of ``source`` in a running pool one way, each for ``limit_s`` at most."""

    pool: Pool
    source: Source
    way: str
    limit_s: float

    def run(self, script: Script) -> End:
        """Run one test in a fresh copy of the folder and say how it ended.

        It leaves nothing behind: no job, no file.  `ToolError` when it does, or when the
        pool does not answer: that is then of no more use.
        """
        self._make(script)
        lacking = [name for name in script.programs if not self._compile(name, script)]
        if lacking:
            self._remove(script)
            why = f"it wants {lacking[0]}.exe, which does not compile by itself here"
            return End(False, why)
        done = self.pool.run(
            USER,
            self._argv(script),
            cwd=self._inside(script),
            timeout_s=self.limit_s,
            check=False,
        )
        jobs, carried = self._jobs(script)
        held = self._words(f"JobStatus == 5 && {self._only(script)}", "HoldReason")
        self._remove(script)
        if done.returncode == 0:
            return End(True, "", jobs, carried)
        why = reason(done.stdout.decode(errors="replace"))
        if done.returncode == _TIMED_OUT:
            why = f"not done after {self.limit_s:g} s; at last: {why}"
        if held:
            why = f"its job is held: {' '.join(held[0])} ({why})"
        return End(False, why, jobs, carried)

    def _top(self, script: Script) -> str:
        return f"{HOME}/{self.way}/{script.name}"

    def _inside(self, script: Script) -> str:
        return f"{self._top(script)}/{_FOLDER}"

    # Before

    def _make(self, script: Script) -> None:
        """Copy the tests, the user's own, and the configuration that routes."""
        top = self.pool.path(self._top(script))
        self.pool.space.make_folder(self._top(script), owner=USER)
        self.pool.put(f"{self._top(script)}/routed.config", _ROUTED_CONFIG, owner=USER)
        shutil.copytree(self.source.folder, top / _FOLDER, symlinks=True)
        for module in self.source.modules.glob("*.pm"):
            shutil.copy(module, top / _FOLDER)
        uid, gid = self.pool.space.account(USER)
        for path in [top / _FOLDER, *(top / _FOLDER).rglob("*")]:
            os.chown(path, uid, gid, follow_symlinks=False)

    def _compile(self, program: str, script: Script) -> bool:
        """Compile NAME.c or NAME.cpp, statically: it runs in the pool and in guests.

        False for one that needs HTCondor's libraries, and where there is no compiler; what
        has no source is the test's own to make.
        """
        target = self.pool.path(f"{self._inside(script)}/{program}.exe")
        for compiler, ending in (("cc", "c"), ("c++", "cpp")):
            source = self.source.folder / f"{program}.{ending}"
            if not source.is_file():
                continue
            argv = [compiler, "-w", "-static", "-o", target, source]
            if not shutil.which(compiler) or run(argv, timeout_s=60, check=False).returncode:
                return False
            target.chmod(0o755)
        return True

    def _argv(self, script: Script) -> List[str]:
        config = f"{self._top(script)}/routed.config" if self.way == ROUTED else _CONFIG
        # Some tests clear the environment but for this, so a file in HOME would not do.
        variables = [f"CONDOR_CONFIG={config}", f"PERL5LIB={self._inside(script)}"]
        perl = f"exec perl {script.name}.run 2>&1 </dev/null"
        return ["env", *variables, "sh", "-c", perl]

    # After

    def _jobs(self, script: Script) -> Tuple[int, int]:
        """How many jobs the test had, and how many of them began to run in a capsule."""
        mine = self._words(self._only(script), "ClusterId", "ProcId")
        copies = "RoutedFromJobId isnt undefined && NumJobStarts > 0"
        begun = {words[0] for words in self._words(copies, "RoutedFromJobId")}
        jobs = {".".join(words) for words in mine}
        return len(jobs), len(jobs & begun)

    def _words(self, constraint: str, *names: str) -> List[List[str]]:
        """These attributes of all jobs in the queue and past that the constraint is true of."""
        found = []
        for program in (["condor_q", "-allusers"], ["condor_history"]):
            argv = [*program, "-constraint", constraint, "-af", *names]
            printed = self.pool.run("root", argv).stdout.decode()
            found += [line.split() for line in printed.splitlines()]
        return found

    def _only(self, script: Script) -> str:
        # The names of tests have nothing that a regular expression takes for itself.
        return f'regexp("^{self._top(script)}/", Iwd)'

    def _remove(self, script: Script) -> None:
        """Remove the test's jobs, and its folder when they have left."""
        only = ["-constraint", self._only(script)]
        self.pool.run("root", ["condor_rm", *only], check=False)
        argv = ["condor_q", "-allusers", *only, "-af", "ClusterId"]
        self.pool.until(
            lambda: not self.pool.run("root", argv).stdout,
            _LEAVE_S,
            f"the jobs of {script.name} to leave the queue",
        )
        shutil.rmtree(self.pool.path(self._top(script)))
