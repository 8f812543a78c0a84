"""The original plugin's quick-start guide, followed sentence by sentence on a real pool."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Iterator

import pytest

from tests.pool.jobs import TIMEOUT_S
from tests.pool.own_gahp import assert_all_gone, wait_for_vms
from tests.pool.plugin import DATA
from tests.pool.pool import JobId, Pool
from vmcapsule.config import newest_tarball, tarball_version
from vmcapsule.disk.empty_disk import build_data_disk
from vmcapsule.disk.vmdk.vmdk import create_vmdk
from vmcapsule.resources import resource

pytestmark = pytest.mark.pool
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
OFFSET_BYTES = 32256
PLUGIN = "/scratch/vmathew/condor/condor-7.2.0/local.perdita/vmware-capsule"
#: As the guide has it, but for the version of the HTCondor that there is to run.
GUIDE = f"""\
VM_CAPSULE_TEMPLATE = $(LOCAL_DIR)/vmware-capsule
VM_CAPSULE_SCRATCH_DIR_PREFIX = /scratch/vmathew/jr
VM_CAPSULE_TRANSLATE_LOG = $(LOG)/VmCapsuleTransLog
VM_CAPSULE_EXIT_LOG = $(LOG)/VmCapsuleExitLog
VM_CAPSULE_DISK_PART_OFFSET = {OFFSET_BYTES}
VM_CAPSULE_CONDOR_TARBALL = /scratch/vmathew/condor-tarballs/condor.tar.gz
VM_CAPSULE_CONDOR_TARBALL_VERSION = {{version}}
VM_CAPSULE_INIT_SCRIPT_PATH = {PLUGIN}/condor-init.py
VM_CAPSULE_DATA_DISK_MOUNT_POINT = /condor-data
VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE = {PLUGIN}/classad.template
"""
#: "Force the job to always be routed and not run directly by providing a requirement
#: specification that can never be met in the submit file."
SUBMIT = """\
universe = vanilla
executable = job.sh
transfer_input_files = in
output = out
error = err
log = log
request_memory = 64
requirements = false
+WantJobRouter = True
queue
"""


@pytest.fixture(scope="module", autouse=True)
def guide(pool: Pool) -> Iterator[None]:
    """What the guide has an administrator put down, and its text as the configuration."""
    pool.install_plugin({"CONDOR_CLASSAD_TEMPLATE": "vmware"})
    tarball = newest_tarball(pool.cache)
    assert tarball is not None
    put_template(pool)
    pool.put(
        "/scratch/vmathew/condor-tarballs/condor.tar.gz", gzip.compress(tarball.read_bytes(), 1)
    )
    pool.space.make_folder("/scratch/vmathew/jr", mode=0o1777)
    pool.path("/scratch/vmathew/jr").chmod(0o1777)
    shutil.copytree(resource("guest/condor-init.py").parent, pool.path(PLUGIN))
    dump = (FIXTURES / "vmware-dumps" / "7.2.0.classad").read_text()
    pool.put(f"{PLUGIN}/classad.template", dump)
    pool.configure("60-guide", GUIDE.format(version=tarball_version(tarball)))
    pool.restart("MASTER")
    wait_for_vms(pool)
    yield
    pool.run("root", ["condor_rm", "-all"], check=False)
    pool.until(lambda: not pool.queue(), 90, "the queue to be empty")
    pool.unconfigure("60-guide")
    pool.install_plugin()
    pool.restart("MASTER")


def put_template(pool: Pool) -> None:
    """ "A folder named condor_vm_capsule" below $(LOCAL_DIR), with data.vmdk as fdisk has it:
    the partition begins at sector 63."""
    folder = pool.path("/var/vmware-capsule/condor_vm_capsule")
    shutil.copytree(pool.path(f"{DATA}/templates/condor_vm_capsule"), folder)
    for path in folder.glob("data*"):
        path.unlink()
    build_data_disk(folder / "raw", size_bytes=64 << 20, offset_bytes=OFFSET_BYTES)
    create_vmdk(folder / "raw", folder / "data.vmdk", "monolithicFlat")
    (folder / "raw").unlink()
    for path in folder.iterdir():
        path.chmod(0o644)


def test_a_job_goes_the_way_of_the_guide(pool: Pool) -> None:
    script = "#!/bin/sh\ncat in\necho made >made\nexit 5\n"
    job = pool.submit("alice", "guide", SUBMIT, {"job.sh": script, "in": "came\n"})
    ad = pool.wait(job, TIMEOUT_S)
    assert ad.integer("ExitCode") == 5, "the exit status is that of the job"
    assert pool.read("/home/alice/guide/out") == "came\n"
    assert pool.read("/home/alice/guide/made") == "made\n"
    assert_routed(pool, job)
    pool.until(
        lambda: not list(pool.path("/scratch/vmathew/jr").glob("capsule-*")), 90, "no capsule"
    )
    assert_all_gone(pool)


def assert_routed(pool: Pool, job: JobId) -> None:
    """It was a VMware job that ran, and each hook has written its log."""
    (copy,) = pool.routed(job)
    assert (copy.integer("JobUniverse"), copy.string("JobVMType")) == (13, "vmware")
    assert (copy.string("VMPARAM_VMware_Dir") or "").startswith("/scratch/vmathew/jr/")
    # What the owner could not write there is brought by gc.
    for log, word in (("VmCapsuleTransLog", "translated"), ("VmCapsuleExitLog", "delivered")):
        path = f"/var/log/condor/{log}"
        pool.until(
            lambda path=path, word=word: (  # type: ignore[misc]
                pool.path(path).exists() and f"job {job}: {word}" in pool.read(path)
            ),
            60,
            f"{log} to tell of it",
        )
