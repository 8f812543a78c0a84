"""The guest's script from its start to the exit record, without a machine around it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.unit.guest_place import SCRIPT, Place, is_root, load_guest
from vmcapsule import contract

guest = load_guest()
OUT, ERR = contract.STDOUT, contract.STDERR


def test_exit_code_streams_and_new_files_come_back(place: Place) -> None:
    record = place.job("echo out; echo err >&2; echo made > new.txt; exit 7")
    assert (record["state"], record["failure"]) == ("exited", None)
    assert (record["exit_code"], record["exit_signal"]) == (7, None)
    assert sorted(place.entries()) == [ERR, OUT, "new.txt"]
    assert place.content(OUT) == b"out\n"
    assert place.content(ERR) == b"err\n"
    assert place.content("new.txt") == b"made\n"
    assert record["outputs"] == {"entries": 3, "packs": 1, "bytes": 13}
    assert place.entries()["new.txt"].mode == 0o644


def test_record_has_every_key_of_the_contract(place: Place) -> None:
    record = place.job("exit 0")
    told = [line for line in (contract.__doc__ or "").splitlines() if line.startswith("    ")]
    block = told[next(i for i, line in enumerate(told) if "exit_code" in line) - 4 :]
    keys = {line.split()[0].rstrip(",") for line in block if line[4] != " "}
    assert keys <= set(record)
    assert record["format"] == contract.FORMAT
    assert record["runner"] == "direct"
    assert set(record["guest"]) == {"kernel", "python", "condor_version"}
    assert {"boot", "unpack_input", "job", "save_outputs"} <= set(record["phases"])


def test_killed_by_a_signal(place: Place) -> None:
    record = place.job("kill -9 $$")
    assert (record["state"], record["exit_code"], record["exit_signal"]) == ("exited", None, 9)


def test_standard_input_and_merged_streams(place: Place) -> None:
    place.job("cat; echo e >&2; echo o", stdin="in.txt", stderr=OUT)
    assert sorted(place.entries()) == [OUT]
    assert place.content(OUT) == b"hello\ne\no\n"


def test_no_streams_are_dev_null(place: Place) -> None:
    record = place.job("cat && echo x && echo y >&2", stdout=None, stderr=None)
    assert record["exit_code"] == 0
    assert place.entries() == {}


def test_arguments_and_environment_arrive_byte_for_byte(place: Place) -> None:
    odd = "\udcff'\"\\ \n$x ü"
    place.job(
        'printf "%s|" "$@" "$ODD" "$HERE"',
        arguments=["two words", "", odd],
        environment={"ODD": odd, "HERE": "#CoNdOrScRaTcHdIr#/x"},
    )
    expected = os.fsencode("|".join(["two words", "", odd, odd]))
    assert place.content(OUT).startswith(expected + b"|/")
    assert place.content(OUT).endswith(b"/x|")


def test_job_finds_what_a_starter_provides(place: Place) -> None:
    (place.data / contract.SANDBOX_AD).write_text(
        'MyType = "Job"\nClusterId = 11\nA = "a=b"\nJobStartDate = 7\nIwd = "/home"\n'
    )
    (place.data / contract.MACHINE_AD).write_text("Cpus = 3\nMemory = 256\n")
    place.job('env; pwd; cat .job.ad .machine.ad; ls -ld . ; echo "$0"; id -un')
    lines = place.content(OUT).decode().splitlines()
    scratch = next(line for line in lines if line.startswith("/") and "job.sh" not in line)
    assert Path(scratch).parent == place.work / "execute"
    assert Path(scratch).name.startswith("dir_")
    for expected in (
        f"{scratch}/job.sh",
        "ClusterId = 11",
        'A = "a=b"',
        f'Iwd = "{scratch}"',
        "JobStartDate = 7",
        "Cpus = 3",
        "Memory = 256",
    ):
        assert expected in lines
    assert not [line for line in lines if line.startswith("PATH=")]
    assert any(line.startswith("HOME=/") for line in lines)
    assert any(line.startswith("drwx------") for line in lines)
    assert "root" not in lines


def test_signals_are_as_htcondor_leaves_them(place: Place) -> None:
    place.job("sed -n 's/^SigIgn://p; s/^SigBlk://p' /proc/self/status")
    blocked, ignored = (int(word, 16) for word in place.content(OUT).split())
    assert (blocked, ignored) == (0, 1 << (signal.SIGPIPE - 1))


def test_slot_ad_is_the_hosts_on_top_of_the_startds() -> None:
    startd = 'Name = "slot1@x"\nCpus = 8\nOpSysAndVer = "Debian13"\nChildCpus = {}\n'
    text = guest.machine_ad('Cpus = 2\nName = "slot1_1@capsule"\n', startd)
    assert text == 'Cpus = 2\nName = "slot1_1@capsule"\nOpSysAndVer = "Debian13"\n'


def test_default_outputs_are_new_or_changed_files_at_the_top(place: Place) -> None:
    place.give(
        {
            "job.sh": SORTS_OF_OUTPUT,
            "same": b"1",
            "grown": b"1",
            "moded": b"1",
            "rewritten": b"1",
        }
    )
    place.record()
    record = place.run()
    assert record["state"] == "exited"
    expected = [".dot", OUT, ERR, "grown", "linked", "rewritten", "spa ce"]
    assert sorted(place.entries()) == sorted(expected)
    assert place.entries()["linked"].kind == "file"
    assert place.content("linked") == b"deep\n"
    assert "'pipe' is a socket, FIFO or device" in place.log()


SORTS_OF_OUTPUT = b"""#!/bin/sh
touch .dot 'spa ce' .job.ad .machine.ad .chirp.config .update.ad
rm -f .job.ad; touch .job.ad
echo more >> grown
printf 2 > rewritten
chmod 700 moded
cat same > /dev/null
echo '#' >> job.sh
mkdir folder; echo deep > folder/deep
ln -s folder/deep linked; ln -s folder to_folder; ln -s nothing nowhere
mkfifo pipe
"""


def test_listed_outputs_come_with_their_folders(place: Place) -> None:
    record = place.job(
        "mkdir -p a/b c d/e; echo 1 > a/b/1; echo 2 > a/2; echo 3 > c/3; ln -s ../a c/up;"
        " ln -s c byname; echo 4 > d/e/4; echo 5 > d/5; echo x > other;"
        " ln -s nothing a/nowhere; ln -s nothing nowhere",
        outputs=["a", "./c/", "byname/", "d//e/4", "gone", "a/gone/", "nowhere"],
    )
    assert record["missing_outputs"] == ["gone", "a/gone/", "nowhere"]
    entries = place.entries()
    assert sorted(entries) == sorted(
        [OUT, ERR, "a", "a/b", "a/b/1", "a/2", "c", "c/3", "d", "d/e", "d/e/4"]
        + ["byname", "byname/3"]
    )
    assert record["unsent_outputs"] == [["byname/up", 21], ["c/up", 21]]
    assert entries["byname"].kind == "dir"
    assert place.content("byname/3") == b"3\n"


def test_no_listed_outputs_means_the_streams_alone(place: Place) -> None:
    record = place.job("echo x > new", outputs=[])
    assert sorted(place.entries()) == [ERR, OUT]
    assert record["missing_outputs"] == []


def test_processes_left_behind_are_killed(place: Place) -> None:
    place.job("sleep 1000 & (setsid sleep 1000 &) ; echo $!; exit 0")
    assert "killed" in place.log()
    pid = int(place.content(OUT))
    assert not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text()


def test_cpu_time_and_memory_are_told(place: Place) -> None:
    record = place.job("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
    assert record["user_cpu_s"] > 0
    assert record["max_rss_kib"] > 0
    assert record["started_at_s"] <= record["ended_at_s"]


def failure(record: Any) -> tuple[str, str]:
    assert record["state"] == "failed"
    return record["failure"]["stage"], record["failure"]["message"]


def test_program_that_cannot_start(place: Place) -> None:
    stage, message = failure(place.job("", executable="nope"))
    assert stage == "exec"
    assert message.startswith("cannot start '") and "No such file or directory" in message
    assert place.exit_record()["failure"]["errno"] == 2


def test_program_without_the_right_to_execute(place: Place) -> None:
    stage, message = failure(place.job("", executable="in.txt"))
    assert (stage, "Permission denied" in message) == ("exec", True)


def test_missing_interpreter_and_missing_shebang(place: Place) -> None:
    place.give({"job.sh": b"#!/nonexistent\n"})
    place.record()
    assert failure(place.run())[0] == "exec"
    place.give({"job.sh": b"echo no shebang\n"})
    stage, message = failure(place.run())
    assert (stage, "Exec format error" in message) == ("exec", True)
    assert place.exit_record()["failure"]["errno"] == 8


def test_missing_standard_input(place: Place) -> None:
    stage, message = failure(place.job("", stdin="gone.txt"))
    assert (stage, "'gone.txt'" in message) == ("exec", True)


def test_absolute_program_of_the_machine(place: Place) -> None:
    record = place.job("", executable="/bin/echo", arguments=["hi"])
    assert record["exit_code"] == 0
    assert place.content(OUT) == b"hi\n"


def test_no_record(place: Place) -> None:
    stage, message = failure(place.run())
    assert (stage, "job.json" in message) == ("record", True)
    assert place.done.returncode == 1
    assert "FAILED in record" in place.log()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not valid"),
        ("[]", "not an object"),
        ("[" * 100_000, "not valid"),
        ("\xff", "not valid"),
        ('{"format": 2}', "its format is 2"),
    ],
)
def test_bad_record(place: Place, text: str, complaint: str) -> None:
    (place.data / contract.JOB_RECORD).write_text(text, encoding="latin-1")
    stage, message = failure(place.run())
    assert (stage, complaint in message) == ("record", True)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"runner": "slurm"}, "no runner 'slurm'"),
        ({"executable": None}, "'executable' is None"),
        ({"executable": ""}, "no executable"),
        ({"arguments": "x"}, "'arguments' is 'x'"),
        ({"arguments": [1]}, "'arguments' holds 1"),
        ({"arguments": ["a\0b"]}, "NUL"),
        ({"environment": {"A=B": "x"}}, "'A=B'"),
        ({"environment": {"A": 1}}, "'A' = 1"),
        ({"stdout": "../out"}, "not plain"),
        ({"stderr": "/out"}, "not plain"),
        ({"outputs": ["/etc/passwd"]}, "'/etc/passwd' lies outside"),
        ({"outputs": ["a/../../b"]}, "lies outside"),
        ({"runner": "condor"}, "condor_version is None"),
        ({"runner": "condor", "condor_version": "../x"}, "condor_version is '../x'"),
    ],
)
def test_record_with_a_wrong_value(place: Place, changes: Any, complaint: str) -> None:
    stage, message = failure(place.job("", **changes))
    assert stage == "record"
    assert complaint in message


def test_condor_without_a_tarball(place: Place) -> None:
    record = place.job("", runner="condor", condor_version="0.0.0")
    stage, message = failure(record)
    assert (stage, "condor.tar" in message) == ("unpack_condor", True)


def limited(place: Place, limit: int) -> Any:
    """Run with a largest file size: what a full disk answers, without filling one."""

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, str(SCRIPT), "--data", str(place.data), "--no-poweroff"]
    command += ["--work", str(place.work)]
    subprocess.run(
        command, preexec_fn=lower, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )
    return place.exit_record()


MANY = b"#!/bin/sh\necho kept\n"
MANY += b"for i in 1 2 3; do head -c 60000 /dev/zero | tr '\\0' x > $i; done\nexit 5"


def test_outputs_that_do_not_fit(place: Place) -> None:
    place.give({"job.sh": MANY})
    place.record()
    record = limited(place, 100_000)
    (pack,) = (place.data / contract.RECORD_DIR).glob("output.0*")
    assert pack.stat().st_size == len(b"kept\n")
    stage, message = failure(record)
    assert stage == "save"
    assert "the outputs hold 180" in message and "has room for" in message
    assert record["exit_code"] == 5
    assert sorted(place.entries()) == [ERR, OUT]
    assert place.content(OUT) == b"kept\n"
    assert record["outputs"]["entries"] == 2


def test_what_a_job_does_to_the_data_disk_costs_nothing(place: Place) -> None:
    place.data.chmod(0o777)
    (place.data / contract.RECORD_DIR).chmod(0o777)
    (place.data / contract.INIT_SCRIPT).write_text("ours")
    folder = place.data / contract.RECORD_DIR
    record = place.job(
        f"cd {folder} && rm -rf -- * && mkdir exit.json output.000 && echo x >exit.json/x\n"
        f"cd .. && echo junk >junk && rm -f {contract.INIT_SCRIPT}; echo out; exit 3"
    )
    assert (record["state"], record["exit_code"]) == ("exited", 3)
    assert place.content(OUT) == b"out\n"
    assert not (place.data / "junk").exists()


def test_record_folder_that_the_job_removed_is_made_again(place: Place) -> None:
    place.data.chmod(0o777)
    (place.data / contract.RECORD_DIR).chmod(0o777)
    record = place.job(f"cd {place.data} && rm -rf {contract.RECORD_DIR}; exit 3")
    assert (record["state"], record["exit_code"]) == ("exited", 3)
    assert sorted(place.entries()) == [ERR, OUT]


def test_sandbox_that_the_job_emptied_or_locked(place: Place) -> None:
    record = place.job("rm -rf $PWD/* $PWD/.job.ad; exit 3")
    assert (record["exit_code"], place.entries()) == (3, {})
    record = place.job("echo kept >a; chmod 000 .; exit 3")
    assert record["exit_code"] == 3
    if is_root():
        assert place.content("a") == b"kept\n"


def test_what_the_jobs_user_may_not_read_is_not_sent(place: Place) -> None:
    script = "echo x >a; mkdir d; echo x >d/b; ln -s a c; chmod 000 a d/b; echo x >e; exit 3"
    record = place.job(script)
    assert (record["state"], record["exit_code"]) == ("exited", 3)
    assert record["unsent_outputs"] == [["a", 13], ["c", 13]]
    assert sorted(place.entries()) == sorted([ERR, OUT, "e"])
    record = place.job(script, outputs=["d", "e", "gone"])
    assert (record["unsent_outputs"], record["missing_outputs"]) == ([["d/b", 13]], ["gone"])
    assert sorted(place.entries()) == sorted([ERR, OUT, "d", "e"])


def test_streams_survive_outputs_that_cannot_be_saved(place: Place) -> None:
    deep = "/".join(["d" * 200] * 4)
    record = place.job(
        f"for i in 1 2 3 4 5 6; do mkdir -p {deep} && cd -P ./{deep}; done; exit 3",
        outputs=["d" * 200],
    )
    assert failure(record)[0] == "save"
    assert "File name too long" in record["failure"]["message"]
    assert sorted(place.entries()) == [ERR, OUT]
    assert record["exit_code"] == 3


def test_what_the_slot_knows_of_the_run_is_in_the_jobs_ad(place: Place) -> None:
    (place.data / contract.SANDBOX_AD).write_text("NumJobStarts = 0\nProcId = 1")
    (place.data / contract.RUN_AD).write_text("NumJobStarts = 2\n")
    place.job("grep -e Num -e Proc .job.ad")
    assert place.content(OUT) == b"NumJobStarts = 2\nProcId = 1\n"


def test_job_ad_of_any_length_arrives_whole(place: Place) -> None:
    text = 'First = 1\nLong = "' + "x" * (2 << 20) + '"\n'
    (place.data / contract.SANDBOX_AD).write_text(text)
    place.job("tail -n 2 .job.ad")
    # Sorted, and with what is known only now.
    assert place.content(OUT).splitlines()[-1] == text.encode().splitlines()[-1]


def test_a_job_that_failed_sends_its_failure_files_and_streams(place: Place) -> None:
    script = "echo out; echo x >made; echo y >why; exit 4"
    listed = {"outputs": ["made"], "failure_outputs": ["why", "never"]}
    record = place.job(script, success_status=3 << 8, **listed)
    assert (record["state"], record["exit_code"]) == ("exited", 4)
    assert sorted(place.entries()) == [ERR, OUT, "why"]
    assert record["missing_outputs"] == ["never"]


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 3", 3 << 8), ("exit 3", None), ("kill -9 $$", 9), ("exit 0", 0)],
)
def test_a_job_that_did_not_fail_sends_its_outputs(
    place: Place, script: str, status: Optional[int]
) -> None:
    place.job(f"echo x >made; {script}", success_status=status, failure_outputs=["why"])
    assert sorted(place.entries()) == [ERR, OUT, "made"]


def test_failure_files_outside_the_sandbox_are_no_record(place: Place) -> None:
    record = place.job("exit 1", success_status=0, failure_outputs=["../x"])
    assert failure(record)[0] == "record"


def test_a_core_file_comes_back_beside_listed_outputs(place: Place) -> None:
    report = {"exit_code": None, "exit_signal": 11, "core_dumped": True}
    job = {"outputs": ["made"], "success_status": 11 | 0x80, "failure_outputs": ["why"]}
    assert guest.listed_outputs(job, report, "core.1.0") == ["made", "core.1.0"]
    assert guest.listed_outputs({**job, "success_status": 11}, report, "core.1.0") == ["why"]
    assert guest.listed_outputs({"outputs": None}, report, "core.1.0") is None


def test_limits_are_a_starters(place: Place) -> None:
    if not is_root():
        pytest.skip("needs root, who may raise limits")
    (place.data / contract.JOB_AD).write_text("CoreSize = 8192\nStackSize = 4194304\n")
    place.job("ulimit -Hc; ulimit -Sc; ulimit -Ss; cat /proc/self/oom_score_adj")
    assert place.content(OUT).split() == [b"16", b"16", b"4096", b"800"]


def test_without_sizes_there_is_no_core_and_stacks_are_not_limited(place: Place) -> None:
    place.job("ulimit -Hc; ulimit -Sc; ulimit -Ss")
    expected = [b"0", b"0", b"unlimited"]
    assert place.content(OUT).split()[:2] == expected[:2]
    if is_root():
        assert place.content(OUT).split() == expected


def test_the_record_says_what_the_job_took(place: Place) -> None:
    record = place.job("head -c 2000000 /dev/zero >made; mkdir d; head -c 9000 /dev/zero >d/x")
    assert 1965 <= record["disk_usage_kib"] < 2100
    assert record["image_size_kib"] == record["max_rss_kib"] > 100


def test_a_job_may_leave_more_nested_folders_than_python_has_calls(place: Place) -> None:
    nest = "i=0; while [ $i -lt 1200 ]; do mkdir d && cd d || exit; i=$((i+1)); done"
    record = place.job(f"{nest}; echo end >x")
    # The same Python's own way to remove the test's folder fails, too.
    subprocess.run(["rm", "-rf", place.work], check=True)
    assert (record["state"], record["failure"]) == ("exited", None)
    assert record["disk_usage_kib"] > 1200


def test_the_machine_gets_the_hosts_time_zone(place: Place, tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "zone").write_bytes(b"as it was")
    (etc / "localtime").symlink_to("zone")
    guest.set_zone(str(place.data), "A/B", str(etc))
    assert not (etc / "timezone").exists()
    (place.data / contract.LOCALTIME).write_bytes(b"TZif2...")
    guest.set_zone(str(place.data), "A/B", str(etc))
    assert (etc / "localtime").read_bytes() == b"TZif2..."
    assert (etc / "timezone").read_text() == "A/B\n"
    guest.set_zone(str(place.data), None, str(etc))
    assert not (etc / "timezone").exists()
    assert (etc / "zone").read_bytes() == b"as it was"


def test_directory_in_place_of_a_stream(place: Place) -> None:
    record = place.job(f"rm {OUT}; mkdir {OUT}; exit 3")
    assert (record["state"], place.entries()[OUT].kind) == ("exited", "dir")


def test_not_even_the_streams_fit(place: Place) -> None:
    script = b"#!/bin/sh\nfor i in 1 2; do head -c 60000 /dev/zero | tr '\\0' x; done"
    place.give({"job.sh": MANY, "fill.sh": script + b" > 4; cat 4 4 >&2; cat 4 4"})
    place.record(executable="fill.sh")
    record = limited(place, 250_000)
    assert failure(record)[0] == "save"
    assert record["outputs"] == {"entries": 0, "packs": 0, "bytes": 0}
    assert not list((place.data / contract.RECORD_DIR).glob("output.*"))


def test_earlier_results_are_removed_first(place: Place) -> None:
    stale = place.data / (contract.OUTPUT_PACK % 7)
    stale.write_bytes(b"old")
    place.job("exit 0")
    assert not stale.exists()


def test_terminated_while_the_job_runs(place: Place) -> None:
    place.give({"job.sh": b"#!/bin/sh\necho $$ > /dev/stderr; exec sleep 1000"})
    place.record()
    command = [sys.executable, str(SCRIPT), "--data", str(place.data), "--no-poweroff"]
    command += ["--work", str(place.work)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = place.work / "execute" / f"dir_{process.pid}" / "_condor_stderr"
        for _ in range(3000):
            if said.exists() and said.read_text():
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert failure(place.exit_record())[0] == "terminated"
    assert "killed 1 processes" in place.log()


def test_unexpected_error_leaves_record_and_traceback(place: Place) -> None:
    place.give({"job.sh": b"#!/bin/sh\n"})
    place.record()
    place.work.write_bytes(b"in the way")
    record = place.run()
    stage, message = failure(record)
    assert (stage, "FileExistsError" in message) == ("internal", True)
    assert "Traceback" in place.log()


def test_log_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "LOG_BYTES_MAX", 100)
    log = guest.Log()
    log.fds = []
    log.open(str(place.data / "log"))
    for _ in range(50):
        log("0123456789")
    assert 80 < (place.data / "log").stat().st_size <= 100


def test_log_goes_on_without_a_disk(place: Place) -> None:
    log = guest.Log()
    log.open(str(place.data / "no" / "log"))
    log("still here")
    assert log.fds == [1]


@pytest.mark.skipif(not is_root(), reason="needs root to make a file system")
def test_really_full_disk(place: Place) -> None:
    place.give({"job.sh": MANY})
    place.record()
    full, folder = place.data / "mnt", place.data / contract.RECORD_DIR
    script = f"""
