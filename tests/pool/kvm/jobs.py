"""Jobs whose machines are libvirt's, and what is left of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

from tests.pool.faults import assert_quiet
from tests.pool.kvm.libvirt import Libvirt
from tests.pool.pool import JobId, Pool
from tests.pool.processes import matching

#: Emulated, many at once, and a starter that waits.
TIMEOUT_S = 900
QEMU = r"\S*qemu-system-x86_64 "
GAHP = r"\S*condor_vm-gahp "


def machine_of(pool: Pool, job: JobId) -> Optional[int]:
    """The QEMU of ``job`` as the host sees it."""
    name = _name_of(pool, job)
    found = matching(pool, rf"{QEMU}.*guest={re.escape(name)}[, ]") if name else []
    return found[0] if found else None


def _name_of(pool: Pool, job: JobId) -> Optional[str]:
    """How vm-gahp calls the machine of ``job``, which is alice's: by the routed job."""
    for copy in pool.queue(f'RoutedFromJobId == "{job}"'):
        return f"alice_pool.test_{copy.integer('ClusterId')}.0"
    return None


def wait_for_machine(pool: Pool, job: JobId) -> int:
    """Wait until a machine runs for ``job``; return its process on the host."""

    def runs() -> bool:
        # A machine that is killed as libvirt starts it vm-gahp starts once more.
        asked = ["virsh", "domstate", _name_of(pool, job) or "none"]
        return pool.run("root", asked, check=False).stdout.strip() == b"running"

    pool.until(runs, TIMEOUT_S, f"the machine of {job}")
    pid = machine_of(pool, job)
    assert pid is not None
    return pid


def assert_all_gone(pool: Pool, libvirt: Libvirt) -> None:
    """No job, no machine, no gahp, and no file of theirs is left."""
    pool.until(lambda: not libvirt.domains(), TIMEOUT_S, "libvirt to have no machine")
    # HTCondor's note of a starter that was killed, by which a new startd would end its machine.
    for path in pool.path("/var/lib/condor/execute").glob("dir_*.recover"):
        path.unlink()
    assert_quiet(pool)
    assert matching(pool, GAHP) == []
    runs = [path.name for path in pool.path("/run/libvirt/qemu").glob("*.xml")]
    assert runs == []


def user_of(pid: int) -> int:
    """The user that a process is, in all ways."""
    match = re.search(r"^Uid:\s+(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    (uid,) = {int(each) for each in match[1].split()}
    return uid
