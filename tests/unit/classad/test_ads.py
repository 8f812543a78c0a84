"""ClassAds: dialects, frames and errors, with the ClassAd library as the judge."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import classad2
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vmcapsule.classad import text as classad_text
from vmcapsule.classad.ads import (
    Ad,
    parse_ad,
    quote,
    split_finalize,
    split_many,
    split_translate,
)
from vmcapsule.errors import AdError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
JOBROUTER = FIXTURES / "jobrouter-23.9.6"
DUMPS = FIXTURES / "condor_submit-23.9.6"


one_line = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), max_size=40
)


def library_value(text: str) -> object:
    """What HTCondor's own long form parser makes of ``a = <text>``."""
    return classad2.parseOne(f"a = {text}\n", classad2.ParserType.Old).eval("a")


def test_a_recorded_source_ad_prints_as_it_was_read() -> None:
    text = (JOBROUTER / "translate.stdin").read_text()
    _, source = split_translate(text)
    assert source.long_form() == text.split("------\n")[1]


def test_translate_gives_route_and_source() -> None:
    route, source = split_translate((JOBROUTER / "translate.stdin").read_text())
    assert route is not None
    assert (route.string("Name"), route.integer("TargetUniverse")) == ("capsule", 5)
    assert source.string("Arguments") == "--label two' 'words --quote it''''s plain 0"


def test_translate_takes_a_job_ad_alone() -> None:
    route, source = split_translate("ClusterId = 3\nProcId = 1\n")
    assert route is None
    assert source.integer("ClusterId") == 3


def test_finalize_gives_source_and_routed_ad() -> None:
    source, routed = split_finalize((JOBROUTER / "finalize.stdin").read_text())
    assert source.string("RoutedToJobId") == "12.0"
    assert routed.string("RoutedFromJobId") == "11.0"


@pytest.mark.parametrize("name", ["cleanup", "update-idle", "update-running"])
def test_the_other_hooks_send_one_ad(name: str) -> None:
    text = (JOBROUTER / f"{name}.stdin").read_text()
    assert [ad.integer("ClusterId") for ad in split_many(text)] == [12]


def test_dashes_inside_a_string_do_not_separate() -> None:
    text = 'A = "x ------ y"\nB = "------"\n------\nC = 1\n'
    above, below = split_finalize(text)
    assert (above.names, below.names) == (("A", "B"), ("C",))


def test_a_remark_that_ends_in_dashes_does_not_separate() -> None:
    above, below = split_finalize("# the source ------\nA = 1\n------\nB = 2\n")
    assert (above.names, below.names) == (("A",), ("B",))


def test_an_expression_may_hold_bytes_that_are_not_utf8() -> None:
    assert parse_ad('A = size(strcat("\udce9", "b"))\n').integer("A") == 2
    with pytest.raises(AdError, match="^A = .*: cannot be evaluated"):
        parse_ad('A = strcat("\udce9", "b")\n').string("A")


