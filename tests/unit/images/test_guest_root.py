"""What the builder gives mmdebstrap, and that it looks at what that left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

from vmcapsule.errors import TemplateError, ToolError
from vmcapsule.images import template_build
from vmcapsule.images.guest_root import check_set_up, debian_packages
from vmcapsule.images.template_build import build_template
from vmcapsule.process import run
from vmcapsule.template.template import FOLDER

Environment = Callable[[], "dict[str, str]"]
BUNDLE = "etc/ssl/certs/ca-certificates.crt"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Install nothing; return what a script of a package would find in its environment."""
    program = tmp_path / "bin/mmdebstrap"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec env >{tmp_path}/environment\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    # Who may make devices is mmdebstrap's concern.
    monkeypatch.setattr("os.geteuid", lambda: 0)

    def found() -> dict[str, str]:
        debian_packages(tmp_path / "root", suite="trixie", packages=["condor"], options=[])
        lines = (tmp_path / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    return found


def test_packages_are_set_up_without_the_callers_htcondor(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    # HTCondor's Python module sets it where there is no configuration: the scripts of
    # Debian's package then made no /var/log/condor, and no pool came up.
    monkeypatch.setenv("CONDOR_CONFIG", "/dev/null")
    monkeypatch.setenv("_CONDOR_LOG", "/tmp")
    assert not [name for name in environment() if "CONDOR" in name]


def test_packages_come_from_where_the_caller_says(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"http_proxy": "http://127.0.0.1:1", "APT_CONFIG": "/etc/apt/x", "TMPDIR": "/tmp"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert environment().items() >= given.items()


def test_a_builder_that_is_killed_leaves_no_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = run(["unshare", "--mount", "true"], timeout_s=20, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no namespaces here: {tried.stderr.decode().strip()}")
    program = tmp_path / "bin/mmdebstrap"
    program.parent.mkdir()
    mount = f"mkdir -p {tmp_path}/root/sys && mount -t sysfs sys {tmp_path}/root/sys"
    program.write_text(f"#!/bin/sh\n{mount} && touch {tmp_path}/mounted\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(ToolError):
        debian_packages(tmp_path / "root", suite="trixie", packages=["condor"], options=[])
    assert (tmp_path / "mounted").exists()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize("bundle", [None, b""])
def test_a_system_that_was_not_set_up_is_refused(tmp_path: Path, bundle: bytes | None) -> None:
    (tmp_path / BUNDLE).parent.mkdir(parents=True)
    if bundle is not None:
        (tmp_path / BUNDLE).write_bytes(bundle)
    with pytest.raises(TemplateError, match=f"no '/{BUNDLE}': a package was not set up"):
        check_set_up(tmp_path)
    (tmp_path / BUNDLE).write_bytes(b"-----BEGIN CERTIFICATE-----")
    check_set_up(tmp_path)


def test_a_template_that_cannot_be_read_replaces_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(scratch: Path, *_: object) -> None:
        (scratch / FOLDER).mkdir()

    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "good").touch()
    monkeypatch.setattr(template_build, "_build", build)
    monkeypatch.setattr(template_build, "_check_machine", lambda: None)
    with pytest.raises(TemplateError):
        build_template(tmp_path, progress=print)
    assert (tmp_path / FOLDER / "good").exists()
