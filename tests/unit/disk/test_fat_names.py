"""Short and long names, by themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.disk.fat.names import (
    LongNameReader,
    ShortNames,
    check_name,
    checksum,
    fold,
    long_slots,
    short_to_text,
)
from vmcapsule.errors import DiskError


def read_back(slots: bytes, short: bytes) -> str | None:
    reader = LongNameReader()
    for at in range(0, len(slots), 32):
        reader.add(slots[at : at + 32])
    return reader.take(short)


@given(name=st.text(min_size=1, max_size=255))
def test_a_name_that_vfat_can_hold_survives(name: str):
    try:
        check_name(name)
    except DiskError:
        return
    short = ShortNames(set()).make(name)
    slots = long_slots(name, short)
    assert len(slots) == 32 * -(-len(name.encode("utf-16-le")) // 26)
    assert read_back(slots, short) == name
    assert read_back(slots, b"OTHER   TXT") in (None, name)
    assert checksum(short) != checksum(b"OTHER   TXT") or read_back(slots, short) == name


@given(slots=st.binary(max_size=32 * 21), short=st.binary(min_size=11, max_size=11))
def test_any_slots_give_a_safe_name_or_none(slots: bytes, short: bytes):
    name = read_back(slots[: len(slots) // 32 * 32], short)
    assert name is None or ("/" not in name and name not in ("", ".", ".."))


def test_slots_out_of_order_give_no_name():
    short = b"ANAMEO~1   "
    slots = long_slots("a name of more than thirteen letters", short)
    assert read_back(slots, short) is not None
    assert read_back(slots[32:], short) is None  # the first is missing
    assert read_back(slots[:-32], short) is None  # the last is missing
    assert read_back(slots[:32] + slots[64:], short) is None
    assert read_back(slots[:32] + slots[:32] + slots[32:], short) is not None  # begun afresh
    assert read_back(slots, b"ANAMEO~2   ") is None
    other = bytes([slots[32 + 13] ^ 1])
    assert read_back(slots[: 32 + 13] + other + slots[32 + 14 :], short) is None


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("README.TXT", b"README  TXT"),
        ("readme.txt", b"README  TXT"),
        ("job.json", b"JOB~1   JSO"),
        ("a.b.c", b"AB~1    C  "),
        (".hidden", b"HIDDEN~1   "),
        ("with space", b"WITHSP~1   "),
        ("plus+plus.c++", b"PLUS_P~1C__"),
        ("ß", b"_~1        "),
        ("語", b"_~1        "),
        ("...x", b"X~1        "),
        ("longextension.html", b"LONGEX~1HTM"),
        ("NOEXT", b"NOEXT      "),
    ],
)
def test_short_names(name: str, short: bytes):
    assert ShortNames(set()).make(name) == short


def test_numbers_go_on_where_the_base_gets_shorter():
    names = ShortNames({b"COLLIS~2TXT"})
    made = [names.make(f"collision {n}.txt") for n in range(12)]
    assert made[0] == b"COLLIS~1TXT"
    assert made[1] == b"COLLIS~3TXT"
    assert made[9] == b"COLLI~11TXT"
    assert len(set(made)) == 12


def test_the_text_of_a_short_name():
    assert short_to_text(b"README  TXT", 0) == "README.TXT"
    assert short_to_text(b"README  TXT", 0x08) == "readme.TXT"
    assert short_to_text(b"README  TXT", 0x18) == "readme.txt"
    assert short_to_text(b"NOEXT      ", 0) == "NOEXT"
    assert short_to_text(b"\x05A         ", 0) == "σA"
    assert short_to_text(b"\x82TE     TXT", 0) == "éTE.TXT"


def test_folding_joins_what_vfat_joins_only():
    assert fold("Readme é") == fold("rEADME É")
    assert fold("straße") != fold("STRASSE")
    assert fold("ı") != fold("I")
