"""Work for users: with their rights, in their time, and nobody's makes another's wait."""

from __future__ import annotations

import os
import re
import signal
from typing import Callable

import pytest

from tests.unit.users import NOBODY, another
from vmcapsule.router import owners
from vmcapsule.router.owners import Say, Task, work_for_all

#: Without root all of it is ours.
IS_ROOT = os.geteuid() == 0
ONE = NOBODY if IS_ROOT else os.geteuid()
OTHER = another().pw_uid if IS_ROOT else os.geteuid()
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can take on others' rights")


def done(*works: Callable[[Say], object], deadline_s: float = 600, at_once: int = 16) -> str:
    """What is said of work for several users."""
    lines: list[str] = []
    tasks = [Task(uid, uid, work) for uid, work in zip((ONE, OTHER, ONE, OTHER), works)]
    work_for_all(tasks, lines.append, deadline_s=deadline_s, at_once=at_once)
    return "\n".join(lines)


def fine(say: Say) -> None:
    say("that went well")


@as_root
def test_work_has_its_users_rights_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDOR_PRIVATE_INHERIT", "a session key")
    monkeypatch.setenv("CONDOR_CONFIG", "/etc/condor/condor_config")
    monkeypatch.setenv("_CONDOR_SCHEDD.LOG", "x")

    def tell(say: Say) -> None:
        say(f"{os.getresuid()} {os.getresgid()} {sorted(os.getgroups())}")
        say(" ".join(sorted(os.environ)))

    rights, environment = done(tell).splitlines()
    assert str((ONE, ONE, ONE)) in rights
    assert "0" not in re.findall(r"\d+", rights)
    assert {"CONDOR_CONFIG", "_CONDOR_SCHEDD.LOG", "PATH", "HOME"} <= set(environment.split())
    assert "PRIVATE" not in environment


def test_two_users_work_is_done_at_the_same_time() -> None:
    inner, outer = os.pipe()

    def wait(say: Say) -> None:
        # For the other's; it was begun first.
        say(os.read(inner, 5).decode())

    assert done(wait, lambda say: os.write(outer, b"hello")) == "hello"
    os.close(inner)
    os.close(outer)


def test_a_users_work_that_does_not_end_is_ended() -> None:
    inner, outer = os.pipe()
    said = done(lambda say: os.read(inner, 1), deadline_s=0.2)
    assert said == f"user {ONE}: was not finished: it took too long"
    os.close(inner)
    os.close(outer)


@pytest.mark.parametrize("at_once", [1, 16])
def test_a_user_who_stops_it_keeps_nobody_waiting(at_once: int) -> None:
    said = done(lambda say: os.kill(os.getpid(), signal.SIGSTOP), fine, at_once=at_once)
    assert f"user {ONE}: was not finished: somebody stopped it" in said.splitlines()
    assert "that went well" in said.splitlines()


def test_work_that_a_user_kills_or_that_fails_is_told_of(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(say: Say) -> None:
        raise RuntimeError("a fault")

    said = done(lambda say: os.kill(os.getpid(), signal.SIGKILL), fail, fine).splitlines()
    assert sorted(said)[0] == "that went well"
    assert {line.split(":", 1)[1] for line in said[1:] + said[:1] if "user" in line} == {
        " was not finished, see standard error"
    }
    assert "RuntimeError: a fault" in capfd.readouterr().err


def test_what_it_says_is_bounded_and_on_lines_of_its_own() -> None:
    def flood(say: Say) -> None:
        say("a\nb \x1b[2J " + "x" * 1_000_000)
        for number in range(5000):
            say(f"line {number}")

    first, *_, last = said = done(flood).splitlines()
    assert first.startswith(r"a b \x1b[2J xxx") and len(first) < 9000
    assert len(said) == 1001 and last == f"user {ONE}: and 4001 lines more"


def test_what_cannot_even_be_killed_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, outer = os.pipe()
    monkeypatch.setattr(owners, "_KILLED_S", 0.0)
    with monkeypatch.context() as unkillable:
        unkillable.setattr(os, "kill", lambda *_: None)
        unkillable.setattr(os, "killpg", lambda *_: None)
        said = done(lambda say: os.read(inner, 1), fine, deadline_s=0.2, at_once=1)
    found = re.search(rf"user {ONE}: left process (\d+) behind, which does not end", said)
    assert found and "that went well" in said
    os.kill(int(found[1]), signal.SIGKILL)
    os.waitpid(int(found[1]), 0)
    os.close(inner)
    os.close(outer)
