"""Jobs that are packed in their slots: their route, and one of which HTCondor does much."""

from __future__ import annotations

import contextlib
from typing import Iterator

from tests.pool.jobs import TIMEOUT_S
from tests.pool.pool import JobId, Pool
from vmcapsule.classad.ads import Ad

RICH = """\
#!/bin/sh
cat
echo "$1 $2 $FOO $(hostname)"
cat debian_version
grep -i '^Cmd' .job.ad
mkdir results
echo made >results/file
exit 7
"""
#: To which an ``environment`` is added that has FOO='a b'.
RICH_SUBMIT = """\
input = in
arguments = "$$(Cpus) 'two  words'"
transfer_input_files = file:///etc/debian_version
transfer_output_files = results
transfer_output_remaps = "results=renamed"
stream_output = true
max_retries = 1
"""
RICH_INPUT = {"in": "given\n"}


@contextlib.contextmanager
def in_slot(pool: Pool) -> Iterator[None]:
    """The pool, once its execute point has told of a template; without a job afterwards."""
    wanted = ["condor_status", "-constraint", 'VMCapsuleTemplates != ""', "-af", "Name"]
    pool.until(
        lambda: bool(pool.run("root", wanted, check=False).stdout), 90, "a template to be told"
    )
    yield
    pool.run("root", ["condor_rm", "-all"], check=False)
    pool.until(lambda: not pool.queue(), 90, "the queue to be empty")


def assert_rich_ended(pool: Pool, job: JobId, folder: str) -> Ad:
    """HTCondor did around the machine of a rich job what it does around a job."""
    ad = pool.wait(job, TIMEOUT_S)
    assert ad.integer("ExitCode") == 7
    version = pool.read("/etc/debian_version")
    cmd = f'Cmd = "/home/alice/{folder}/job.sh"\n'
    said = f"given\n1 two  words a b capsule\n{version}{cmd}"
    assert pool.read(f"/home/alice/{folder}/out") == said
    assert pool.read(f"/home/alice/{folder}/renamed/file") == "made\n"
    return ad
