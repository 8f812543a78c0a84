"""What a small job's translation costs, counted in modules, programs and bytes: no clock."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.unit.disk_volumes import Kind, complaints, format_volume, mtools_tree, put
from tests.unit.returned import small_template
from vmcapsule.capsule.record import load_capsule
from vmcapsule.config import load_config
from vmcapsule.disk.mbr import Partition, mbr
from vmcapsule.disk.vmdk.vmdk import create_vmdk, mapped, read_vmdk
from vmcapsule.router.routes import MODULES
from vmcapsule.template.tarball import described, tarball_of

HOME = Path(__file__).resolve().parents[3]
MIB = 1 << 20
STALE = Kind(32, 95 * MIB, 2, MIB)
#: All of the standard library and of HTCondor that a small job needs; what these import
#: themselves is theirs.  Others take a millisecond or more each, as dataclasses six.
NEEDED = (
    "__future__ array bisect classad2 contextlib fcntl functools gc importlib json math mmap "
    "os pathlib re signal stat struct sys time typing zlib"
)
#: Of our own, what no small job needs.
SLOW = {
    *(
        "vmcapsule.vm.accelerator",
        "vmcapsule.vm.boot",
        "vmcapsule.guest.extract",
        "vmcapsule.process",
        "vmcapsule.disk.ext4",
    ),
    *("vmcapsule.local.run", "vmcapsule.cli.arguments"),
}
HOOK = """
import sys
from vmcapsule.cli.cli import main
status = main(["translate"])
print(" ".join(sys.modules), file=sys.stderr)
with open("/proc/self/io") as counters:
    print("written", dict(line.split(": ") for line in counters)["wchar"], file=sys.stderr)
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


def stale_disk(folder: Path, *, growable: bool) -> None:
    """Give a template a used data disk, of which every byte was written once."""
    for path in folder.glob("data*.vmdk"):
        path.unlink()
    flat, disk = folder / "stale.raw", folder / "data.vmdk"
    flat.write_bytes(os.urandom(96 * MIB))
    with flat.open("rb+") as file:
        file.write(mbr([Partition(MIB, 95 * MIB, 0x0C)]).ljust(MIB, b"\0"))
    format_volume(flat, STALE)
    put(flat, STALE, {"tools/of the template": b"kept" * 1000})
    create_vmdk(flat, disk, "monolithicSparse" if growable else "monolithicFlat")
    flat.unlink()


def translated(
    tmp_path: Path,
    classad: str,
    *,
    size: int,
    ad: str = "",
    prepare: Callable[[Path], None] = lambda folder: None,
) -> tuple[Path, set[str]]:
    """Translate a job with an input of ``size``: its capsule, and what was imported.

    ``prepare`` is given the template's folder.
    """
    done = hook(tmp_path, classad, size=size, ad=ad, prepare=prepare)
    assert "VmCapsuleDir" in done.stdout, done.stdout
    (made,) = (tmp_path / "scratch").iterdir()
    return made, imported(done, tmp_path)


def imported(done: subprocess.CompletedProcess[str], tmp_path: Path) -> set[str]:
    """What the hook imported; how much it wrote goes into a file."""
    modules, written = done.stderr.split("\nwritten ")
    (tmp_path / "written").write_text(written)
    return set(modules.split())


def hook(
    tmp_path: Path,
    classad: str,
    *,
    size: int,
    ad: str = "",
    prepare: Callable[[Path], None] = lambda folder: None,
) -> subprocess.CompletedProcess[str]:
    param = {**small_template(tmp_path), "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": classad}
    record = {"format": 1, "condor": described(tarball_of(load_config(param)))}
    folder = tmp_path / "template/condor_vm_capsule"
    (folder / "template.json").write_text(json.dumps(record))
    prepare(folder)
    (tmp_path / "input").write_bytes(os.urandom(size))
    text = (
        '[ Name = "capsule" ]\n------\nClusterId = 7\nProcId = 0\nCmd = "/bin/true"\n'
        f'Iwd = "{tmp_path}"\nJobUniverse = 5\nTransferInput = "input"\n'
    )
    env = {f"_CONDOR_{name}": value for name, value in param.items()}
    env["CONDOR_CONFIG"], env["HOME"] = "ONLY_ENV", str(tmp_path)
    return python(HOOK, input=text + ad, env=env)


def needless(modules: set[str]) -> set[str]:
    """What of other people's is imported and not `NEEDED`."""
    script = f"import sys, {NEEDED.replace(' ', ', ')}; print(*sys.modules)"
    allowed = set(python(script).stdout.split())
    return {name for name in modules - allowed if name.split(".")[0] != "vmcapsule"}


