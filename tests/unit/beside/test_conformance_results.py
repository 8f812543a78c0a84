"""The conformance suite's results: kept, shown as a table, and written as documentation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.conformance import __main__ as main
from tests.conformance import document, results, table
from tests.conformance.cases import Case, Expected, load_cases
from tests.conformance.compare import DIFFERENT, REFUSED, SAME, Verdict
from tests.conformance.results import Results
from tests.conformance.ways import COMPARED
from vmcapsule.errors import one_line

REAL_PAGE = document.PAGE
REASON = "StreamOut = true: no connection; take it out"
SAID = {
    "alike": dict.fromkeys(COMPARED, Verdict(SAME)),
    "streamed": dict.fromkeys(COMPARED, Verdict(REFUSED, (REASON,))),
    "retried": {
        "slot": Verdict(SAME),
        "run": Verdict(DIFFERENT, ("runs: 1, natively 3",)),
    },
    "broken": {"slot": Verdict(DIFFERENT, ("exit: code 1",), ("exit: code 1",))},
}
FOUND = Results({"HTCondor": "23.9.6"}, SAID)


def case(name: str, *expected: Expected) -> Case:
    return Case(name, Path(name), f"The case {name} | so", expected=expected)


LISTED = Expected(DIFFERENT, ("run", "direct"), ("runs: *",), "There is no queue.")
ALL = [case("alike"), case("broken"), case("retried", LISTED), case("streamed")]


def test_some_cases_run_again_leave_the_others() -> None:
    new = Results({"HTCondor": "25.0.0"}, {"retried": {"run": Verdict(SAME)}, "new": {}})
    both = results.merged(FOUND, new, ["alike", "retried", "new"], COMPARED)
    assert both.versions == {"HTCondor": "25.0.0"}
    assert list(both.verdicts) == ["alike", "new", "retried"]
    assert both.verdicts["retried"] == {"slot": Verdict(SAME), "run": Verdict(SAME)}


def test_ways_that_are_no_more_are_dropped() -> None:
    both = results.merged(FOUND, Results({}, {}), ["alike"], ["run"])
    assert set(both.verdicts["alike"]) == {"run"}


def test_the_table_fits_a_terminal_and_tells_what_is_wrong() -> None:
    lines = table.lines(SAID, COMPARED)
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in lines[:6]}
    assert rows["alike"] == ["same"] * 6
    assert rows["retried"] == ["same", "-", "-", "-", "differs", "-"]
    assert rows["broken"] == ["differs!", "-", "-", "-", "-", "-"]
    assert "4 cases: same             2        1        1        1        1        1" in lines
    assert lines[-1] == "broken (slot): exit: code 1"
    assert table.is_wrong(SAID)
    del_broken = {name: said for name, said in SAID.items() if name != "broken"}
    assert not table.is_wrong(del_broken)
    assert not any(line.startswith("broken") for line in table.lines(del_broken, COMPARED))


def test_a_long_list_of_what_is_wrong_is_cut() -> None:
    many = Verdict(DIFFERENT, (), tuple(f"file {n}: missing" for n in range(100)))
    lines = table.lines({"many": {"slot": many}}, ["slot"])
    assert len(lines) < 30
    assert lines[-1] == "many (slot): and 92 more"


def test_the_page_says_what_works_what_is_refused_and_what_differs() -> None:
    page = document.text(ALL, FOUND)
    assert f"| alike | The case alike \\| so |{' same |' * len(COMPARED)}\n" in page
    retried = " | ".join(
        {"slot": "same", "run": "different"}.get(way, "not run") for way in COMPARED
    )
    assert f"| retried | The case retried \\| so | {retried} |\n" in page
    broken = "different, unexpected | not run | not run"
    assert f"| broken | The case broken \\| so | {broken} |" in page
    assert "- `StreamOut = true`: no connection; take it out. Seen in: streamed.\n" in page
    assert "- There is no queue. Seen with run in: retried.\n" in page
    assert "HTCondor 23.9.6" in page
    assert f"| | same: of 4 cases | 2 |{' 1 |' * (len(COMPARED) - 1)}\n" in page


def test_a_refusal_of_some_ways_names_them() -> None:
    some = {"alike": SAID["alike"], "streamed": {"slot": SAID["streamed"]["slot"]}}
    page = document.text(ALL, replace(FOUND, verdicts=some))
    assert "take it out. Seen with slot in: streamed.\n" in page


def test_nothing_that_is_not_seen_is_told() -> None:
    page = document.text(ALL, replace(FOUND, verdicts={}))
    assert "There is no queue." not in page
    assert page.count("\n\nNothing.\n") == 2


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30).map(one_line)
REFUSALS = st.lists(WORDS | WORDS.map(lambda text: f"{text} = {text}: {text}"), min_size=1)


@st.composite
def found(draw: st.DrawFn) -> Results:
    """Anything that may be found of `ALL` cases."""
    verdict = st.builds(
        Verdict,
        st.sampled_from([SAME, REFUSED, DIFFERENT]),
        REFUSALS.map(tuple),
        st.sampled_from([(), ("exit: code 1",)]),
    )
    said = st.dictionaries(st.sampled_from(COMPARED), verdict)
    versions = st.dictionaries(
        st.just("HTCondor"), st.from_regex(r"\d+\.\d+\.\d+", fullmatch=True)
    )
    return Results(draw(versions), {one.name: draw(said) for one in ALL})


@given(found())
@example(FOUND)
def test_the_page_keeps_what_was_found(result: Results) -> None:
    page = document.text(ALL, result)
    kept = document.read(page)
    assert document.text(ALL, kept) == page
    assert kept.versions == result.versions
    for name, said in result.verdicts.items():
        assert {way: one.word for way, one in kept.verdicts[name].items()} == {
            way: one.word for way, one in said.items()
        }
        assert {way for way, one in kept.verdicts[name].items() if one.wrong} == {
            way for way, one in said.items() if one.wrong
        }


def test_a_way_is_on_the_page_when_a_case_was_run_so() -> None:
    older = {
        name: {way: verdict for way, verdict in said.items() if way != "slot"}
        for name, said in SAID.items()
    }
    page = document.text(ALL, replace(FOUND, verdicts=older))
    assert "| slot |" not in page
    assert "take it out. Seen in: streamed.\n" in page
    kept = document.read(page)
    assert kept.verdicts["streamed"].keys() == older["streamed"].keys()
    both = {**kept.verdicts, "alike": SAID["alike"]}
    page = document.text(ALL, replace(kept, verdicts=both))
    assert f"| alike | The case alike \\| so |{' same |' * len(COMPARED)}\n" in page
    said = f"take it out. Seen with {', '.join(older['streamed'])} in: streamed.\n"
    assert said in page


def test_a_run_of_one_case_changes_its_lines_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(document.PAGE.read_text())
    monkeypatch.setattr(document, "PAGE", page)
    for name in ("build", "start", "stop"):
        monkeypatch.setattr(main.Pool, name, lambda pool: None)
    ways = list(document.read(REAL_PAGE.read_text()).verdicts["chirp"])
    new = Results({"HTCondor": "23.9.6"}, {"chirp": dict.fromkeys(ways, Verdict(SAME))})
    monkeypatch.setattr(main, "run_suite", lambda *_: new)
    assert main.main(["chirp"]) == 0
    before, after = (set(one.read_text().splitlines()) for one in (REAL_PAGE, page))
    added, gone = (
        [line for line in lines if not line.startswith("| | ")]
        for lines in (after - before, before - after)
    )
    assert added == [f"| chirp | want_io_proxy: chirp{' | same' * len(ways)} |"]
    # Its row, and what it alone is refused or different for.
    assert len(gone) > 1 and all("chirp" in line for line in gone)


# What is committed


@pytest.fixture
def committed() -> Results:
    return document.read(document.PAGE.read_text(encoding="utf-8"))


def test_the_committed_page_is_that_of_the_cases(committed: Results) -> None:
    page = document.text(load_cases((), COMPARED), committed)
    assert document.PAGE.read_text(encoding="utf-8") == page, "run './dev conformance'"


def test_every_case_was_run_every_way_that_is_on_the_page(committed: Results) -> None:
    ways = {way for said in committed.verdicts.values() for way in said}
    assert {"slot", "run", "direct"} <= ways <= set(COMPARED)
    for case in load_cases((), COMPARED):
        assert committed.verdicts[case.name].keys() == ways, case.name


def test_nothing_is_different_without_a_reason(committed: Results) -> None:
    verdicts = committed.verdicts
    wrong = [
        f"{name} ({way}): {text}"
        for name, said in verdicts.items()
        for way, verdict in said.items()
        for text in verdict.wrong
    ]
    assert wrong == []
