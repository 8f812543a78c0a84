"""A place of its own for a pool: mount, process, network, IPC and host name namespaces.

One process holds it together, the pool's init.  When that dies the kernel kills all that
runs inside, and mounts and network go with the last of them: there is nothing to undo.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple, Union

from vmcapsule.errors import ToolError, UsageError, one_line
from vmcapsule.process import find

BOOT_TIMEOUT_S = 60
_SAID_LINES = 5
_SAID_CHARS = 1000
_HERE = Path(__file__).resolve().parent
#: Where the folders of a pool's own are, below the suite's.
RUNS = "runs"


@dataclass(frozen=True)
class Process:
    """A process on the host; the start time (clock ticks since boot) tells a reused number."""

    pid: int
    start_ticks: int

    @property
    def alive(self) -> bool:
        """Does it run still?  (A zombie does not.)"""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return _process(stat) == self and stat.rpartition(")")[2].split()[0] not in "ZX"


def _process(stat: str) -> Process:
    """Read the text of /proc/PID/stat (proc(5): fields 1 and 22)."""
    return Process(int(stat.split()[0]), int(stat.rpartition(")")[2].split()[19]))


class Space:
    """The namespaces named ``name`` over ``suite_folder``/root, with files of their own.

    What is written inside lies in ``folder``/upper on the host and goes with `stop`.
    """

    def __init__(self, suite_folder: Path, name: str) -> None:
        self.name = name
        self.folder = suite_folder / RUNS / name
        self._unshare: Optional[subprocess.Popen[bytes]] = None

    def init(self) -> Optional[Process]:
        """The init as the host sees it, or None when the space is not running."""
        try:
            process = _process((self.folder / "init.stat").read_text())
        except (OSError, IndexError, ValueError):
            return None  # never begun, or not far enough to be told of
        return process if process.alive else None

    def running(self) -> Process:
        """Return the init; `UsageError` when the space is not running."""
        process = self.init()
        if process is None:
            raise UsageError(
                f"the pool '{self.name}' is not running", "start it with './dev pool'"
            )
        return process

    def prepare(self) -> None:
        """Make the folder anew; files may then be put inside, and `boot` called."""
        self.discard()
        self.folder.mkdir(parents=True)
        for name in ("upper", "work", "mnt"):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(0o755)
        self.put("/usr/local/sbin/pool-init", (_HERE / "init.py").read_bytes(), mode=0o755)
        names = f"127.0.0.1 localhost\n127.0.0.1 {self.host_name}\n::1 localhost\n"
        self.put("/etc/hosts", names)
        self.put("/etc/hostname", f"{self.host_name}\n")
        # There is no network inside, and so no name server.
        self.put("/etc/resolv.conf", "")

    @property
    def host_name(self) -> str:
        """What the machine inside calls itself."""
        return f"{self.name}.pool.test"

    def boot(self, *, linger: bool) -> None:
        """Start the init; without ``linger`` it dies with the process that called this."""
        end_with_caller = [] if linger else [find("setpriv"), "--pdeathsig", "KILL"]
        kinds = ["--mount", "--pid", "--net", "--ipc", "--uts"]
        argv = [*end_with_caller, find("unshare"), *kinds, "--fork", "--kill-child"]
        argv += ["--propagation", "private", "--", "/bin/sh", str(_HERE / "boot.sh")]
        log = self.folder / "boot.log"
        with log.open("wb") as output:
            self._unshare = subprocess.Popen(
                [*argv, str(self.folder), self.host_name],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        deadline_s = time.monotonic() + BOOT_TIMEOUT_S
        while not self._entered():
            if self._unshare.poll() is not None or time.monotonic() > deadline_s:
                self.stop()
                raise ToolError(f"the pool's namespaces could not be set up: {self.said()}")
            time.sleep(0.02)

    def said(self) -> str:
        """The last that init and condor_master said, where the daemons' logs may be silent.

        That is why the master does not start: it says so there, again at every try.
        """
        log = self.folder / "boot.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        each = dict.fromkeys(line.strip() for line in lines if line.strip())
        return one_line(" / ".join([*each][-_SAID_LINES:])[-_SAID_CHARS:])

    def _entered(self) -> bool:
        """Has the init left the host's root and begun?"""
        process = self.init()
        if process is None:
            return False
        return b"pool-init" in Path(f"/proc/{process.pid}/cmdline").read_bytes()

    def stop(self) -> bool:
        """Kill all that runs inside and return when it is dead; False: nothing ran."""
        process = self.init()
        if process is not None:
            _kill(process)
        if self._unshare is not None:
            self._unshare.kill()
            self._unshare.wait()
            self._unshare = None
        return process is not None

    def discard(self) -> None:
        """Remove the files of a space that is not running."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def path(self, inside: str) -> Path:
        """The host's path of an absolute path inside.

        Running: through the init's root.  Before `boot`: what will be laid over the root.
        """
        process = self.init()
        top = Path(f"/proc/{process.pid}/root") if process else self.folder / "upper"
        return top / inside.lstrip("/")

    def put(
        self, inside: str, data: Union[str, bytes], *, mode: int = 0o644, owner: str = "root"
    ) -> None:
        """Write a file inside, making its folders; ``owner`` has an account inside."""
        path = self.path(inside)
        self.make_folder(str(Path(inside).parent), owner=owner)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        path.chmod(mode)
        os.chown(path, *self.account(owner))

    def make_folder(self, inside: str, *, mode: int = 0o755, owner: str = "root") -> None:
        """Make a folder inside and the folders above it; one that is there stays as it is."""
        path = self.path(inside)
        if path.is_dir():
            return
        self.make_folder(str(Path(inside).parent), owner=owner)
        path.mkdir(exist_ok=True)  # others may be making it, too
        path.chmod(mode)
        os.chown(path, *self.account(owner))

    def account(self, user: str) -> Tuple[int, int]:
        """The numbers of a user inside and of their group; `UsageError` for a stranger."""
        if user == "root":
            return 0, 0
        account = account_in(self.path("/"), user)
        if account is not None:
            return account
        raise UsageError(f"'{user}' has no account in the pool", "use alice or bob")

    def entering(self, user: str, cwd: str, argv: Sequence[str]) -> List[str]:
        """The command line that runs ``argv`` inside as ``user`` in the folder ``cwd``."""
        process = self.running()
        kinds = ["--mount", "--pid", "--net", "--ipc", "--uts", "--root"]
        become = [f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env"]
        return [
            *[find("nsenter"), f"--target={process.pid}", *kinds, f"--wdns={cwd}", "--"],
            *["setpriv", *become, "--", *argv],
        ]

    def processes(self) -> Dict[int, List[str]]:
        """The arguments of all that runs inside, by the host's process number."""
        process = self.init()
        if process is None:
            return {}
        namespace = Path(f"/proc/{process.pid}/ns/pid").readlink()
        found: Dict[int, List[str]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "ns/pid").readlink() == namespace:
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    found[int(folder.name)] = [os.fsdecode(word) for word in words[:-1]]
            except OSError:
                continue  # it has just ended
        return found


def account_in(root: Path, user: str) -> Optional[Tuple[int, int]]:
    """The numbers of a user and of their group in the system at ``root``; None: no such."""
    for line in (root / "etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == user:
            return int(fields[2]), int(fields[3])
    return None


def _kill(process: Process) -> None:
    """Kill one process and wait until it is dead, and never another of its number."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # The number cannot be used again while it is held, so look only now.
        if process.alive:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            # An init is dead only when all in its namespace are.
            if not select.select([pidfd], [], [], BOOT_TIMEOUT_S)[0]:
                raise ToolError(f"process {process.pid} of the pool does not die")
    finally:
        os.close(pidfd)


def all_spaces(suite_folder: Path) -> List[Space]:
    """Every space over a suite's root of which there are files."""
    runs = suite_folder / RUNS
    names = sorted(path.name for path in runs.iterdir()) if runs.is_dir() else []
    return [Space(suite_folder, name) for name in names]
