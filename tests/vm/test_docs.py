"""Every command of the README and the docs is run, as a new user would run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vmcapsule.config import load_config
from vmcapsule.job.submit import ads_from_submit

pytestmark = pytest.mark.vm
HOME = Path(__file__).resolve().parents[2]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]
FENCE = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    return FENCE.findall(page.read_text())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The examples, with the commands on PATH and a job ad as condor_q would print it."""
    folder = tmp_path / "examples"
    shutil.copytree(HOME / "examples", folder)
    program = tmp_path / "bin" / "vmcapsule"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m vmcapsule "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("_CONDOR_VM_CAPSULE_SCRATCH_DIR_PREFIX", str(tmp_path / "scratch"))
    monkeypatch.chdir(folder)
    config = load_config()
    (ad,) = ads_from_submit(
        Path("wordcount.sub"), tarball=config.condor_tarball, cache=config.cache
    )
    (folder / "job.ad").write_text(ad.long_form())
    return folder


#: But those that need a pool: a test of the pool's runs them.
HERE = [page for page in PAGES if page.name != "troubleshooting.md"]


@pytest.mark.parametrize("page", HERE, ids=lambda page: page.name)
def test_the_commands_of_a_page_work(
    page: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = [block for block in blocks(page) if not block.startswith(("./dev", "condor_"))]
    if page.name == "templates.md":
        # It builds again by force: not over the template that the other tests use.
        monkeypatch.setenv("_CONDOR_VM_CAPSULE_TEMPLATE", str(tmp_path / "templates"))
    for block in mine:
        done = subprocess.run(
            ["sh", "-e", "-c", block], capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_continuous_integration_runs_the_commands_of_the_checkout() -> None:
    commands = {
        line.strip()
        for page in PAGES
        for block in blocks(page)
        for line in block.splitlines()
        if line.startswith("./dev")
    }
    run = (HOME / ".ci/run").read_text().splitlines()
    assert commands and commands <= set(run)


def test_no_command_hides_outside_the_blocks_that_are_run() -> None:
    for page in PAGES:
        text = FENCE.sub("", page.read_text())
        assert not re.findall(r"^ *(?:vmcapsule|\./dev) .*$", text, re.MULTILINE), page.name
