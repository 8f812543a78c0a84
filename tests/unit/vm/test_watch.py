"""A guest's limits: its own time counts, and none in which it stood still."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmcapsule.errors import GuestTimeout
from vmcapsule.vm import watch
from vmcapsule.vm.watch import Watch


class Clock:
    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


def looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, steps_s: list[float]) -> None:
    """Look at a guest that may run for 60 s, after each of so many seconds."""
    clock = Clock()
    monkeypatch.setattr(watch, "time", clock)
    console = tmp_path / "console"
    console.touch()
    guest = Watch(console, [], timeout_s=60)
    for step_s in steps_s:
        clock.now_s += step_s
        guest.look(lambda: None)


def test_a_guest_has_its_time_and_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looks(monkeypatch, tmp_path, [1.0] * 60)
    with pytest.raises(GuestTimeout, match="within 60 s"):
        looks(monkeypatch, tmp_path, [1.0] * 61)


def test_time_in_which_it_was_suspended_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looks(monkeypatch, tmp_path, [1.0, 3600.0, 1.0, 7200.0, 1.0])
