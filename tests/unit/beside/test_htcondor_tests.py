"""What is read of HTCondor's tests, and what their ends mean; made-up tests, no pool."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.htcondor import judge
from tests.htcondor.__main__ import main
from tests.htcondor.found import find_modules, find_scripts
from tests.htcondor.judge import COLUMNS, End, Row
from vmcapsule.errors import UsageError

PASSES, FAILS = End(True, jobs=2, carried=1), End(False, "it died")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as HTCondor's source has it, with tests of several kinds."""
    made = tmp_path / "src" / "condor_tests"
    made.mkdir(parents=True)
    for name, text in {
        "job_core_one_van.run": "RunTest('job_core_one_van.cmd')",
        "job_core_one_van.cmd": "executable = big-env.exe",
        "job_core_one-more_van.cmd": "executable = other.exe",
        "job_core_two_van.run": "CondorTest::StartCondorWithParams()",
        "job_core_one_sched.run": "",
        "job_dagman_one.run": "",
        "win_core_one_van.run": "",
        "notes_van.txt": "",
    }.items():
        (made / name).write_text(text)
    return made


def names(folder: Path, *patterns: str) -> Dict[str, str]:
    return {script.name: script.unfit for script in find_scripts(folder, patterns)}


def test_the_tests_of_vanilla_jobs_are_found(folder: Path) -> None:
    assert list(names(folder)) == ["job_core_one_van", "job_core_two_van"]


def test_a_test_that_is_named_is_taken_whatever_its_kind_and_once(folder: Path) -> None:
    found = find_scripts(folder, ["job_dagman_one", "job_*_one*"])
    assert [script.name for script in found] == [
        "job_dagman_one",
        "job_core_one_sched",
        "job_core_one_van",
    ]


def test_a_name_that_no_test_has_is_an_error(folder: Path) -> None:
    with pytest.raises(UsageError, match="there is no test 'job_core_three'"):
        find_scripts(folder, ["job_core_three"])


def test_a_test_with_a_pool_of_its_own_is_unfit(folder: Path) -> None:
    found = names(folder)
    assert found["job_core_one_van"] == ""
    assert "a pool of its own" in found["job_core_two_van"]


def test_the_programs_of_a_test_and_of_its_submit_files_are_known(folder: Path) -> None:
    assert find_scripts(folder)[0].programs == ("big-env", "other")


def test_the_configuration_that_a_test_asks_for_is_known(folder: Path) -> None:
    text = """#testreq: personal
my $config = <<CONDOR_TESTREQ_CONFIG;
    DAEMON_LIST = MASTER,SCHEDD
    NUM_CPUS = 2
CONDOR_TESTREQ_CONFIG
#endtestreq
"""
    (folder / "job_core_one_van.run").write_text(text)
    assert find_scripts(folder)[0].config == "    NUM_CPUS = 2\n"


@pytest.mark.parametrize("beside", [".", "../condor_scripts"])
def test_the_perl_modules_lie_with_the_tests_or_beside_them(folder: Path, beside: str) -> None:
    modules = folder / beside
    modules.mkdir(exist_ok=True)
    (modules / "CondorTest.pm").touch()
    assert find_modules(folder) == modules.resolve()


def test_without_the_perl_modules_the_error_names_them(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"CondorTest\.pm"):
        find_modules(folder)


