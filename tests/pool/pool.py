"""A real HTCondor pool for tests, on one machine and in namespaces of its own.

`Pool` is what tests and ``./dev pool`` use; `space` isolates it, `root` builds the Debian
it runs on, `plugin` installs vmcapsule in it, and `daemons` knows HTCondor's daemons.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Collection, Dict, Mapping, Optional, Sequence, Tuple, Union

from tests.pool import plugin, root
from tests.pool.daemons import LOGS, PROGRAMS, Daemons
from tests.pool.space import Space, all_spaces
from vmcapsule.classad.ads import Ad, split_many
from vmcapsule.config import default_cache
from vmcapsule.errors import ToolError, UsageError
from vmcapsule.process import run

IDLE, RUNNING, REMOVED, COMPLETED, HELD = 1, 2, 3, 4, 5
_CONFIG_FOLDER = "/etc/condor/config.d"
_READY_S = 90
_POLL_S = 0.4


class PoolError(ToolError):
    """A command in the pool failed, or what was waited for did not come."""


@dataclass(frozen=True)
class JobId:
    """A job's number; ``str()`` gives it as HTCondor writes it: ``12.0``."""

    cluster: int
    proc: int = 0

    def __str__(self) -> str:
        return f"{self.cluster}.{self.proc}"


def require_root() -> None:
    """Raise `UsageError` for anybody else."""
    if os.geteuid() != 0:
        raise UsageError("a pool needs root, who may make namespaces", "run it with sudo")


