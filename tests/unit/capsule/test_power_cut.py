"""The power may fail after any system call: no output is lost, and no file comes up half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.power_cut import Disk, Found, Recorded
from tests.unit.returned import make_capsule, make_job
from vmcapsule import atomic
from vmcapsule.capsule import delivery, making, states
from vmcapsule.capsule.record import Capsule, load_capsule, save_capsule, save_source_ad
from vmcapsule.capsule.states import State
from vmcapsule.errors import OutputBlocked


class World(NamedTuple):
    """A capsule that has run, and the folder of its job's user."""

    root: Path
    home: Path
    made: Capsule
    outputs: dict[str, bytes]
    before: dict[str, bytes]


def world(root: Path, outputs: dict[str, bytes]) -> World:
    home = root / "home"
    home.mkdir()
    (home / "out0").write_bytes(b"of the run before, and longer")
    job = make_job(home, ClusterId="4", ProcId="2", GlobalJobId='"host#4.2#1"')
    made = make_capsule(root / "scratch", job, outputs)
    kept = {path.name: path.read_bytes() for path in made.folder.iterdir()}
    return World(root, home, made, outputs, kept)


def check(world: World, found: Found) -> None:
    """Every output is there, or its capsule is; and nothing is half."""
    capsule = f"scratch/{world.made.folder.name}/"
    inside = {p[len(capsule) :]: what for p, what in found.items() if p.startswith(capsule)}
    is_kept = all(inside.get(name) == data for name, data in world.before.items())
    old = b"of the run before, and longer"
    lacking = set()
    for name, data in world.outputs.items():
        there = found.get(f"home/{name}")
        if there != data:
            lacking.add(name)
            assert there is None or (name == "out0" and there == old), f"{name} is half there"
    assert not lacking or is_kept, "the last copy of an output is gone"
    if inside and is_kept:
        state = inside.get(states.STATE, State.MADE.value)
        assert state in [each.value for each in State]
        assert state != State.DELIVERED.value or not lacking
        if states.LEFT_OVER in inside:
            assert lacking <= set(json.loads(inside[states.LEFT_OVER])), "left over, not noted"
    elif inside:
        assert not is_kept and not lacking


FEW = {f"out{number}": bytes([65 + number]) * 5000 for number in range(3)}
MANY = {f"out{number}": bytes([number]) * 700 for number in range(2 * atomic.FEW)}


@pytest.mark.parametrize(("outputs", "flushes"), [(FEW, 4), (MANY, 2)])
def test_a_capsule_goes_when_its_outputs_are_on_disk(
    tmp_path: Path, outputs: dict[str, bytes], flushes: int
) -> None:
    here = world(tmp_path, outputs)
    looked: list[int] = []

    def look(disk: Disk) -> None:
        for found in disk.after_a_power_cut():
            check(here, found)
        looked.append(disk.flushes)

    with Recorded(Disk(tmp_path, look)) as disk:
        delivery.deliver_from(here.made, delivery.job_of(here.made))
        making.remove(here.made.folder)
    assert {path.name: path.read_bytes() for path in here.home.iterdir()} == outputs
    assert disk.flushes == flushes and len(looked) > 2 * len(outputs)


def test_what_is_left_over_is_noted_before_the_capsule_says_so(tmp_path: Path) -> None:
    here = world(tmp_path, FEW)
    (here.home / "out1").mkdir()

    def look(disk: Disk) -> None:
        for found in disk.after_a_power_cut():
            check(here, found)

    with Recorded(Disk(tmp_path, look)):
        with pytest.raises(OutputBlocked):
            delivery.deliver_from(here.made, delivery.job_of(here.made))
        assert here.made.state is State.LEFT_OVER
        (here.home / "out1").rmdir()
        delivery.deliver_from(here.made, delivery.job_of(here.made))
        making.remove(here.made.folder)
    assert {path.name: path.read_bytes() for path in here.home.iterdir()} == FEW


def test_the_test_finds_what_is_not_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world(tmp_path, FEW)
    monkeypatch.setattr(atomic.Unflushed, "flush", lambda self: None)

    def look(disk: Disk) -> None:
        for found in disk.after_a_power_cut():
            check(here, found)

    with Recorded(Disk(tmp_path, look)), pytest.raises(AssertionError, match="is half there"):
        delivery.deliver_from(here.made, delivery.job_of(here.made))
        making.remove(here.made.folder)


def test_a_capsule_that_is_seen_has_its_record(tmp_path: Path) -> None:
    """Its data disk can be made again, and the job need not wait until that is flushed."""
    job = make_job(tmp_path, ClusterId="4", ProcId="2", GlobalJobId='"host#4.2#1"')
    like = make_capsule(tmp_path / "scratch", job, FEW)
    folder = like.folder.with_name("capsule-of-another")

    def look(disk: Disk) -> None:
        for found in disk.after_a_power_cut():
            for name in ("capsule.json", "source.ad"):
                data = found.get(f"scratch/{folder.name}/{name}")
                there = any(path.startswith(f"scratch/{folder.name}/") for path in found)
                assert data or not there, f"{name} came up empty"

    with Recorded(Disk(tmp_path, look)) as disk:
        with making.draft(folder) as aside:
            save_source_ad(job.long_form(), aside)
            save_capsule(like._replace(folder=folder), aside)
    assert load_capsule(folder).job_id == "4.2"
    assert disk.flushes == 3