@pytest.mark.parametrize("given", [[], ["/nowhere/condor_tests"]])
def test_without_the_folder_it_says_so_and_succeeds(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == 0
    assert "skipped: HTCondor's tests" in capsys.readouterr().out


def test_a_folder_without_such_tests_is_an_error(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == UsageError("").exit_status


# The one line of why


@pytest.mark.parametrize(
    "output, why",
    [
        ("PASSED check a\nNo args! at x.run line 7.\n255\n", "No args! at x.run line 7."),
        ("b at x.run line 7, <LOG> line 8.\nlast\n", "b at x.run line 7, <LOG> line 8."),
        (
            "FAILED check saw it in test a\n\n1 check(s) FAILED\n",
            "FAILED check saw it in test a",
        ),
        ("Use of uninitialized value at x.pm line 1.\nlast\n", "last"),
        ("some\n  last  words\n\n", "last words"),
        ("", "it printed nothing"),
    ],
)
def test_the_telling_line_of_an_output_is_found(output: str, why: str) -> None:
    assert judge.reason(output) == why


# The list


def expected(tmp_path: Path, text: str) -> Dict[str, str]:
    path = tmp_path / "expected.ini"
    path.write_text(text)
    return judge.read_expected(path)


def test_the_list_keeps_names_and_joins_lines(tmp_path: Path) -> None:
    text = "[fails when routed]\njob_A-b_van = no\n  way\n"
    assert expected(tmp_path, text) == {"job_A-b_van": "no way"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("[fails when routed]\njob_a =\n", "gives no reason for 'job_a'"),
        ("[other]\njob_a = x\n", "has other sections"),
        ("", "has other sections"),
    ],
)
def test_a_wrong_list_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        expected(tmp_path, text)


def test_the_list_that_is_committed_can_be_read() -> None:
    assert isinstance(judge.read_expected(), dict)


# The verdict


@pytest.mark.parametrize(
    "native, routed, listed, is_wrong",
    [
        (PASSES, PASSES, False, False),
        (PASSES, FAILS, False, True),
        (PASSES, FAILS, True, False),
        (PASSES, None, False, False),
        (FAILS, FAILS, False, False),
        (FAILS, None, False, False),
        (None, None, False, False),
    ],
)
def test_wrong_is_what_passes_natively_alone_and_is_not_listed(
    native: Optional[End], routed: Optional[End], listed: bool, is_wrong: bool
) -> None:
    known = {"job_a": "a reason"} if listed else {}
    assert judge.wrong([Row("job_a", native, routed)], known) == ["job_a"] * is_wrong


def test_the_table_marks_what_is_wrong_and_gives_every_reason() -> None:
    rows = [
        Row("job_a", PASSES, PASSES),
        Row("job_b", PASSES, FAILS),
        Row("job_c", PASSES, FAILS),
        Row("job_d", FAILS),
        Row("job_e", unfit="no router"),
    ]
    text = judge.lines(rows, {"job_c": "it cannot", "job_a": "it could not"})
    squeezed = [" ".join(line.split()) for line in text]
    assert squeezed[2:-1] == [
        "job_a passes passes 1 of 2",
        "job_b passes fails ! 0 of 0",
        "it died",
        "job_c passes fails 0 of 0",
        "it died",
        "listed: it cannot",
        "job_d fails - -",
        "it died",
        "job_e - - -",
        "no router",
        "-" * COLUMNS,
        "5 tests; 4 can be run; 3 pass natively",
        "of these 1 pass when routed, 2 do not",
        "1 of which expected.ini does not list",
    ]
    assert squeezed[-1] == "listed as failing, and passes: job_a"


LONG = "job_" + "a" * 120
WIDE = Row(LONG, PASSES, End(False, "b" * 120))
ENDS = st.builds(
    End, st.booleans(), st.text(max_size=200), st.integers(0, 99), st.integers(0, 99)
)
ROWS = st.builds(
    Row,
    st.text("abc_", max_size=120),
    st.none() | ENDS,
    st.none() | ENDS,
    st.text(max_size=200),
)


@example([WIDE, Row("job_b", unfit="c" * 120)], {LONG: "d" * 120})
@example([Row(LONG, PASSES, PASSES)], {LONG: "d" * 120})
@given(st.lists(ROWS, max_size=5), st.dictionaries(st.text("abc_"), st.text(max_size=200)))
def test_no_line_is_wider_than_the_terminal(rows: list[Row], known: Dict[str, str]) -> None:
    assert max(map(len, judge.lines(rows, known))) <= COLUMNS


@given(st.text(max_size=300))
def test_a_reason_is_one_line(output: str) -> None:
    assert len(judge.reason(output).splitlines()) == 1
