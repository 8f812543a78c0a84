"""``vmcapsule extract``: what was delivered is the user's, and is not written over unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.returned import make_capsule, make_job
from vmcapsule.capsule.record import Capsule
from vmcapsule.capsule.states import State
from vmcapsule.cli.cli import main

OUTPUTS = {"one": b"1", "two": b"2", "three": b"3"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def made(tmp_path: Path, home: Path) -> Capsule:
    job = make_job(home, ClusterId="4", ProcId="2", GlobalJobId='"host#4.2#1"')
    return make_capsule(tmp_path / "scratch", job, OUTPUTS)


def found(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}


def test_what_the_user_changed_since_stays(
    made: Capsule, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["extract", str(made.folder)]) == 0
    assert found(home) == OUTPUTS
    said = capsys.readouterr().out
    (home / "one").write_bytes(b"the next step's")
    (home / "two").unlink()
    assert main(["extract", str(made.folder)]) == 0
    assert found(home) == {"one": b"the next step's", "three": b"3"}
    again = capsys.readouterr().out
    assert "exit code 0" in said and "were delivered" not in said
    assert again == (
        "job 4.2: its outputs were delivered before; nothing was written "
        "(--again delivers all of them once more)\n"
    )


def test_all_are_delivered_once_more_when_that_is_asked_for(
    made: Capsule, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["extract", str(made.folder)])
    (home / "one").write_bytes(b"the next step's")
    (home / "two").unlink()
    assert main(["extract", "--again", str(made.folder)]) == 0
    assert found(home) == OUTPUTS
    assert capsys.readouterr().out.count(f"{home}/one\n") == 2


def test_of_what_is_left_over_the_rest_alone_comes_unless_all_is_asked_for(
    made: Capsule, home: Path
) -> None:
    (home / "two").mkdir()
    assert main(["extract", str(made.folder)]) == 74
    assert found(home) == {"one": b"1", "three": b"3"} and made.state is State.LEFT_OVER
    (home / "one").write_bytes(b"the next step's")
    (home / "two").rmdir()
    (home / "three").rename(home / "mine")
    assert main(["extract", str(made.folder)]) == 0
    assert found(home) == {"one": b"the next step's", "two": b"2", "mine": b"3"}
    assert made.state is State.DELIVERED


def test_asked_for_again_a_left_over_capsule_delivers_all(made: Capsule, home: Path) -> None:
    (home / "two").mkdir()
    main(["extract", str(made.folder)])
    (home / "one").write_bytes(b"the next step's")
    assert main(["extract", "--again", str(made.folder)]) == 74
    assert found(home) == {"one": b"1", "three": b"3"} and made.state is State.LEFT_OVER
    (home / "two").rmdir()
    main(["extract", str(made.folder)])
    assert found(home) == OUTPUTS


def test_what_another_run_left_is_delivered_like_the_first(
    made: Capsule, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmcapsule.capsule.booting.boot_capsule", lambda made, **_: "kvm")
    for _ in range(2):
        assert main(["extract", str(made.folder)]) == 0
        assert found(home) == OUTPUTS
        (home / "one").unlink()
        (home / "two").unlink()
        (home / "two").mkdir()
        assert main(["boot", str(made.folder)]) == 0
        assert made.state is State.MADE
        assert main(["extract", str(made.folder)]) == 74
        assert found(home) == {"one": b"1", "three": b"3"} and made.state is State.LEFT_OVER
        assert main(["boot", str(made.folder)]) == 0
        (home / "one").unlink()
        (home / "two").rmdir()
