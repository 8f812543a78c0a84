"""What tests with real virtual machines share: the built template, and a way to run jobs."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from vmcapsule.config import Config, load_config
from vmcapsule.template.template import Template, load
from vmcapsule.vm import accelerator

#: Emulated and on a busy machine; a guest that needs longer hangs.
TIMEOUT_S = 400


@pytest.fixture(scope="session")
def config() -> Config:
    return load_config()


@pytest.fixture(scope="session")
def template(config: Config) -> Template:
    """The template that './dev test' built (or 'vmcapsule template build')."""
    return load(config.template)


@functools.lru_cache
def kvm_line() -> str:
    """What a probe of this machine adds to its ad: else each slot has one of its own."""
    config = load_config()
    works = accelerator.choose(load(config.template).kernel, config.cache) == accelerator.KVM
    return f"VMCapsuleKVM = {str(works).lower()}\n"


def template_lines() -> str:
    """What an execute point with the template says of it."""
    path = load_config().template
    return f'VMCapsuleTemplates = "aa"\nVMCapsuleTemplatePaths = "{path}"\n'


@dataclass(frozen=True)
class Outcome:
    """What a run of the command left."""

    status: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.stdout.splitlines()[0])
        return record

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()


def vmcapsule(
    *arguments: object, folder: Path, stdin: Optional[str] = None, **knobs: object
) -> Outcome:
    """Run the command in ``folder`` with VM_CAPSULE_<knob> set for each of ``knobs``."""
    env = {**os.environ, **{f"_CONDOR_VM_CAPSULE_{k}": str(v) for k, v in knobs.items()}}
    done = subprocess.run(
        [sys.executable, "-m", "vmcapsule", *(str(a) for a in arguments)],
        cwd=folder,
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S + 60,
    )
    return Outcome(done.returncode, done.stdout, done.stderr, folder)


@pytest.fixture(params=["condor", "direct"])
def runner(request: pytest.FixtureRequest) -> str:
    """Each of those that run a job in the guest."""
    return str(request.param)


@pytest.fixture
def run_job(tmp_path: Path) -> Callable[..., Outcome]:
    """Run a job given as a shell script and submit commands; scratch must end empty."""

    def run(script: str, submit: str = "", *options: object, **knobs: object) -> Outcome:
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        program = folder / "job.sh"
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(0o755)
        (folder / "job.sub").write_text(
            f"executable = job.sh\noutput = out\nerror = err\n{submit}\nqueue\n"
        )
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        knobs = {"SCRATCH_DIR_PREFIX": scratch, **knobs}
        outcome = vmcapsule(
            "run", "--json", "--timeout", TIMEOUT_S, *options, "job.sub", folder=folder, **knobs
        )
        if "--keep" not in options:
            assert list(scratch.iterdir()) == []
        return outcome

    return run
