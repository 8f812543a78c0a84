"""``vmcapsule boot`` is at work on a capsule like any other who boots it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.unit.returned import make_capsule, make_job
from vmcapsule.capsule import booting, states
from vmcapsule.cli import commands


def test_nobody_else_is_at_work_on_a_capsule_that_is_booted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_capsule(tmp_path, make_job(tmp_path), {})
    seen = []

    def boot(*_: object, **__: object) -> str:
        with states.locked_if_free(made.folder) as free:
            seen.append(free)
        return "tcg"

    monkeypatch.setattr(booting, "boot_capsule", boot)
    assert commands.boot(argparse.Namespace(capsule=made.folder, timeout=None)) == 0
    assert seen == [False]
    with states.locked_if_free(made.folder) as free:
        assert free
