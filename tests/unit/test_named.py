"""A named tuple of ours is typing's, whoever asks."""

from __future__ import annotations

import pickle
import typing
from typing import Any, Optional, get_type_hints

import pytest

from vmcapsule import named


class Ours(named.NamedTuple):
    """What it is."""

    first: int
    second: Optional[str] = None
    #: A type that is not there yet as the class is made.
    third: tuple[Later, ...] = ()

    @property
    def double(self) -> int:
        return 2 * self.first

    @classmethod
    def of(cls, text: str) -> Ours:
        return cls(int(text), text)

    def __str__(self) -> str:
        return f"{self.first}!"


class Theirs(typing.NamedTuple):
    """What it is."""

    first: int
    second: Optional[str] = None
    third: tuple[Later, ...] = ()

    @property
    def double(self) -> int:
        return 2 * self.first

    @classmethod
    def of(cls, text: str) -> Theirs:
        return cls(int(text), text)

    def __str__(self) -> str:
        return f"{self.first}!"


class Later:
    pass


def test_a_tuple_is_made_and_asked_as_typings_are() -> None:
    for made in (Ours(1), Ours.of("1"), Ours(first=1, third=(Later(),))):
        theirs = Theirs(*made)
        assert made == theirs and made._asdict() == theirs._asdict()
        assert repr(made) == repr(theirs).replace("Theirs", "Ours")
        assert (str(made), made.double) == (str(theirs), theirs.double) == ("1!", 2)
        assert type(made._replace(first=2)) is Ours and made._replace(first=2).first == 2
    assert pickle.loads(pickle.dumps(Ours.of("7"))) == (7, "7", ())


def test_the_class_says_of_itself_what_typings_says() -> None:
    names = ("_fields", "_field_defaults", "__doc__", "__module__", "__slots__", "__bases__")
    for name in names:
        assert getattr(Ours, name) == getattr(Theirs, name), name
    assert get_type_hints(Ours) == get_type_hints(Theirs)
    assert (Ours.__name__, Ours.__qualname__) == ("Ours", "Ours")


@pytest.mark.parametrize("name", ["first", "fourth"])
def test_it_never_changes(name: str) -> None:
    made: Any = Ours(1)
    with pytest.raises(AttributeError):
        setattr(made, name, 2)


def test_what_is_missing_or_too_much_is_an_error() -> None:
    make: Any = Ours
    for given in ({}, {"first": 1, "fourth": 2}):
        with pytest.raises(TypeError):
            make(**given)
