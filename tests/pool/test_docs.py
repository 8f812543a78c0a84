"""What docs/troubleshooting.md shows is what HTCondor prints, and its commands work."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from tests.pool.plugin import HOME
from tests.pool.pool import HELD, JobId, Pool

pytestmark = pytest.mark.pool
DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "troubleshooting.md").read_text()
FENCE = re.compile(r"^( *)```(sh|text)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SUBMIT = """\
executable = job.sh
output = out
log = log
request_memory = {memory}
+WantJobRouter = True
{more}
queue
"""
JOB = {"job.sh": "#!/bin/sh\necho done\n"}
TIMEOUT_S = 300


def blocks(kind: str, page: str = PAGE) -> list[str]:
    return [textwrap.dedent(text) for _, found, text in FENCE.findall(page) if found == kind]


def words(text: str) -> str:
    """Without what differs from pool to pool: digests, numbers, line breaks, and columns'
    widths."""
    text = re.sub(r'"[0-9a-f]{32}"', '"D"', text)
    return " ".join(re.sub(r"--+", "--", re.sub(r"\d+(\.\d+)*", "N", text)).split())


def submit(pool: Pool, folder: str, memory: int, more: str = "") -> JobId:
    return pool.submit("alice", folder, SUBMIT.format(memory=memory, more=more), JOB)


@pytest.fixture(scope="module")
def printed(pool: Pool) -> str:
    """What the page's questions are answered with: of a refused and of an idle job."""
    refused = submit(pool, "docs-held", 64, "request_gpus = 1")
    pool.wait(refused, until=(HELD,))
    idle = submit(pool, "docs-idle", 100_000)
    pool.until(lambda: bool(pool.routed(idle)), 60, "the job to be routed")
    routed = pool.routed(idle)[0].integer("ClusterId")
    commands = [["condor_q", "-hold"]]
    commands += [["condor_q", "-better-analyze", str(number)] for number in (idle, routed)]
    try:
        return "\n".join(pool.run("alice", argv).stdout.decode() for argv in commands)
    finally:
        pool.run("alice", ["condor_rm", str(refused), str(idle)])


@pytest.mark.parametrize(
    "shown", ["never  MY.WantJobRouter", "HasVMCapsule is true", "RequestGPUs"]
)
def test_the_page_shows_what_is_printed(shown: str, printed: str) -> None:
    (block,) = [text for text in blocks("text") if shown in text]
    assert words(block) in words(printed), printed


def test_the_commands_of_the_page_work(pool: Pool) -> None:
    # Those of HTCondor on other pages need a pool, too.
    others = [page.read_text() for page in sorted(DOCS.glob("[!t]*.md"))]
    commands = blocks("sh") + [
        command
        for page in others
        for command in blocks("sh", page)
        if command.startswith("condor_")
    ]
    assert any("vmcapsule extract 11.0" in command for command in commands)
    program = f'#!/bin/sh\nPYTHONPATH={HOME} exec python3 -m vmcapsule "$@"\n'
    pool.put("/usr/local/bin/vmcapsule", program, mode=0o755)
    pool.put("/home/alice/docs/job.sh", JOB["job.sh"], mode=0o755, owner="alice")
    source = (
        'ClusterId = 11\nProcId = 0\nJobUniverse = 5\nOwner = "alice"\nCmd = "job.sh"\n'
        'Iwd = "/home/alice/docs"\nOut = "out"\nRequestMemory = 64\n'
    )
    # One with a capsule.
    chosen = ["env", "_CONDOR_VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE=vmware"]
    translate = [*chosen, "vmcapsule", "translate"]
    routed = pool.run("alice", translate, stdin=source).stdout.decode()
    folder = re.search(r'VmCapsuleDir = "(.*)"', routed)
    assert folder is not None
    pool.run("alice", ["vmcapsule", "boot", folder.group(1)], timeout_s=TIMEOUT_S)
    for command in commands:
        pool.run("alice", ["sh", "-e", "-c", command])
    assert pool.read("/home/alice/docs/out") == "done\n"
    pool.run("alice", ["vmcapsule", "cleanup"], stdin=routed)
    assert not pool.path(folder.group(1)).exists()
