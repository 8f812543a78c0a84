"""The root that pools stand on, and what is said of a pool that does not come up; no pool."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.pool import root
from tests.pool.pool import Pool, PoolError
from vmcapsule.errors import ToolError

LOG = "var/log/condor"
#: What HTCondor 23.9.6 and 25.14.1 printed where the log's folder was missing.
NO_LOG = (
    "ERROR \"Cannot open log file '/var/log/condor/MasterLog'\" "
    "at line 171 in file ./src/condor_utils/dprintf_setup.cpp\n"
)


def install(folder: Path, without: str = "", suite: str = "trixie") -> None:
    """What mmdebstrap leaves, with HTCondor's user as ours; ``without`` one file or folder."""
    for file in root.packages(suite).values():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    (folder / LOG).mkdir(parents=True)
    account = f"condor:x:{os.getuid()}:{os.getgid()}::/var/lib/condor:/usr/sbin/nologin"
    (folder / "etc/passwd").write_text("" if without == "condor" else f"{account}\n")
    if without == LOG:
        (folder / LOG).rmdir()
    elif without not in ("", "condor"):
        (folder / without).unlink()


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Build a root of packages that were installed without one thing."""

    def built(without: str) -> Path:
        def packages(folder: Path, **_: object) -> None:
            install(folder, without)

        def useradd(argv: list[Any], **_: object) -> None:
            (argv[1] / "home" / argv[-1]).mkdir(parents=True)
            with (argv[1] / "etc/passwd").open("a") as file:
                file.write(f"{argv[-1]}:x:{argv[-2]}:{argv[-2]}::/home/{argv[-1]}:/bin/bash\n")

        monkeypatch.setattr(root, "find", lambda program: program)
        monkeypatch.setattr(root, "debian_packages", packages)
        monkeypatch.setattr(root, "run", useradd)
        root.build_root(tmp_path, "trixie")
        return tmp_path / "root"

    return built


@pytest.mark.parametrize("without", ["", LOG])
def test_a_root_gets_the_log_folder_that_no_script_made(
    build: Callable[[str], Path], without: str
) -> None:
    assert (build(without) / LOG).is_dir()


@pytest.mark.parametrize("without", ["condor", "usr/sbin/condor_master", "usr/bin/qemu-img"])
def test_a_root_that_is_not_whole_is_not_kept(
    build: Callable[[str], Path], tmp_path: Path, without: str
) -> None:
    with pytest.raises(ToolError, match=f"was installed without .*{without}"):
        build(without)
    assert [*tmp_path.iterdir()] == []


def test_a_bad_root_does_not_replace_a_good_one(build: Callable[[str], Path]) -> None:
    good = build("")
    (good / "mark").touch()
    with pytest.raises(ToolError):
        build("usr/bin/ip")
    assert (good / "mark").exists()
    assert not (build("") / "mark").exists()


def test_a_full_disk_is_not_taken_for_a_suite_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packages(folder: Path, **_: object) -> None:
        raise ToolError("mmdebstrap failed: No space left on device")

    monkeypatch.setattr(root, "find", lambda program: program)
    monkeypatch.setattr(root, "debian_packages", packages)
    with pytest.raises(root.SuiteUnavailable):
        root.build_root(tmp_path, "unstable")
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(ToolError, match="1 MiB free") as caught:
        root.build_root(tmp_path, "unstable")
    assert not isinstance(caught.value, root.SuiteUnavailable)


@pytest.mark.parametrize("gone", [LOG, "usr/bin/ip", "etc/vmcapsule-pool.digest"])
def test_a_root_that_lost_something_is_built_anew(
    build: Callable[[str], Path], gone: str
) -> None:
    made = build("")
    # Only root's own counts.
    assert root.is_current(made.parent, "trixie") == (os.geteuid() == 0)
    assert not root.is_current(made.parent, "bookworm")
    path = made / gone
    path.rmdir() if path.is_dir() else path.unlink()
    assert not root.is_current(made.parent, "trixie")


def test_a_root_with_libvirt_is_of_the_same_suite_and_another_root(
    build: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def packages(folder: Path, **given: object) -> None:
        asked.update(given)
        install(folder, suite="trixie-kvm")

    made = build("")
    assert "/usr/bin/virsh" in root.lacking(made, "trixie-kvm")
    monkeypatch.setattr(root, "debian_packages", packages)
    root.build_root(tmp_path, "trixie-kvm")
    assert asked["suite"] == "trixie"
    assert {"condor", "condor-vm-gahp", "libvirt-daemon-system"} <= {*asked["packages"]}
    assert root.lacking(made, "trixie-kvm") == []
    assert not root.is_current(tmp_path, "trixie")


# A pool that does not come up


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool whose master ends at once, again and again."""
    made = Pool("trixie", "dull", cache=tmp_path)

    def prepare() -> None:
        (made.space.folder / "upper/etc").mkdir(parents=True)

    def boot(*, linger: bool) -> None:
        assert not linger
        (made.space.folder / "boot.log").write_text(NO_LOG * 80)

    def until(done: object, timeout_s: float, what: str) -> None:
        raise PoolError(f"waited {timeout_s:g} s in vain for {what}")

    monkeypatch.setattr("tests.pool.pool.require_root", lambda: None)
    monkeypatch.setattr(made, "_prepare_root", lambda: None)
    monkeypatch.setattr(made, "configure", lambda name, text: None)
    monkeypatch.setattr(made, "until", until)
    monkeypatch.setattr(made.space, "prepare", prepare)
    monkeypatch.setattr(made.space, "boot", boot)
    return made


def test_the_error_says_what_the_master_said(pool: Pool) -> None:
    with pytest.raises(PoolError) as caught:
        pool.start(with_plugin=False)
    message = caught.value.message
    assert message.startswith("waited 90 s in vain for HTCondor to come up; its master said: ")
    assert message.count("Cannot open log file '/var/log/condor/MasterLog'") == 1
    assert len(message.splitlines()) == 1


def test_it_is_kept_with_the_logs_of_the_daemons(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="its logs are in"):
        pool.start(with_plugin=False)
    kept = tmp_path / "pool/trixie/dull.failed.log"
    assert "Cannot open log file" in kept.read_text()
    assert not pool.space.folder.exists()


def test_a_master_that_said_nothing_is_not_quoted(pool: Pool) -> None:
    pool.space.folder.mkdir(parents=True)
    error = pool.explained(PoolError("it failed"))
    assert error.message == "it failed"
