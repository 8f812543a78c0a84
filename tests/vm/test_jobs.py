"""Jobs in real virtual machines, under HTCondor and under the direct runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable

import pytest

from .conftest import Outcome

pytestmark = pytest.mark.vm
Run = Callable[..., Outcome]


def test_an_exit_code_comes_back(run_job: Run, runner: str) -> None:
    done = run_job("echo hello; echo oops >&2; exit 7", "", "--runner", runner)
    assert (done.status, done.record["exit_code"], done.record["exit_signal"]) == (7, 7, None)
    assert (done.read("out"), done.read("err")) == ("hello\n", "oops\n")
    assert done.record["runner"] == runner


def test_death_by_signal_comes_back(run_job: Run, runner: str) -> None:
    done = run_job("echo before; kill -9 $$; echo after", "", "--runner", runner)
    assert (done.status, done.record["exit_code"], done.record["exit_signal"]) == (137, None, 9)
    assert done.read("out") == "before\n"


def test_200_megabytes_come_back(run_job: Run, runner: str) -> None:
    script = "i=0; while [ $i -lt 200 ]; do printf '%1048576d' $i; i=$((i+1)); done >big"
    done = run_job(script, "", "--runner", runner)
    assert done.status == 0, done.stderr
    data = (done.folder / "big").read_bytes()
    assert len(data) == 200 << 20
    assert [int(data[i << 20 : (i + 1) << 20]) for i in range(200)] == list(range(200))


def test_stdin_utf8_and_quotes_arrive(run_job: Run, runner: str, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "in.txt").write_text("Grüße, 世界\n")
    done = run_job(
        'cat; printf \'[%s]\' "$@"; echo; echo "$TITLE"',
        "input = in.txt\n"
        "arguments = \"plain 'two words' 'it''s' ''\"\n"
        "environment = \"TITLE='a ü b'\"",
        "--runner",
        runner,
    )
    assert done.status == 0, done.stderr
    assert done.read("out") == "Grüße, 世界\n[plain][two words][it's][]\na ü b\n"


def test_a_long_environment_and_many_arguments_arrive(run_job: Run, runner: str) -> None:
    """More than a daemon of HTCondor's reads of a hook unless it is told to."""
    environment = " ".join(f"BIG{number}={'x' * 200}" for number in range(500))
    arguments = " ".join(f"argument-{number}" for number in range(3000))
    done = run_job(
        "env | grep -c ^BIG; echo $#",
        f'environment = "{environment}"\narguments = "{arguments}"',
        "--runner",
        runner,
    )
    assert (done.status, done.read("out")) == (0, "500\n3000\n")


def test_a_folder_of_outputs_comes_back(run_job: Run, runner: str) -> None:
    done = run_job(
        "mkdir -p plots/deep; echo 1 >plots/a.txt; echo 2 >'plots/deep/ü:b.txt'\n"
        ": >plots/empty; echo more >unlisted; echo x >made.txt; chmod 640 made.txt",
        "transfer_output_files = plots, made.txt\n"
        'transfer_output_remaps = "made.txt = results/renamed.txt"',
        "--runner",
        runner,
    )
    assert done.status == 0, done.stderr
    found = {
        str(path.relative_to(done.folder)): path.read_text()
        for path in done.folder.rglob("*")
        if path.is_file() and path.name not in ("job.sh", "job.sub", "out", "err")
    }
    assert found == {
        "plots/a.txt": "1\n",
        "plots/deep/ü:b.txt": "2\n",
        "plots/empty": "",
        "results/renamed.txt": "x\n",
    }
    assert (done.folder / "results/renamed.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not Path("/etc/localtime").exists(), reason="this machine has no time zone")
def test_the_job_finds_what_a_starter_provides(run_job: Run, runner: str) -> None:
    done = run_job(
        'echo "$_CONDOR_SLOT $BATCH_SYSTEM $OMP_NUM_THREADS"\n'
        '[ "$PWD" = "$_CONDOR_SCRATCH_DIR" ] && cd "$TMPDIR" && pwd && cd - >there\n'
        "ulimit -n; ulimit -s; ulimit -Hc; umask; cat /proc/self/oom_score_adj\n"
        "nproc; cmp /etc/localtime localtime && echo zone\n"
        "grep -c . .job.ad >ad-lines; grep -i '^Cpus = 2' .machine.ad; id -u >uid\n"
        "grep '^Custom = \"x\"' .job.ad",
        "request_cpus = 2\nrequest_memory = 200\n"
        '+Custom = "x"\ntransfer_input_files = /etc/localtime',
        "--runner",
        runner,
    )
    assert done.status == 0, done.stderr + done.read("err")
    limits = "32768\nunlimited\n0\n0022\n800\n"
    expected = f'slot1_1 HTCondor 2\n/tmp\n{limits}2\nzone\nCpus = 2\nCustom = "x"\n'
    assert done.read("out") == expected
    assert int(done.read("uid")) != 0
    assert int(done.read("ad-lines")) > 10


def test_a_job_that_failed_leaves_its_failure_files(run_job: Run, runner: str) -> None:
    done = run_job(
        "echo out; echo 1 >made; mkdir logs; echo 2 >logs/why; exit 4",
        'transfer_output_files = made\nsuccess_exit_code = 3\n+FailureFiles = "logs/why"',
        "--runner",
        runner,
    )
    assert done.status == 4
    left = {path.name for path in done.folder.iterdir()} - {"job.sh", "job.sub"}
    assert left == {"out", "err", "why"}


def test_a_missing_output_is_an_error_and_the_rest_is_delivered(
    run_job: Run, runner: str
) -> None:
    done = run_job(
        "echo here >a.txt", "transfer_output_files = a.txt, b.txt", "--runner", runner
    )
    assert done.status == 74
    assert "'b.txt'" in done.stderr
    assert done.read("a.txt") == "here\n"


def test_a_program_that_cannot_start_is_an_error(run_job: Run, runner: str) -> None:
    done = run_job(
        "exit 0", "transfer_executable = false\nexecutable = /no/such", "--runner", runner
    )
    assert done.status == 76
    assert "/no/such" in done.stderr


def test_every_job_of_a_submit_file_runs(run_job: Run) -> None:
    done = run_job(
        "exit $1",
        "arguments = $(Process)\noutput = out.$(Process)\nqueue 2\narguments = 5",
        "--runner",
        "direct",
    )
    assert done.status == 1
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["exit_code"] for record in records] == [0, 1, 5]


def test_links_to_files_are_followed_and_modes_kept(
    run_job: Run, runner: str, tmp_path: Path
) -> None:
    folder = tmp_path / "job" / "in"
    folder.mkdir(parents=True)
    (folder / "A").write_text("upper")
    (folder / "a").write_text("lower")
    (folder / "tool").write_text("#!/bin/sh\necho ran\n")
    (folder / "tool").chmod(0o750)
    (folder / "link").symlink_to("A")
    (folder / "CON").write_text("reserved")
    (folder / "dot. ").write_text("odd")
    done = run_job(
        "cat in/A in/a in/link in/CON 'in/dot. '; ./in/tool; stat -c %a in/tool",
        "transfer_input_files = in",
        "--runner",
        runner,
    )
    assert done.status == 0, done.stderr
    assert done.read("out") == "upperlowerupperreservedoddran\n750\n"
