"""The one file that is shipped: whole, runnable, and no module short."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.structure import imported
from vmcapsule.slot.program import write_program


@pytest.fixture(params=["with a kernel", "without"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bytes(100_000) + b"kernel")
    return write_program(
        tmp_path / "program.pyz", kernel if request.param == "with a kernel" else None
    )


def test_other_programs_read_the_archive(program: Path) -> None:
    with zipfile.ZipFile(program) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        held = {name: archive.read(name) for name in names}
    assert len(names) == len(set(names))
    package = Path(__file__).resolve().parents[3] / "vmcapsule"
    for name in ("vmcapsule/slot/gahp/run.py", "vmcapsule/disk/fat/volume.py"):
        assert held[name] == (package.parent / name).read_bytes()
    assert held["__main__.py"] == (package / "slot" / "entry.py").read_bytes()


def test_nothing_that_it_imports_is_missing(program: Path) -> None:
    with zipfile.ZipFile(program) as archive:
        texts = {name: archive.read(name) for name in archive.namelist() if "/" in name}
    texts = {name: text for name, text in texts.items() if name.endswith(".py")}
    held = {name.removesuffix(".py").removesuffix("/__init__") for name in texts}
    for name, text in texts.items():
        for other in imported(ast.parse(text)):
            path = "vmcapsule/" + other.replace(".", "/")
            # Either the module, or something out of it.
            assert path in held or path.rpartition("/")[0] in held - {"vmcapsule"}, (
                name,
                other,
            )


def test_python_runs_it_and_nothing_else_is_needed(program: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", program, "probe"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("HasVMCapsule = ")


def test_nothing_of_the_users_home_or_environment_runs_in_it(
    program: Path, tmp_path: Path
) -> None:
    """HTCondor starts it as root with the HOME of a job's owner."""
    env = {"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    ask = ["python3", "-c", "import site; print(site.getusersitepackages())"]
    packages = subprocess.run(ask, env=env, capture_output=True, text=True, check=True).stdout
    ran = tmp_path / "ran"
    folder = Path(packages.strip())
    folder.mkdir(parents=True)
    (folder / "hostile.pth").write_text(f"import os; open({str(ran)!r}, 'w')\n")
    env["PYTHONPATH"] = str(tmp_path / "modules")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/json.py").write_text(f"open({str(ran)!r}, 'w')\n")
    subprocess.run(["python3", "-c", "import json"], env=env, check=True)
    assert ran.exists(), "a Python that is not isolated"
    ran.unlink()
    done = subprocess.run(
        [program, "probe"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("HasVMCapsule = "), done.stderr
    assert not ran.exists()


def test_who_calls_it_by_hand_is_told_what_it_is_for(program: Path, tmp_path: Path) -> None:
    for arguments in ([], ["--help"]):
        done = subprocess.run(
            [program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (64, "")
        assert "vmcapsule config --execute" in done.stderr and done.stderr.count("\n") == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["kernel", "program.pyz"]


@pytest.mark.parametrize("how", ["packed", "routed"])
def test_an_argument_of_a_jobs_is_no_call_of_the_vm_gahp(
    program: Path, tmp_path: Path, how: str
) -> None:
    done = subprocess.run(
        [program, how, "--no-such-option", "--", "./job", "-M", "0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--no-such-option" in (tmp_path / ".job_wrapper_failure").read_text()


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = (write_program(tmp_path / name).read_bytes() for name in "ab")
    assert one == other