def weigh(folder: Path, size: int) -> None:
    """Neither room nor bytes of a capsule are more than its inputs and a little."""
    status = [path.stat() for path in (folder, *folder.iterdir())]
    assert sum(each.st_blocks * 512 for each in status) <= size + 2 * MIB
    # Neither may the bytes that are transferred, holes and all, be more.
    assert sum(each.st_size for each in status) <= size + 2 * MIB
    assert load_capsule(folder).system_disk.parent.name == "condor_vm_capsule"


@pytest.mark.parametrize("classad", ["kvm-gahp", "vmware"])
def test_a_small_job_is_translated_without_what_it_does_not_need(
    tmp_path: Path, classad: str
) -> None:
    _, modules = translated(tmp_path, classad, size=10)
    assert "vmcapsule.capsule.packing" in modules
    assert modules & SLOW == set()
    assert needless(modules) == set()
    assert ("vmcapsule.template.vmx" in modules) is (classad == "vmware")
    routes = {f"vmcapsule.router.{name}" for name in MODULES.values()}
    assert modules & routes == {f"vmcapsule.router.{classad.replace('-', '_')}"}


def test_a_job_that_is_packed_in_its_slot_costs_its_ad_alone(tmp_path: Path) -> None:
    done = hook(tmp_path, "slot", size=20 * MIB)
    assert "VmCapsuleInSlot = true" in done.stdout
    modules = imported(done, tmp_path)
    packers = {"capsule", "guest", "transfer", "vm"}
    assert {name for name in modules if packers & set(name.split(".")[1:2])} == set()
    # By which it tells which template it is.
    allowed = set(python("import sys, hashlib; print(*sys.modules)").stdout.split())
    assert needless(modules) - allowed == set()
    assert int((tmp_path / "written").read_text()) < 100_000
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("name", ["finalize", "cleanup"])
def test_the_other_hooks_begin_without_what_they_seldom_need(name: str) -> None:
    script = (
        f"import sys, vmcapsule.cli.hook_commands, vmcapsule.router.{name}; print(*sys.modules)"
    )
    modules = set(python(script).stdout.split())
    assert f"vmcapsule.router.{name}" in modules
    assert needless(modules) == set()


@pytest.mark.parametrize("classad", ["kvm-gahp", "vmware"])
@pytest.mark.parametrize("size", [10, 20 * MIB])
def test_a_capsule_is_as_large_as_the_jobs_inputs(
    tmp_path: Path, classad: str, size: int
) -> None:
    folder, _ = translated(tmp_path, classad, size=size)
    weigh(folder, size)


@pytest.mark.parametrize("classad", ["kvm-gahp", "vmware", "kvm"])
def test_the_inputs_are_written_once(tmp_path: Path, classad: str) -> None:
    """Also what the kernel copies from file to file counts."""
    translated(tmp_path, classad, size=20 * MIB)
    assert 20 * MIB < int((tmp_path / "written").read_text()) < 22 * MIB


@pytest.mark.parametrize("classad", ["kvm-gahp", "vmware"])
@pytest.mark.parametrize("size", [10, 20 * MIB])
@pytest.mark.parametrize("growable", [False, True])
def test_nor_does_it_cost_what_the_templates_disk_takes(
    tmp_path: Path, classad: str, size: int, growable: bool
) -> None:
    """Also then no program is started, and what the template's disk holds is there."""
    prepare = partial(stale_disk, growable=growable)
    # As much disk as the template has, so that it is taken.
    ad = "RequestDisk = 1024\n"
    folder, modules = translated(tmp_path, classad, size=size, ad=ad, prepare=prepare)
    assert (modules & SLOW) | needless(modules) == set()
    weigh(folder, size)
    disk = read_vmdk(tmp_path / "template/condor_vm_capsule/data.vmdk")
    assert sum(file.stat().st_blocks * 512 for file in disk.files) > 90 * MIB
    made = read_vmdk(folder / "data.vmdk")
    assert (made.form, made.capacity_bytes) == ("monolithicSparse", 96 * MIB)
    with mapped(made, tmp_path) as there:
        raw = tmp_path / "raw"
        raw.write_bytes(there.read_at(0, 96 * MIB))
    assert complaints(raw, STALE, tmp_path) == ""
    files = mtools_tree(raw, STALE, tmp_path / "out")
    assert files["tools/of the template"] == b"kept" * 1000
    assert "condor-init.py" in files
    carried = (tmp_path / "input").read_bytes()
    assert carried in files["vmcapsule/input.000"]
