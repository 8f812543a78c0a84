"""Where others could meddle with what is ours, nothing is made, taken or removed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

from tests.unit.returned import make_capsule, make_job
from tests.unit.users import NOBODY, acting_as, another, give, open_way
from vmcapsule.cli import cli, report
from vmcapsule.config import check_cache, check_scratch
from vmcapsule.errors import ConfigError
from vmcapsule.router.cleanup import cleanup
from vmcapsule.router.finalize import finalize

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return configured("scratch", "SCRATCH_DIR_PREFIX", tmp_path, monkeypatch)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return configured("cache", "CACHE_DIR", tmp_path, monkeypatch)


def configured(name: str, knob: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / name
    folder.mkdir(mode=0o755)
    monkeypatch.setenv("CONDOR_CONFIG", "ONLY_ENV")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(f"_CONDOR_VM_CAPSULE_{knob}", str(folder))
    return folder


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775, 0o1777, 0o1703])
def test_a_scratch_folder_in_which_only_owners_remove_is_used(scratch: Path, mode: int) -> None:
    scratch.chmod(mode)
    assert report.configuration().scratch_dir_prefix == scratch


@pytest.mark.parametrize("mode", [0o777, 0o702])
def test_one_in_which_all_may_remove_is_refused_by_every_command(
    scratch: Path, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    scratch.chmod(mode)
    assert cli.main(["gc"]) == 78
    assert cli.main(["run", "job.sub"]) == 78
    first, second = capsys.readouterr().err.splitlines()
    assert first == second
    knob = "VM_CAPSULE_SCRATCH_DIR_PREFIX"
    assert f"{knob} = {scratch}: all may write to it, and it has no sticky bit; " in first
    assert "'chmod 1777'" in first and first.endswith(f"name a folder of yours in {knob}")


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_cache_to_which_all_may_write_is_refused(cache: Path, mode: int) -> None:
    cache.chmod(mode)
    with pytest.raises(ConfigError, match="CACHE_DIR = .*all may write to it; .*'chmod go-w'"):
        report.configuration()
    cache.chmod(0o755)
    assert report.configuration().cache == cache


@as_root
@pytest.mark.parametrize("check", [check_scratch, check_cache])
def test_a_folder_is_roots_or_the_callers(
    tmp_path: Path, check: Callable[[Path], None]
) -> None:
    stranger = another().pw_uid
    folder = tmp_path / "folder"
    folder.mkdir()
    open_way(folder)
    check(folder)
    with acting_as():
        check(folder)
    give(folder, stranger)
    said = f"belongs to the user with uid {stranger}, neither to root nor to you"
    with pytest.raises(ConfigError, match=said):
        check(folder)
    with acting_as(), pytest.raises(ConfigError, match=said):
        check(folder)
    give(folder, NOBODY)
    with acting_as():
        check(folder)


def test_a_folder_that_is_not_there_is_nobodys(scratch: Path, cache: Path) -> None:
    scratch.rmdir()
    cache.rmdir()
    report.configuration()


def test_the_hooks_take_no_capsule_for_theirs_that_a_stranger_could_put_there(
    tmp_path: Path,
) -> None:
    scratch, home = tmp_path / "s", tmp_path / "home"
    home.mkdir()
    job = make_job(home, ClusterId="4", ProcId="2", GlobalJobId='"host#4.2#1"')
    made = make_capsule(scratch, job, {"out": b"x"})
    routed = f'VmCapsuleDir = "{made.folder}"\nJobStatus = 4\n'
    text = f"{job.long_form()}\n------\n{routed}"
    scratch.chmod(0o777)
    for hook, ads in ((finalize, text), (cleanup, routed)):
        with pytest.raises(ConfigError, match="no sticky bit"):
            hook(ads)
    assert made.folder.exists() and list(home.iterdir()) == []
    scratch.chmod(0o1777)
    finalize(text)
    assert (home / "out").read_bytes() == b"x"