def test_dashes_with_a_carriage_return_separate() -> None:
    above, below = split_finalize("A = 1\r\n------\r\nB = 2\r\n")
    assert (above.attributes, below.attributes) == ((("A", "1"),), (("B", "2"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A = 1\n", "no line of dashes"),
        ("------\nA = 1\n", "source ad above the dashes, found no ads"),
        ("A = 1\n------\n", "routed ad below the dashes, found no ads"),
        ("A = 1\n------\nB = 1\n\nB = 2\n", "found 2 ads"),
        ("A = 1\n------\nB = 1\n------\n", "line 4: a second line of dashes"),
    ],
)
def test_finalize_refuses_other_frames(text: str, message: str) -> None:
    with pytest.raises(AdError, match=message):
        split_finalize(text)


def test_translate_refuses_several_jobs() -> None:
    with pytest.raises(AdError, match="expected a job ad, found 2 ads"):
        split_translate("ClusterId = 1\n\nClusterId = 2\n")


def test_ads_of_condor_q_are_separated_by_blank_lines() -> None:
    text = "\n\n-- Schedd: vm : <127.0.0.1:9618?...\nClusterId = 1\n\n\nClusterId = 2\nX = 1\n"
    assert [ad.integer("ClusterId") for ad in split_many(text)] == [1, 2]
    assert split_many("\n \n# nothing\n") == ()


def test_a_dump_lays_each_process_over_its_cluster() -> None:
    ads = split_many((DUMPS / "quoting.dump").read_text())
    assert [(ad.integer("ClusterId"), ad.integer("ProcId")) for ad in ads] == [(1, 0), (1, 1)]
    assert [ad.string("Out") for ad in ads] == ["out.0", "out.1"]
    assert ads[1].string("Cmd") == "/home/alice/show.sh"


def test_a_dump_of_two_clusters_keeps_them_apart() -> None:
    ads = split_many((DUMPS / "clusters.dump").read_text())
    found = [(ad.integer("ClusterId"), ad.integer("ProcId"), ad.string("Cmd")) for ad in ads]
    assert found == [
        (1, 0, "/home/alice/show.sh"),
        (1, 1, "/home/alice/show.sh"),
        (2, 0, "/bin/echo"),
    ]


def test_new_form_becomes_long_form() -> None:
    ad = parse_ad(
        '// a route\n[ a = "x\\\\y\\"z\\303\\251"; /* b; */ b = { 1,\n 2 };\n'
        ' c = [d = 1; e = "]"]; f = strcat("\\t", "b") // end\n ]'
    )
    assert ad.attributes == (
        ("a", '"x\\y\\"zé"'),
        ("b", "{ 1, 2 }"),
        ("c", '[d = 1; e = "]"]'),
        ("f", 'strcat("\t", "b")'),
    )
    assert ad.value("f") == "\tb"


@pytest.mark.parametrize(
    ("text", "number", "shown", "reason"),
    [
        ("A = 1\n\nfoo\n", 3, "foo", "not 'Attr = expr'"),
        ("A = 1\nB = 1K\n", 2, "B = 1K", "no ClassAd expression"),
        ("A = 1]\n", 1, "A = 1]", "']' closes nothing"),
        ("A = 1; B = 2\n", 1, "A = 1; B = 2", "';' does not belong"),
        ('A = "x\n', 1, 'A = "x', "a quote is not closed"),
        ("A =\n", 1, "A =", "no expression"),
        ("A == 1\n", 1, "A == 1", "not 'Attr = expr'"),
        ("A = f(1\n", 1, "A = f(1", "'(' is not closed"),
        ("A = 1 +\n", 1, "A = 1 +", "no ClassAd expression"),
        ("A = 1 /* x\n", 1, "A = 1 /* x", "a comment is not closed"),
        ("[\n A = 1;\n B = +;\n]", 3, "B = +;", "no ClassAd expression"),
        ("[ A = 1;\n B = 2", 1, "[ A = 1;", "'[' is not closed"),
        ('[ A = "x\\ny" ]', 1, '[ A = "x\\ny" ]', "line break"),
        ('[ A = "\\0" ]', 1, '[ A = "\\0" ]', "is no character of a string"),
        ('[ A = "\\777" ]', 1, '[ A = "\\777" ]', "is no character of a string"),
        ("A = \0\n", 1, r"A = \x00", "NUL"),
    ],
)
def test_a_line_that_cannot_be_parsed_is_named(
    text: str, number: int, shown: str, reason: str
) -> None:
    message = re.escape(f"line {number} of the ad cannot be parsed: '{shown}': ")
    with pytest.raises(AdError, match=f"^{message}.*{re.escape(reason)}"):
        parse_ad(text)


def test_the_line_number_counts_through_the_frame() -> None:
    with pytest.raises(AdError, match="^line 4 "):
        split_finalize("A = 1\n\n------\n]\n")


def test_an_ad_after_another_is_not_merged_into_it() -> None:
    with pytest.raises(AdError, match="more than one ad: 'a' comes again"):
        parse_ad("A = 1\nB = 2\n\na = 2\n")
    assert parse_ad("A = 1\n\n# remark\nB = 2\n").names == ("A", "B")


def test_names_are_found_in_any_case_and_the_last_of_two_wins() -> None:
    ad = parse_ad("Foo = 1\nfOO = 2\n")
    assert (ad.names, ad.integer("FOO"), "foo" in ad) == (("Foo",), 2, True)


@given(one_line)
def test_a_quoted_string_reads_back(value: str) -> None:
    assert parse_ad(f"A = {quote(value)}\n").string("a") == value


@given(one_line)
def test_the_library_reads_a_quoted_string_as_we_do(value: str) -> None:
    assert library_value(quote(value)) == value


@given(st.text(st.sampled_from('ab\\" n\t'), max_size=12))
@settings(max_examples=300)
def test_a_long_form_string_means_what_the_library_says(body: str) -> None:
    text = f'"{body}"'
    try:
        ours = parse_ad(f"a = {text}\n").value("a")
    except AdError:
        return
    # The library takes a leading string for the whole; we refuse what follows it.
    assume(classad_text.literal_string(text) is not None)
    assert ours == library_value(text)


@given(st.binary(max_size=30))
def test_bytes_that_are_not_utf8_pass_through(data: bytes) -> None:
    value = data.decode(errors="surrogateescape")
    assume(not set(value) & set("\0\n\r"))
    ad = parse_ad(f"A = {quote(value)}\nB = size(A)\n")
    assert ad.string("A") == value
    assert ad.integer("B") == len(data)
    assert ad.long_form().encode(errors="surrogateescape").startswith(b"A = ")


@given(st.text(max_size=60))
@settings(max_examples=300)
def test_arbitrary_text_is_read_or_refused(text: str) -> None:
    assume(not any("\ud800" <= char <= "\udfff" for char in text))
    try:
        ads = split_many(text)
    except AdError:
        return
    for ad in ads:
        assert parse_ad(ad.long_form()) == ad


@given(st.text(st.sampled_from("[]{}();=\"'/*ab1,\n\\ "), max_size=25))
@settings(max_examples=500)
def test_text_of_brackets_and_quotes_is_read_or_refused(text: str) -> None:
    try:
        ads = split_many(text)
    except AdError:
        return
    for ad in ads:
        assert parse_ad(ad.long_form()) == ad


@given(one_line)
def test_new_form_strings_survive(value: str) -> None:
    assert parse_ad(f"[ a = {classad2.quote(value)} ]").string("a") == value


@given(one_line)
def test_other_names_for_attributes_leave_the_rest_alone(value: str) -> None:
    text = quote(f"Old {value}.")
    expr = f"strcat({text}, oLD, Older, MY.Old, 'Old')"
    assert (
        classad_text.rename(expr, {"old": "New"})
        == f"strcat({text}, New, Older, MY.New, 'Old')"
    )


def test_values_have_types() -> None:
    ad = parse_ad('S = "x"\nI = 3\nR = 2.5\nB = true\nU = undefined\nE = 1/0\nX = I * 2\n')
    assert (ad.string("S"), ad.integer("I"), ad.integer("R")) == ("x", 3, 2)
    assert (ad.number("R"), ad.boolean("B"), ad.boolean("I")) == (2.5, True, True)
    assert (ad.string("U"), ad.integer("None"), ad.integer("X")) == (None, None, 6)


@pytest.mark.parametrize(
    ("name", "read", "message"),
    [
        ("I", "string", "I = 3: 3 is not a string"),
        ("S", "integer", "S = .x.: x is not a number"),
        ("S", "boolean", "S = .x.: x is not true or false"),
        ("B", "integer", "B = true: True is not a number"),
        ("E", "integer", "E = 1/0: evaluates to ERROR"),
        ("N", "integer", "N = real.*: inf is not an integer"),
    ],
)
def test_a_value_of_the_wrong_type_names_the_attribute(
    name: str, read: str, message: str
) -> None:
    ad = parse_ad('S = "x"\nI = 3\nB = true\nE = 1/0\nN = real("INF")\n')
    with pytest.raises(AdError, match=message):
        getattr(ad, read)(name)


def test_an_enumeration_of_the_library_is_no_integer() -> None:
    """classad2's Undefined equals 2 as a number; a 2 must stay one."""
    assert parse_ad("A = 1 + 1\n").integer("A") == 2
    assert parse_ad("A = 0 + 1\n").integer("A") == 1


def test_with_and_without_leave_the_rest_verbatim() -> None:
    ad = parse_ad("A = 1  +  2\nB = 3\nC = 4\n")
    changed = ad.with_({"b": "5  *  6", "D": True, "E": 7}).without(["c", "nothing"])
    assert changed.long_form() == "A = 1  +  2\nB = 5  *  6\nD = true\nE = 7\n"
    assert ad.long_form() == "A = 1  +  2\nB = 3\nC = 4\n"


@pytest.mark.parametrize("text", ["1; B = 2", "1\nB = 2", "", "1 +", '"x'])
def test_with_refuses_what_would_be_another_attribute(text: str) -> None:
    with pytest.raises(AdError, match="^A = "):
        Ad().with_({"A": text})


def test_quote_refuses_line_breaks() -> None:
    with pytest.raises(AdError, match="line break"):
        quote("a\nb")


def test_importing_does_no_work() -> None:
    """The ClassAd library takes tens of milliseconds to load: only when it is needed."""
    code = (
        "import sys; from vmcapsule.classad import ads\n"
        "ads.parse_ad('A = 1').integer('A')\n"
        "assert 'classad2' not in sys.modules\n"
        "ads.parse_ad('A = 1 + 1')\n"
        "assert 'classad2' in sys.modules or 'classad' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_ad_knows_itself_as_my_in_a_process_that_parsed_nothing_before() -> None:
    script = (
        "from vmcapsule.classad.ads import parse_ad\n"
        "assert parse_ad('A = 1\\nB = my.A + 1').integer('B') == 2"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
