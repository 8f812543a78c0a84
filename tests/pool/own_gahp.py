"""A pool whose VM universe our own vm-gahp serves, and what its jobs' machines are doing."""

from __future__ import annotations

import contextlib
from typing import Iterator, List

from tests.pool.daemons import LOGS, inner_pid
from tests.pool.faults import assert_quiet
from tests.pool.jobs import TIMEOUT_S, copy_of
from tests.pool.pool import JobId, Pool
from tests.pool.processes import gahps, is_gone, machines, of_job

#: What `advertised` returns.
ADVERTISED = ("HasVM", "VM_Type", "VM_Memory", "VMCapsuleHypervisor")
#: Such machines wait more than they work: a starter has half a minute for each.
_MORE, _MORE_CONFIG = "60-more", "NUM_CPUS = 8\nMEMORY = 16384\n"


@contextlib.contextmanager
def vm_route(pool: Pool, ad_template: str) -> Iterator[None]:
    """The pool with the route that is printed for ``ad_template``, then again with its own."""
    pool.install_plugin({"CONDOR_CLASSAD_TEMPLATE": ad_template})
    pool.configure(_MORE, _MORE_CONFIG)
    pool.restart("MASTER")
    wait_for_vms(pool)
    yield
    pool.run("root", ["condor_rm", "-all"], check=False)
    pool.until(lambda: not pool.queue(), 90, "the queue to be empty")
    pool.unconfigure(_MORE)
    pool.install_plugin()
    pool.restart("MASTER")


def advertised(pool: Pool) -> List[str]:
    """What the startd says of the machine, for each of `ADVERTISED`."""
    argv = ["condor_status", "-constraint", "SlotID == 1", "-af:t", *ADVERTISED]
    return pool.run("alice", argv).stdout.decode().split("\n")[0].split("\t")


def wait_for_vms(pool: Pool) -> None:
    """Wait until jobs of the VM universe can run."""
    pool.until(lambda: advertised(pool)[0] == "true", 90, "the startd to have VMs")


def wait_for_gahp(pool: Pool, job: JobId) -> int:
    """Wait until a gahp serves the starter of ``job``; return its process."""
    pool.until(lambda: of_job(gahps(pool), job) is not None, TIMEOUT_S, f"the gahp of {job}")
    pid = of_job(gahps(pool), job)
    assert pid is not None
    return pid


def wait_for_machine(pool: Pool, job: JobId) -> int:
    """Wait until a machine runs for ``job``; return its process."""
    pool.until(
        lambda: of_job(machines(pool), job) is not None, TIMEOUT_S, f"the machine of {job}"
    )
    pid = of_job(machines(pool), job)
    assert pid is not None
    return pid


def wait_until_known(pool: Pool, gahp: int) -> None:
    """Wait until the starter that a gahp serves knows the machine.

    Before that it only waits, and takes the end of a gahp for a failure to start.
    """
    told = f"VMGAHP[{inner_pid(gahp)}] (stderr) -> vmcapsule-vm-gahp: the starter knows"
    logs = pool.path(LOGS)
    pool.until(
        lambda: any(
            told in path.read_text("utf-8", "replace") for path in logs.glob("Starter*")
        ),
        120,
        f"the starter to know the machine of gahp {gahp}",
    )


def completions(pool: Pool, job: JobId) -> int:
    """How many runs of ``job`` have ended by themselves."""
    return copy_of(pool, job).integer("NumJobCompletions") or 0


def wait_until_left(pool: Pool, job: JobId, machine: int) -> None:
    """Wait until a job that was taken away is out of the queue, and its machine has ended."""
    copy = f'RoutedFromJobId == "{job}"'
    pool.until(
        lambda: is_gone(machine) and not pool.queue(copy), 120, f"all of {job} to be gone"
    )


def assert_all_gone(pool: Pool) -> None:
    """No job, machine, gahp, capsule or folder of theirs is left, and no slot is claimed."""
    # HTCondor's note of a starter that was killed, by which a new startd would end its machine.
    for path in pool.path("/var/lib/condor/execute").glob("dir_*.recover"):
        path.unlink()
    assert_quiet(pool)
    pool.until(lambda: not gahps(pool), 30, "the gahps to be gone")
