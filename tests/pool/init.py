"""The init of a pool: process 1 in its namespaces, which stands in for systemd.

Starts ``condor_master``, starts it again when it ends, and collects orphans.  It runs in
the pool's root and imports nothing of ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Dict, Set

#: Debian's unit waits too; it must only be long enough not to spin.
RESTART_S = 1


def main() -> None:
    """Run for ever."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    make_run_folders()
    while True:
        master = subprocess.Popen(
            ["condor_master", "-f"], start_new_session=True, stdin=subprocess.DEVNULL
        )
        wait_for(master.pid)
        # As 'KillMode=mixed' in Debian's unit: what the master left behind dies with it,
        # or two schedds would write one job queue.
        for pid in descendants(1):
            kill(pid)
        time.sleep(RESTART_S)


def make_run_folders() -> None:
    """What systemd-tmpfiles and the unit make on an installed machine."""
    for name, mode in (("/run/condor", 0o775), ("/run/lock/condor", 0o775)):
        Path(name).mkdir(exist_ok=True)
        Path(name).chmod(mode)
        shutil.chown(name, "condor", "condor")


def wait_for(pid: int) -> None:
    """Collect children, adopted ones too, until ``pid`` has ended."""
    while os.waitpid(-1, 0)[0] != pid:
        pass


def descendants(ancestor: int) -> Set[int]:
    """The processes below ``ancestor``: not those that entered from the host."""
    parents: Dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue  # it has just ended
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found: Set[int] = {ancestor}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found - {ancestor}
        found |= more


def kill(pid: int) -> None:
    """Kill ``pid`` unless it has ended already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
