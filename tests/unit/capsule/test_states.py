"""A capsule is in one state at a time, and enters only those that may follow."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path
from typing import Callable, ContextManager

import pytest

from vmcapsule.capsule import making, states
from vmcapsule.capsule.states import State
from vmcapsule.errors import CapsuleGone, InternalError, UsageError

DESIGN = Path(__file__).resolve().parents[3] / "docs" / "design.md"


def brought_to(folder: Path, *steps: State) -> Path:
    folder.mkdir()
    for step in steps:
        states.enter(folder, step)
    return folder


def test_a_capsule_begins_as_a_draft_and_is_made_when_it_is_published(tmp_path: Path) -> None:
    with making.draft(tmp_path / "c") as aside:
        assert states.state_of(aside) is State.DRAFT
    assert states.state_of(tmp_path / "c") is State.MADE


@pytest.mark.parametrize(
    "way",
    [
        (State.DELIVERING, State.DELIVERED),
        (State.DELIVERING, State.LEFT_OVER, State.DELIVERING, State.DELIVERED),
        # It failed as a whole; it was killed; it was asked for again.
        (State.DELIVERING, State.MADE),
        (State.DELIVERING, State.DELIVERING),
        (State.DELIVERING, State.DELIVERED, State.DELIVERING),
        # It was run again.
        (State.DELIVERING, State.DELIVERED, State.MADE),
        (State.DELIVERING, State.LEFT_OVER, State.MADE),
    ],
)
def test_the_ways_of_the_picture_can_be_gone(tmp_path: Path, way: tuple[State, ...]) -> None:
    assert states.state_of(brought_to(tmp_path / "c", *way)) is way[-1]


@pytest.mark.parametrize(
    "way",
    [
        (State.DELIVERED,),
        (State.LEFT_OVER,),
        (State.DRAFT,),
        (State.DELIVERING, State.LEFT_OVER, State.DELIVERED),
        (State.DELIVERING, State.DELIVERED, State.LEFT_OVER),
    ],
)
def test_no_other_way_can(tmp_path: Path, way: tuple[State, ...]) -> None:
    folder = brought_to(tmp_path / "c", *way[:-1])
    before = states.state_of(folder)
    with pytest.raises(InternalError, match=f"is {before.value} and cannot be {way[-1].value}"):
        states.enter(folder, way[-1])
    assert states.state_of(folder) is before


@pytest.mark.parametrize("text", ["deliv", "\udcff", "delivered " * 100, "/etc/passwd"])
def test_a_state_that_is_none_is_no_reason_to_remove_anything(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / states.STATE).symlink_to(text)
    with pytest.raises(UsageError, match="how far the capsule .* came: state: it names no"):
        states.state_of(tmp_path)


def test_what_else_is_in_the_states_place_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / states.STATE)
    with pytest.raises(UsageError, match="how far the capsule .* came: state: Invalid"):
        states.state_of(tmp_path)


def test_a_capsule_can_be_kept_in_any_state(tmp_path: Path) -> None:
    folder = brought_to(tmp_path / "c", State.DELIVERING)
    assert not states.is_kept(folder)
    states.keep(folder)
    states.enter(folder, State.DELIVERED)
    assert states.is_kept(folder) and states.state_of(folder) is State.DELIVERED


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    inner, outer = os.pipe()
    child = os.fork()
    if child == 0:
        with states.locked(tmp_path):
            os.write(outer, b"x")
            signal.pause()
        os._exit(0)
    os.read(inner, 1)
    with states.locked_if_free(tmp_path) as free:
        assert not free
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with states.locked_if_free(tmp_path) as free:
        assert free
    for end in (inner, outer):
        os.close(end)


def test_the_page_for_newcomers_has_the_same_picture() -> None:
    text = states.__doc__ or ""
    picture = text[text.index("    draft -") : text.index("=====")].strip("\n").rstrip()
    assert picture in DESIGN.read_text()


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen, once, after a lock's file was opened and before it is locked."""
    real, todo = fcntl.flock, [happens]

    def flock(fd: int, operation: int) -> None:
        while todo:
            todo.pop()()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("hold", [states.locked, states.locked_if_free])
def test_the_lock_of_a_capsule_that_went_meanwhile_is_not_held(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hold: Callable[[Path], ContextManager[object]],
) -> None:
    folder = brought_to(tmp_path / "c")
    meanwhile(monkeypatch, lambda: making.remove(folder))
    with pytest.raises(CapsuleGone, match="c' is gone"), hold(folder):
        pytest.fail("nobody else would see this lock")
    assert list(tmp_path.iterdir()) == []


def test_of_a_capsule_that_was_replaced_meanwhile_the_new_one_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = brought_to(tmp_path / "c")

    def replace() -> None:
        making.remove(folder)
        folder.mkdir()

    meanwhile(monkeypatch, replace)
    with states.locked(folder), states.locked_if_free(folder) as free:
        assert not free


def test_what_is_no_lock_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / states.LOCK)
    with pytest.raises(OSError, match="not a regular file"), states.locked(tmp_path):
        pytest.fail("it was locked")