mount -t tmpfs -o size=160k none {full} && cp -a {folder} {full} &&
{sys.executable} {SCRIPT} --data {full} --work {place.work} --no-poweroff
cp {full}/{contract.RECORD_DIR}/* {folder}
"""
    (place.data / "mnt").mkdir()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60
    )
    if "permission" in done.stderr.lower() or not (place.data / contract.EXIT_RECORD).exists():
        pytest.skip(f"cannot make a file system here: {done.stderr[-200:]}")
    record = place.exit_record()
    assert failure(record)[0] == "save"
    assert "No space left on device" in record["failure"]["message"]
    assert place.content(OUT) == b"kept\n"


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("Create_Process(/a/odd.sh,, ...) failed: (errno=8: 'Exec format error')", 8),
        ("Create_Process(/a,(errno=9: 'x'), ...) failed: bad (/no) x (errno=2: 'No')", 2),
        ("Create_Process(/a,(errno=9: 'x'), ...) succeeded", None),
        ("ERROR: something else", None),
    ],
)
def test_the_starters_log_says_why_a_program_did_not_start(
    said: str, number: object, tmp_path: Path
) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log/StarterLog.slot1_1").write_text(
        f"01/01/26 00:00:00 Starting a VANILLA universe job\n01/01/26 00:00:00 {said}\nmore\n"
    )
    runner = guest.Condor.__new__(guest.Condor)
    runner.base, runner.job = str(tmp_path), {"executable": "odd.sh"}
    told = runner.not_run()
    assert (told.stage, told.number) == ("exec", number)


def test_condor_pieces_are_plain_shell() -> None:
    for text in (guest.FETCH_HOOK, guest.PREPARE_HOOK, guest.EXIT_HOOK):
        script = text.format(base="/x")
        done = subprocess.run(
            ["sh", "-n"], input=script.encode(), capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "{base}" not in script


def test_exit_hook_starts_no_process_and_passes_the_ad_on_unchanged(place: Place) -> None:
    script = guest.EXIT_HOOK.format(base=place.data)
    for name in ("events", "answers"):
        (place.data / name).write_text("go\n")
    ad = b'A = "x\\n \\\\ %s"\n  B = 1\n'
    limits = ["setpriv", "--reuid", "4711", "--clear-groups", "prlimit", "--nproc=1"]
    for path in (place.data.parent, place.data, place.data / "events", place.data / "answers"):
        path.chmod(0o777)
    prefix = limits if is_root() else []
    done = subprocess.run(
        [*prefix, "sh", "-c", script, "hook", "exit"], input=ad, capture_output=True, timeout=60
    )
    assert done.stderr == b""
    first, rest = (place.data / "events").read_bytes().split(b"\n", 1)
    assert first.startswith(b"exit exit ")
    assert rest == ad + b"end of ad\n"


def test_ads_keep_odd_line_separators() -> None:
    text = 'A = "x\u2028y\x85z"\n# note\n\nB = 1 == 2\n'
    assert guest.parse_ad(text) == {"A": '"x\u2028y\x85z"', "B": "1 == 2"}


def test_job_facts_from_an_exit_ad(place: Place) -> None:
    condor = guest.Condor.__new__(guest.Condor)
    condor.lines = ["ExitBySignal = true", "ExitSignal = 9", "ResidentSetSize = 120"]
    condor.lines += ["RemoteUserCpu = 0.0", "RemoteSysCpu = 3.5", "JobCoreDumped = true"]
    times = "7 (a) b) S " + " ".join(str(n) for n in range(4, 50))
    before = ["S"] + ["0"] * 20
    report: dict[str, Any] = {"exit_code": None, "duration_s": 1.5}
    condor.lines += ["JobDuration = -3600", "ImageSize = 4000"]
    condor.read_exit(report, times, before)
    assert (report["exit_code"], report["exit_signal"], report["core_dumped"]) == (
        None,
        9,
        True,
    )
    assert report["duration_s"] == 1.5
    assert (report["max_rss_kib"], report["image_size_kib"]) == (120, 4000)
    assert report["user_cpu_s"] == 16 / os.sysconf("SC_CLK_TCK")  # cutime is field 16
    assert report["system_cpu_s"] == 3.5


def test_exit_record_is_the_last_thing_written(place: Place) -> None:
    place.job("exit 0")
    folder = place.data / contract.RECORD_DIR
    assert not list(folder.glob("exit.new"))
    record_ns = (folder / "exit.json").stat().st_mtime_ns
    assert all(p.stat().st_mtime_ns <= record_ns for p in folder.glob("output.*"))
    assert json.loads((folder / "exit.json").read_text())["state"] == "exited"


def test_a_job_that_cannot_have_the_disk_it_requests_is_not_run(place: Place) -> None:
    record = place.job("echo ran > ran", disk_kib=1 << 50, work_disk_bytes=1 << 61)
    assert record["state"] == "failed" and record["failure"]["stage"] == "disk"
    assert f"requests {1 << 50} KiB of disk" in record["failure"]["message"]
    assert "KiB free" in record["failure"]["message"]
    assert not (place.data / contract.OUTPUT_INDEX).exists()


def test_a_job_that_requests_what_is_free_is_run(place: Place) -> None:
    record = place.job("echo ran", disk_kib=1000, work_disk_bytes=1 << 61)
    assert record["failure"] is None and record["exit_code"] == 0


def test_a_small_job_is_run_on_whatever_root_a_template_has(place: Place) -> None:
    record = place.job("echo ran", disk_kib=1 << 50, work_disk_bytes=0)
    assert record["failure"] is None and record["exit_code"] == 0
