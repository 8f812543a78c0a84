"""What a cache of templates keeps, fetches and lets go."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.disk.extents import Extent
from vmcapsule.template.cache import Entry, plan
from vmcapsule.template.catalogue import Stored, StoredFile

NAMES = [digit * 32 for digit in "0123456789"]


def stored(like: str, data_bytes: int) -> Stored:
    return Stored(like, (StoredFile("f", data_bytes, (Extent(0, data_bytes),), "ab" * 32),))


def entry(like: str, data_bytes: int, used_s: float) -> Entry:
    return Entry(Path("/cache") / like, data_bytes, used_s)


sizes = st.integers(1, 10)
indexes = st.dictionaries(st.sampled_from(NAMES), sizes).map(
    lambda found: [stored(like, size) for like, size in found.items()]
)


@given(indexes, st.dictionaries(st.sampled_from(NAMES), sizes), st.integers(0, 60), st.data())
def test_a_plan_keeps_to_its_bound(
    index: list[Stored], there: dict[str, int], at_most: int, data: st.DataObject
) -> None:
    listed = {one.likeness: one.data_bytes for one in index}
    have = [
        entry(like, listed.get(like, size), data.draw(st.integers(0, 5)))
        for like, size in there.items()
    ]
    made = plan(index, have, at_most)
    removed = {one.likeness for one in made.removed}
    fetched = {one.likeness for one in made.fetched}
    assert removed <= set(there) and not fetched & set(there)
    left = {one.likeness: one.data_bytes for one in have if one.likeness not in removed}
    after = {**left, **{one.likeness: one.data_bytes for one in made.fetched}}
    assert sum(after.values()) <= at_most
    assert {one.likeness for one in made.left_out} == set(listed) - set(after)
    # Once it is carried out there is nothing more to do.
    now = [entry(like, size, 0) for like, size in after.items()]
    again = plan(index, now, at_most)
    assert (again.fetched, again.removed) == ((), ())
    # What is listed first is there, if it fits at all.
    if index and index[0].data_bytes <= at_most:
        assert index[0].likeness in after


def test_what_was_used_last_stays() -> None:
    have = [entry(NAMES[1], 4, 100), entry(NAMES[2], 4, 300), entry(NAMES[3], 4, 200)]
    made = plan([stored(NAMES[0], 4)], have, 12)
    assert [one.likeness for one in made.removed] == [NAMES[1]]
    assert [one.likeness for one in made.fetched] == [NAMES[0]]


def test_what_is_listed_stays_before_what_is_not() -> None:
    have = [entry(NAMES[1], 4, 1), entry(NAMES[2], 4, 300)]
    made = plan([stored(NAMES[0], 4), stored(NAMES[1], 4)], have, 8)
    assert [one.likeness for one in made.removed] == [NAMES[2]]


def test_what_does_not_fit_is_told() -> None:
    made = plan([stored(NAMES[0], 9), stored(NAMES[1], 4)], [], 8)
    assert [one.likeness for one in made.left_out] == [NAMES[0]]
    assert [one.likeness for one in made.fetched] == [NAMES[1]]
