"""A job has the disk that it requests, also where that is more than the template has."""

from __future__ import annotations

from typing import Callable

import pytest

from .conftest import Outcome

pytestmark = pytest.mark.vm
Run = Callable[..., Outcome]
GIB = 1 << 30


@pytest.fixture(params=["condor", "direct"])
def runner(request: pytest.FixtureRequest) -> str:
    return str(request.param)


SCRIPT = """
df -Pk . | tail -1 >df.txt
df -Pk /tmp | tail -1 >>df.txt
echo begin >sparse && truncate -s 9G sparse && echo end >>sparse
i=0; while [ $i -lt 300 ]; do printf '%1048576d' $i; i=$((i+1)); done >"$TMPDIR/real"
cksum <"$TMPDIR/real" >sum; mv "$TMPDIR/real" real; cksum <real >>sum
stat -c '%s %b' sparse >stat.txt
"""


def test_12_gib_are_there_and_can_be_written(run_job: Run, runner: str) -> None:
    done = run_job(SCRIPT, "request_disk = 12 GB", "--runner", runner)
    assert done.status == 0, done.stderr
    here, temporary = (line.split() for line in done.read("df.txt").splitlines())
    assert int(here[3]) * 1024 >= 12 * GIB
    assert int(here[2]) < 100_000, "nothing else is on it"
    assert here[0] == temporary[0], "as natively, what is temporary counts, too"
    assert len(set(done.read("sum").splitlines())) == 1
    sparse = done.folder / "sparse"
    assert sparse.stat().st_size == 9 * GIB + 4
    assert sparse.stat().st_blocks * 512 < 1 << 20, "its hole came back as one"
    with sparse.open("rb") as file:
        assert file.read(6) == b"begin\n"
        file.seek(9 * GIB)
        assert file.read() == b"end\n"
    assert (done.folder / "real").stat().st_size == 300 << 20
    assert "work_disk" in str(done.record["phases_s"])


def test_a_small_job_works_on_the_templates_root(run_job: Run) -> None:
    done = run_job("df -Pk . / | tail -2 >df.txt", "request_disk = 500 MB")
    here, root = (line.split() for line in done.read("df.txt").splitlines())
    assert here[0] == root[0]
    assert not [name for name in done.record["phases_s"] if "work_disk" in name]
