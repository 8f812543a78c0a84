"""Where a way's copies of the cases lie in the pool: made anew, at paths of equal length."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Collection, Dict, Tuple

from tests.conformance.cases import DAG_FILE, EXPECTED, PREPARE, Case
from tests.conformance.outcome import Entry, JobEnd
from tests.conformance.tree import snapshot
from tests.pool.pool import Pool

USER = "alice"
HOME = f"/home/{USER}/conf"
#: As long as the longest name of a way, so that no size depends on the way.
_WIDTH = 8
_ANY_WAY = b"ANY_WAY_"
#: How long making a case's inputs may take.
PREPARE_TIMEOUT_S = 300
#: The name of every user log in a case.
LOG = b"log"


@dataclass(frozen=True)
class Place:
    """The folder of one case, one way, in the pool."""

    pool: Pool
    way: str
    case: Case

    @property
    def inside(self) -> str:
        """The folder's path inside the pool."""
        assert len(self.way) <= _WIDTH
        return f"{HOME}/{self.way:_<{_WIDTH}}/{self.case.name}"

    def make(self) -> None:
        """Copy the case's inputs there, the user's own, and have the others made."""
        uid, gid = self.pool.space.account(USER)
        self.pool.space.make_folder(str(Path(self.inside).parent), owner=USER)
        folder = self.pool.path(self.inside)
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(self.case.folder, folder, symlinks=True)
        (folder / EXPECTED).unlink(missing_ok=True)
        for path in [folder, *folder.rglob("*")]:
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
            os.chown(path, uid, gid)
        if (folder / PREPARE).exists():
            self.run(["sh", "-c", f"umask 022; ./{PREPARE}"], timeout_s=PREPARE_TIMEOUT_S)
            (folder / PREPARE).unlink()

    def run(self, argv: Collection[str], *, timeout_s: float = 60, check: bool = True) -> bytes:
        """Run a program there as the user; return what it printed."""
        done = self.pool.run(
            USER, list(argv), cwd=self.inside, timeout_s=timeout_s, check=check
        )
        return done.stdout

    def neutral(self, data: bytes) -> bytes:
        """Without what is this way's."""
        mine = f"{HOME}/{self.way:_<{_WIDTH}}/".encode()
        return data.replace(mine, f"{HOME}/".encode() + _ANY_WAY + b"/")

    def neutral_end(self, end: JobEnd) -> JobEnd:
        """An end whose reason is the same for all ways."""
        reason = self.neutral(end.reason.encode(errors="surrogateescape"))
        return replace(end, reason=reason.decode(errors="surrogateescape"))

    def tree(self, clusters: Collection[int]) -> Dict[bytes, Entry]:
        """What is there, user logs aside, which are compared by what they tell.

        A core file is named for its job's cluster, whose number nobody can foretell.
        """
        numbers = "|".join(map(str, sorted(clusters))) or "none"
        core = re.compile(rf"core\.(?:{numbers})\.(\d+)".encode())

        def neutral(data: bytes) -> bytes:
            return core.sub(rb"core.CLUSTER.\1", self.neutral(data))

        found = snapshot(self.pool.path(self.inside), neutral)
        return {path: entry for path, entry in found.items() if path.split(b"/")[-1] != LOG}

    def logs(self) -> Tuple[str, ...]:
        """The texts of the user logs."""
        folder = self.pool.path(self.inside)
        paths = sorted(folder.rglob(os.fsdecode(LOG)))
        if self.case.is_dag:
            paths += sorted(folder.glob(f"{DAG_FILE}.nodes.log"))
        return tuple(path.read_text(errors="replace") for path in paths if path.is_file())

    def remove(self) -> None:
        """Remove the folder: some are large."""
        shutil.rmtree(self.pool.path(self.inside), ignore_errors=True)


def crowd() -> float:
    """How many want each processor of this machine, now or a few minutes ago; at least 1."""
    return max(1.0, max(os.getloadavg()[:2]) / (os.cpu_count() or 1))
