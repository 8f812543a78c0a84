"""Jobs that treat their machine badly: what they did is reported, as far as it goes."""

from __future__ import annotations

from typing import Callable

import pytest

from .conftest import Outcome

pytestmark = pytest.mark.vm
Run = Callable[..., Outcome]


def test_a_job_that_takes_all_memory_dies_by_signal_9(run_job: Run, runner: str) -> None:
    script = (
        "exec python3 -c 'hoard = []\nwhile True: hoard.append(bytearray(b\"x\" * (1 << 20)))'"
    )
    done = run_job(script, "request_memory = 64", "--runner", runner)
    assert (done.status, done.record["exit_signal"]) == (137, 9), done.stderr


def test_processes_that_multiply_without_end_do_not_outlive_the_job(
    run_job: Run, runner: str
) -> None:
    script = "f() { f | f & }; f >/dev/null 2>&1; sleep 2; echo end; exit 3"
    done = run_job(script, "", "--runner", runner)
    assert (done.status, done.read("out")) == (3, "end\n"), done.stderr


def test_a_job_that_wrecks_data_disk_and_sandbox_still_ends_as_it_ended(
    run_job: Run, runner: str
) -> None:
    script = (
        "rm -rf /condor-data/*; mkdir -p /condor-data/vmcapsule/exit.json/x\n"
        "mkdir /condor-data/vmcapsule/output.000; echo >/condor-data/junk\n"
        "echo kept >a; chmod 000 .; kill -9 -1; exit 3"
    )
    done = run_job(script, "", "--runner", runner)
    assert (done.status, done.read("a")) == (3, "kept\n"), done.stderr


def test_odd_names_and_data_beyond_4_gib_come_back(run_job: Run) -> None:
    script = (
        "echo 1 >\"$(printf 'new\\nline')\"; echo 2 >\"$(printf '%0255d' 7)\"\n"
        "echo 3 >'a:b?*'; "
        "truncate -s 8G sparse; echo end >>sparse; chmod 4755 sparse"
    )
    done = run_job(script, "", "--runner", "direct")
    assert done.status == 0, done.stderr
    assert [done.read(n) for n in ("new\nline", f"{7:0255d}", "a:b?*")] == ["1\n", "2\n", "3\n"]
    sparse = done.folder / "sparse"
    assert sparse.stat().st_size == (8 << 30) + 4
    assert sparse.stat().st_blocks * 512 < 1 << 20
    with sparse.open("rb") as stream:
        stream.seek(8 << 30)
        assert stream.read() == b"end\n"
