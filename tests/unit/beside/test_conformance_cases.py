"""The conformance suite's cases: each can be read, and together they cover what they must."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.conformance.cases import CASES, load_cases, read_case, with_room
from tests.conformance.test_representative import CASES as REPRESENTATIVE
from tests.conformance.ways import COMPARED, NATIVE, WAYS
from vmcapsule.errors import UsageError

#: What a vanilla job may ask for, and the cases that ask.
ROWS = {
    "executable": "executable-in-guest executable-mode executable-in-folder",
    "arguments": "arguments-old arguments-new arguments-blank arguments-many",
    "environment": "environment-old environment-new environment-getenv environment-large "
    "environment-scratch",
    "input": "input input-none input-missing stream-input input-of-machine",
    "output, error": "output-merged output-in-folder output-as-input stream-output "
    "stream-error",
    "transfer_input_files": "inputs-files inputs-contents inputs-duplicates inputs-socket "
    "inputs-many inputs-missing",
    "URLs as inputs": "inputs-url transfer-plugins",
    "preserve_relative_paths": "inputs-preserved outputs-preserved",
    "transfer_output_files": "outputs-listed outputs-none outputs-missing outputs-contents",
    "outputs by default": "outputs-default executable-changed",
    "remaps": "outputs-remapped outputs-remapped-folder outputs-remapped-absolute outputs-url",
    "output_destination": "output-destination",
    "should_transfer_files": "transfer-if-needed transfer-no",
    "when_to_transfer_output": "transfer-on-evict transfer-on-success",
    "success_exit_code": "success-exit-code failure-files",
    "spooled": "spooled spooled-default",
    "requests": "request-default request-expressions request-units request-gpus",
    "exit": "exit-code signals outputs-core outputs-by-signal",
    "policy at exit": "on-exit-hold on-exit-remove max-retries retry-until",
    "periodic policy": "periodic-hold periodic-remove periodic-release "
    "allowed-job-duration allowed-execute-duration",
    "checkpoints": "checkpoint",
    "hold codes": "inputs-missing outputs-missing",
    "credentials": "scitokens",
    "notification and log": "queue-knobs",
    "matchmaking": "matchmaking",
    "DAGMan, late materialization": "dag late-materialization",
    "containers": "container docker",
    "what a starter makes": "environment-of-starter job-ad machine-ad sandbox",
    "chirp": "chirp",
    "special": "deferral cron kill-sig encrypt-files dataflow",
    "unknown attributes": "custom-attributes",
    "names": "names-odd names-utf8 names-invalid-utf8 names-newline names-deep",
    "links": "inputs-links inputs-link-dangling outputs-links outputs-link-dangling",
    "modes": "inputs-modes inputs-set-id outputs-modes outputs-set-id",
    "empty": "inputs-empty outputs-empty",
    "sizes": "inputs-sparse inputs-5g outputs-sparse outputs-5g",
    "request_disk": "outputs-sparse-20g",
    "queue": "queue-list queue-matching initialdir",
    "usage and time": "cpu-time time",
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_its_cases(row: str) -> None:
    assert [case.name for case in load_cases(ROWS[row].split(), COMPARED)] == ROWS[row].split()


def test_there_are_many_and_each_says_what_it_is_about() -> None:
    cases = load_cases((), COMPARED)
    assert len(cases) >= 60
    assert len({case.about for case in cases}) == len(cases)
    assert [case.name for case in cases if len(case.about) > 100] == []
    assert {path.name for path in CASES.iterdir()} == {case.name for case in cases}


def test_no_case_knows_of_capsules() -> None:
    """It is the way that asks for one."""
    texts = {path: path.read_text() for path in CASES.glob("*/job.*")}
    assert texts
    assert [path for path, text in texts.items() if "WantJobRouter" in text] == []


def test_prepare_scripts_can_be_run() -> None:
    paths = list(CASES.glob("*/prepare"))
    assert paths
    assert [path for path in paths if not path.stat().st_mode & stat.S_IXUSR] == []


def test_names_fit_the_table() -> None:
    """At 80 columns with 9 for each way that stands in one table."""
    widest = 80 - 9 * len(COMPARED)
    assert [case.name for case in load_cases((), COMPARED) if len(case.name) >= widest] == []


def test_a_dozen_runs_for_every_change() -> None:
    assert len(REPRESENTATIVE) >= 10
    assert not any(case.is_slow for case in load_cases(REPRESENTATIVE, COMPARED))


def test_the_native_way_is_no_way_to_be_compared() -> None:
    assert list(WAYS)[0] == NATIVE
    assert NATIVE not in COMPARED


def make(folder: Path, expected: str = "", submit: str = "# About\nqueue\n") -> Path:
    (folder / "job.sub").write_text(submit)
    (folder / "expected.ini").write_text(expected)
    return folder


def test_what_a_file_says_is_read(tmp_path: Path) -> None:
    text = """\
[case]
submit = -spool
native = waits
idle = 2
vague = core.* *.tmp
slow = yes

[refused]
ways = vmware
names = StreamOut

[different: in the log]
ways = run direct
what =
    log: *, held
    runs: *
reason = It is
    so.
"""
    case = read_case(make(tmp_path, text), ("vmware", "run", "direct"))
    assert (case.submit, case.native_waits, case.is_spooled) == (("-spool",), True, True)
    assert case.idle == 2
    assert (case.vague, case.is_slow, case.about) == (("core.*", "*.tmp"), True, "About")
    (refused,) = case.expected_of("vmware")
    assert (refused.kind, refused.patterns) == ("refused", ("StreamOut",))
    (different,) = case.expected_of("run")
    assert (different.patterns, different.reason) == (("log: *, held", "runs: *"), "It is so.")
    assert different.matches("log: a, held") and not different.matches("log: a")
    assert case.expected_of("direct") == [different]


def test_without_ways_all_are_meant(tmp_path: Path) -> None:
    case = read_case(make(tmp_path, "[refused]\nnames = In\n"), ("vmware", "run"))
    assert case.expected_of("vmware") == case.expected_of("run") != []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[case]\nspool = yes\n", "'spool' means nothing"),
        ("[differing]\nwhat = x\n", r"'\[differing\]' means nothing"),
        ("[refused]\nways = xen\n", "there is no way 'xen'"),
        ("[different: x]\nwhat = exit: *\n", "lacks what or reason"),
        ("[different: x]\nreason = so\n", "lacks what or reason"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_case(make(tmp_path, text), ("vmware",))


def test_a_case_that_does_not_say_what_it_is_about(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say what it is about"):
        read_case(make(tmp_path, submit="queue\n"), ())


def test_a_case_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="there is no case 'no-such-case'"):
        load_cases(["no-such-case"], COMPARED)


def test_a_case_for_which_there_is_no_room_is_left_out_with_the_reason() -> None:
    cases = load_cases(["outputs-sparse-20g", "exit-code"], COMPARED)
    said: list[str] = []
    assert [case.name for case in with_room(cases, 49 << 30, said.append)] == ["exit-code"]
    assert said == ["outputs-sparse-20g: left out: it needs 50 GiB, and 49 GiB are free here"]
    assert with_room(cases, 50 << 30, said.append) == cases
