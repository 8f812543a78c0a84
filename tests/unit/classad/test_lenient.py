"""What is made out of an ad that cannot be parsed is what the whole ad would have said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.classad import lenient
from vmcapsule.classad.ads import split_finalize, split_translate

JOBROUTER = Path(__file__).resolve().parents[2] / "fixtures" / "jobrouter-23.9.6"
STRINGS = ("Owner", "Iwd", "UserLog", "DAGManNodesLog", "VmCapsuleDir", "VmCapsuleSourceJobId")


@pytest.mark.parametrize("damage", ["", "Foo = 1 +\n", "A = \0\n\n", "------\n", "[\n"])
def test_of_what_the_router_sent_the_same_is_made_out(damage: str) -> None:
    text = (JOBROUTER / "translate.stdin").read_text()
    _, source = split_translate(text)
    above, below = lenient.frame(text + damage)
    assert "TargetUniverse" in above and below is not None
    told = lenient.told(below)
    assert told.integer("ClusterId") == source.integer("ClusterId") == 11
    assert [told.string(name) for name in STRINGS] == [source.string(name) for name in STRINGS]
    assert told.string("Owner") and told.string("Iwd")


def test_a_finalize_is_cut_at_the_same_line() -> None:
    text = (JOBROUTER / "finalize.stdin").read_text()
    above, below = lenient.frame(text)
    assert below is not None
    numbers = [lenient.told(part).integer("ClusterId") for part in (above, below)]
    assert numbers == [ad.integer("ClusterId") for ad in split_finalize(text)]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('iwd="/a"', "/a"),
        (' \tIWD\t = "/a" \r', "/a"),
        ('Iwd = "/a"\nIwd = "/b"', "/b"),
        ('Iwd = "/a"\nIwd = "/b" + 1', "/a"),
        ('Iwd = "C:\\new"', "C:\\new"),
        ('Iwd = "a\\"b"', 'a"b'),
        ('Iwd = "/caf\udce9"', "/caf\udce9"),
        ('Iwd = "/a\x1b[31m"', None),
        ('Iwd = strcat("/", "a")', None),
        ("Iwd = 7", None),
        ('Iwd == "/a"', None),
        ('NotIwd = "/a"', None),
        (f'Iwd = "{"x" * 4096}"', "x" * 4096),
        (f'Iwd = "{"x" * 4097}"', None),
        (f'Iwd = {" " * 5000}"/a"', None),
    ],
)
def test_only_plain_literals_count(line: str, value: object) -> None:
    assert lenient.told(line).string("Iwd") == value


@given(
    st.lists(
        st.builds(
            "{} = {}".format,
            st.sampled_from(sorted(lenient._KINDS)),
            st.text(st.characters(exclude_categories=[]), max_size=12)
            | st.sampled_from(
                ['"x"', "7", "-1", "true", "TRUE", "1.5", '"\\777"', '"\\"', '"']
            ),
        )
        | st.text(max_size=20),
        max_size=8,
    ).map("\n".join)
)
def test_whatever_the_text_is_each_attribute_has_its_type(text: str) -> None:
    above, below = lenient.frame(text)
    for part in (above, below or ""):
        told = lenient.told(part)
        for name, kind in lenient._KINDS.items():
            value = told.value(name)
            assert value is None or type(value) is kind