class Pool:
    """One pool: all of HTCondor's roles, the users alice and bob, and the plugin.

    ``name`` tells pools over the same root apart; ``templates`` is a folder to take the
    template VM from instead of the cache's.
    """

    def __init__(
        self,
        suite: str = "trixie",
        name: str = "dev",
        cache: Optional[Path] = None,
        templates: Optional[Path] = None,
    ) -> None:
        self.suite = suite
        self.cache = cache or default_cache()
        self.templates = templates
        self.folder = self.cache / "pool" / suite
        self.space = Space(self.folder, name)
        self.daemons = Daemons(self.space)

    # Its life

    def build(self) -> None:
        """Build the root if need be, as `start` does; its errors are those of `start`."""
        require_root()
        with root.locked(self.folder):
            self._prepare_root()

    def start(self, *, linger: bool = False, with_plugin: bool = True) -> None:
        """Build the root if need be, start the pool and return when it takes jobs.

        Without ``linger`` the pool dies with the calling process.  Raises `UsageError`
        when not root or already running, `ToolError` when a program is missing or
        HTCondor does not come up.
        """
        require_root()
        with root.locked(self.folder):
            self._prepare_root()
            self.space.prepare()
            self.configure("10-pool", (Path(__file__).parent / "pool.conf").read_text())
            if with_plugin:
                self.install_plugin()
            self.space.boot(linger=linger)
        try:
            self.until(self.is_ready, _READY_S, "HTCondor to come up")
            if with_plugin:
                self._compile_plugin()
        except PoolError as error:
            explained = self.explained(error)
            self.stop()
            raise explained from error

    def explained(self, error: PoolError) -> PoolError:
        """Why the pool did not come up: with the master's last words, and all logs kept."""
        kept = self.folder / f"{self.space.name}.failed.log"
        kept.write_text(self.logs_text())
        said = self.space.said()
        message = f"{error.message}; its master said: {said}" if said else error.message
        return PoolError(message, f"its logs are in {kept}")

    def _prepare_root(self) -> None:
        """Sweep up after pools that died, and see that the root is today's."""
        spaces = {space.name: space for space in all_spaces(self.folder)}
        alive = [name for name, space in spaces.items() if space.init()]
        if self.space.name in alive:
            remedy = "end it with './dev pool stop'"
            raise UsageError(f"the pool '{self.space.name}' is already running", remedy)
        for name in set(spaces) - set(alive):
            spaces[name].discard()
        if root.is_current(self.folder, self.suite):
            return
        if alive:
            message = f"the recipe for the root has changed, but '{alive[0]}' runs on the old"
            raise UsageError(message, "stop that pool, then try again")
        root.build_root(self.folder, self.suite)

    def stop(self) -> bool:
        """Kill everything inside and remove its files; False when nothing was running."""
        require_root()
        with root.locked(self.folder):
            was_running = self.space.stop()
            self.space.discard()
        return was_running

    def is_ready(self) -> bool:
        """Do all daemons run, and does the pool know its slot and its schedd?"""
        if any(not self.daemons.started(name) for name in PROGRAMS):
            return False
        known = [
            ["condor_status", "-startd", "-af", "Name"],
            ["condor_status", "-schedd", "-af", "Name"],
            ["condor_q", "-allusers", "-limit", "1", "-af", "ClusterId"],
        ]
        answers = [self.run("root", argv, check=False) for argv in known]
        return all(a.returncode == 0 for a in answers) and all(a.stdout for a in answers[:2])

    # Inside

    def run(
        self,
        user: str,
        argv: Sequence[str],
        *,
        cwd: str = "/",
        stdin: Union[str, bytes, None] = None,
        timeout_s: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program inside as ``user``; `ToolError` for a failure (with ``check``).

        It is killed after ``timeout_s`` seconds; its status is then 124.
        """
        limited = ["timeout", "--kill-after=5", f"{timeout_s:g}", *argv]
        command = self.space.entering(user, cwd, limited)
        # 'timeout' runs inside, where it reaches what nsenter's own death would not.
        return run(command, timeout_s=timeout_s + 15, stdin=stdin, check=check)

    def path(self, inside: str) -> Path:
        """The host's path of a file inside, to read or write it as root."""
        return self.space.path(inside)

    def put(
        self, inside: str, data: Union[str, bytes], *, mode: int = 0o644, owner: str = "root"
    ) -> None:
        """Write a file inside, making its folders."""
        self.space.put(inside, data, mode=mode, owner=owner)

    def read(self, inside: str) -> str:
        """Return a file's text."""
        return self.path(inside).read_text(errors="replace")

    # Its configuration

    def configure(self, name: str, text: str) -> None:
        """Write ``name`` into HTCondor's config.d; files count in the order of names."""
        self.put(f"{_CONFIG_FOLDER}/{name}", text)

    def unconfigure(self, name: str) -> None:
        """Remove what `configure` wrote."""
        self.path(f"{_CONFIG_FOLDER}/{name}").unlink()

    def reconfigure(self) -> None:
        """Have every daemon read the configuration again; return when they have.

        What HTCondor reads at start only (``DAEMON_LIST``, ``PIPE_BUFFER_MAX``) needs
        ``restart("MASTER")``.
        """
        # The master reads it as it tells the others, without a signal and without a word.
        told = [name for name in PROGRAMS if name != "MASTER"]
        before = {name: self.daemons.readings(name) for name in told}
        self.run("root", ["condor_reconfig"])
        for name in told:
            self.until(
                lambda name=name: self.daemons.readings(name) > before[name],  # type: ignore[misc]
                60,
                f"{name} to read its configuration",
            )

    def install_plugin(self, knobs: Optional[Mapping[str, object]] = None) -> None:
        """Install this checkout, and configure its knobs and route as ``50-vmcapsule``.

        In a running pool `reconfigure` or `restart` makes it count.
        """
        self.configure(
            "50-vmcapsule", plugin.install(self.space, knobs, self.cache, self.templates)
        )

    def change_route(self, knobs: Optional[Mapping[str, object]] = None) -> None:
        """Install this checkout in a running pool with other knobs; return when they count."""
        self.install_plugin(knobs)
        self._compile_plugin()
        # Not killed: a schedd may not have written yet that a job has left its queue.
        self.restart("MASTER", signal.SIGQUIT)

    def _compile_plugin(self) -> None:
        """As an installation has it: hooks run as users who may not write there."""
        compiled = ["python3", "-m", "compileall", "-q", f"{plugin.HOME}/vmcapsule"]
        self.run("root", compiled)

    # Jobs

    def submit(
        self,
        user: str,
        folder: str,
        submit_text: str,
        files: Optional[Mapping[str, Union[str, bytes]]] = None,
        options: Sequence[str] = (),
    ) -> JobId:
        """Write ``files`` and the submit file into ``folder`` and submit; return job 0.

        ``folder`` is absolute, or relative to the user's home; a file that begins with
        '#!' is made executable; ``options`` are condor_submit's.
        """
        folder = os.path.join(f"/home/{user}", folder)  # noqa: PTH118 - a path inside
        for name, data in {"job.sub": submit_text, **(files or {})}.items():
            raw = data.encode() if isinstance(data, str) else data
            mode = 0o755 if raw.startswith(b"#!") else 0o644
            self.put(f"{folder}/{name}", raw, mode=mode, owner=user)
        argv = ["condor_submit", "-terse", *options, "job.sub"]
        printed = self.run(user, argv, cwd=folder).stdout.decode()
        match = re.match(r"(\d+)\.(\d+) - ", printed)
        if match is None:
            raise PoolError(f"condor_submit printed {printed!r}")
        return JobId(int(match.group(1)), int(match.group(2)))

    def queue(self, *which: object) -> Tuple[Ad, ...]:
        """The ads of jobs in the queue: of all, or of ids and of constraints."""
        return self._ads("condor_q", ["-allusers", "-long"], which)

    def past(self, *which: object) -> Tuple[Ad, ...]:
        """The ads of jobs that have left the queue, the latest first."""
        return self._ads("condor_history", ["-long"], which)

    def _ads(
        self, program: str, options: Sequence[str], which: Sequence[object]
    ) -> Tuple[Ad, ...]:
        argv = [program, *options]
        for one in which:
            argv += [str(one)] if isinstance(one, JobId) else ["-constraint", str(one)]
        return split_many(self.run("root", argv).stdout.decode())

    def history(self, job: JobId) -> Ad:
        """The ad of one job that has left the queue; `PoolError` when there is none."""
        found = self.past(job)
        if not found:
            raise PoolError(f"job {job} is not in the history", "see that it has ended")
        return found[0]

    def routed(self, job: JobId) -> Tuple[Ad, ...]:
        """The ads of the copies that the router made of ``job``, in the queue or past."""
        constraint = f'RoutedFromJobId == "{job}"'
        return (*self.queue(constraint), *self.past(constraint))

    def wait(self, job: JobId, timeout_s: float = 120, until: Collection[int] = ()) -> Ad:
        """Wait until ``job`` has left the queue, or its JobStatus is one of ``until``.

        Returns its ad then.  Raises `PoolError` when the time is up, and at once for a job
        that is held and was not to be.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            ads = self.queue(job)
            status = ads[0].integer("JobStatus") if ads else None
            if ads and status in until:
                return ads[0]
            past = () if ads else self.past(job)
            if past:
                return past[0]
            if ads and status == HELD:
                raise PoolError(f"job {job} is held: {ads[0].value('HoldReason')}")
            if time.monotonic() > deadline_s:
                raise PoolError(f"job {job} (JobStatus {status}) took over {timeout_s:g} s")
            time.sleep(_POLL_S)

    def until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Call ``done`` until it is true; `PoolError` naming ``what`` when time is up.

        The logs are attached to a failing test.
        """
        deadline_s = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline_s:
                raise PoolError(f"waited {timeout_s:g} s in vain for {what}")
            time.sleep(_POLL_S)

    # Its daemons

    def restart(self, daemon: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends a daemon, and wait until its successor serves.

        ``daemon`` is HTCondor's name, such as JOB_ROUTER.  With MASTER all are restarted.
        """
        affected = list(PROGRAMS) if daemon == "MASTER" else [daemon]
        before = {name: self.daemons.pid(name) for name in affected}
        self.daemons.kill(daemon, sig)
        for name in affected:
            self.until(
                lambda name=name: self.daemons.pid(name) not in (None, before[name]),  # type: ignore[misc]
                60,
                f"{name} to be restarted",
            )
        self.until(self.is_ready, _READY_S, f"the pool to serve again after {daemon}'s end")

    def logs(self, lines: int = 40) -> Dict[str, str]:
        """The last lines of every daemon's log, by the log's name; and what came before."""
        folder = self.path(LOGS)
        found = {"boot.log": self.space.said()}
        for path in sorted(folder.glob("*Log*")) if folder.is_dir() else ():
            text = path.read_text(errors="replace").splitlines()
            found[path.name] = "\n".join(text[-lines:])
        return found

    def logs_text(self, lines: int = 40) -> str:
        """`logs` as one text with headings."""
        return "\n".join(f"==> {name} <==\n{text}" for name, text in self.logs(lines).items())
