"""What a small job's translation costs, counted in modules, programs and bytes: no clock."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.returned import small_template
from vmcapsule import capsule
from vmcapsule.config import load_config
from vmcapsule.tarball import described, tarball_of

HOME = Path(__file__).resolve().parents[2]
MIB = 1 << 20
#: All of the standard library and of HTCondor that a small job needs; what these import
#: themselves is theirs.  Others take a millisecond or more each, as dataclasses six.
NEEDED = (
    "__future__ array bisect classad2 contextlib fcntl functools gc importlib json math mmap "
    "os pathlib re signal stat struct sys time typing zlib "
    "encodings.ascii encodings.cp437 encodings.utf_16_le"
)
#: Of our own, what no small job needs.
SLOW = {
    *("vmcapsule.accelerator", "vmcapsule.boot", "vmcapsule.extract", "vmcapsule.process"),
    *("vmcapsule.run", "vmcapsule.arguments"),
}
HOOK = """
import sys
from vmcapsule.cli import main
status = main(["translate"])
print(" ".join(sys.modules), file=sys.stderr)
sys.exit(status)
"""


def python(script: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a script with this checkout and the installed packages.

    Nothing of how they were installed counts: a developer's installation of the checkout
    imports a hundred modules to find it.
    """
    path = os.pathsep.join([str(HOME), *site.getsitepackages()])
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=HOME,
        # No PATH: a program that were started would not be found.
        env={"PATH": "", "PYTHONPATH": path, **more.pop("env", {})},
        capture_output=True,
        text=True,
        timeout=60,
        **more,
    )
    assert done.returncode == 0, done.stderr
    return done


def translated(tmp_path: Path, classad: str, *, size: int) -> tuple[Path, set[str]]:
    """Translate a job with an input of ``size``: its capsule, and what was imported."""
    param = {**small_template(tmp_path), "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": classad}
    record = {"format": 1, "condor": described(tarball_of(load_config(param)))}
    folder = tmp_path / "template/condor_vm_capsule"
    (folder / "template.json").write_text(json.dumps(record))
    (tmp_path / "input").write_bytes(os.urandom(size))
    ad = (
        '[ Name = "capsule" ]\n------\nClusterId = 7\nProcId = 0\nCmd = "/bin/true"\n'
        f'Iwd = "{tmp_path}"\nJobUniverse = 5\nTransferInput = "input"\n'
    )
    env = {f"_CONDOR_{name}": value for name, value in param.items()}
    env["CONDOR_CONFIG"], env["HOME"] = "ONLY_ENV", str(tmp_path)
    done = python(HOOK, input=ad, env=env)
    assert "VmCapsuleDir" in done.stdout, done.stdout
    (made,) = (tmp_path / "scratch").iterdir()
    return made, set(done.stderr.split())


def needless(modules: set[str]) -> set[str]:
    """What of other people's is imported and not `NEEDED`."""
    script = f"import sys, {NEEDED.replace(' ', ', ')}; print(*sys.modules)"
    allowed = set(python(script).stdout.split())
    return {name for name in modules - allowed if name.split(".")[0] != "vmcapsule"}


@pytest.mark.parametrize("classad", ["qemu", "vmware"])
def test_a_small_job_is_translated_without_what_it_does_not_need(
    tmp_path: Path, classad: str
) -> None:
    _, modules = translated(tmp_path, classad, size=10)
    assert "vmcapsule.packing" in modules
    assert modules & SLOW == set()
    assert needless(modules) == set()


@pytest.mark.parametrize("hook", ["finalize", "cleanup"])
def test_the_other_hooks_begin_without_what_they_seldom_need(hook: str) -> None:
    script = f"import sys, vmcapsule.hook_commands, vmcapsule.{hook}; print(*sys.modules)"
    modules = set(python(script).stdout.split())
    assert f"vmcapsule.{hook}" in modules
    assert needless(modules) == set()


@pytest.mark.parametrize("classad", ["qemu", "vmware"])
@pytest.mark.parametrize("size", [10, 20 * MIB])
def test_a_capsule_is_as_large_as_the_jobs_inputs(
    tmp_path: Path, classad: str, size: int
) -> None:
    folder, _ = translated(tmp_path, classad, size=size)
    status = [path.stat() for path in (folder, *folder.iterdir())]
    assert sum(each.st_blocks * 512 for each in status) <= size + 2 * MIB
    # Neither may the bytes that are transferred, holes and all, be more.
    assert sum(each.st_size for each in status) <= size + 2 * MIB
    assert capsule.load(folder).system_disk.parent.name == "condor_vm_capsule"
