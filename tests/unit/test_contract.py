"""The guest's script stands alone: its constants and its Python are held here."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys

import pytest

from tests.unit.guest_place import SCRIPT, load_guest
from vmcapsule import contract

SHARED = [
    name
    for name in vars(contract)
    if name.isupper() and name not in ("INIT_SCRIPT", "STDOUT", "STDERR")
]


def test_there_are_shared_constants() -> None:
    assert {"FORMAT", "JOB_RECORD", "OUTPUT_PACK", "PACK_BYTES_MAX"} <= set(SHARED)


@pytest.mark.parametrize("name", SHARED)
def test_guest_and_contract_agree(name: str) -> None:
    assert getattr(load_guest(), name) == getattr(contract, name)


def test_guest_script_has_the_contracted_name() -> None:
    assert SCRIPT.name == contract.INIT_SCRIPT


def test_guest_script_parses_as_python_3_6() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_guest_script_uses_no_newer_syntax_or_interfaces() -> None:
    # What ast's feature_version lets through, and functions that came after 3.6.
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    newer = {"copy_file_range", "posix_spawn", "pidfd_open", "memfd_create", "removeprefix"}
    newer |= {"capture_output", "fromisoformat", "unlink_missing_ok", "waitstatus_to_exitcode"}
    for node in ast.walk(tree):
        assert not isinstance(node, ast.NamedExpr)
        assert not isinstance(node, ast.Attribute) or node.attr not in newer
        assert not isinstance(node, ast.keyword) or node.arg not in newer
        if isinstance(node, ast.arguments):
            assert not node.posonlyargs


def test_guest_script_imports_the_standard_library_only() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    allowed = {
        "_socket",
        "ctypes",
        "errno",
        "fcntl",
        "json",
        "os",
        "pwd",
        "re",
        "resource",
        "select",
        "shutil",
    }
    allowed |= {"signal", "stat", "struct", "sys", "tarfile", "termios", "time", "traceback"}
    allowed |= {"typing"}
    # Parts are named for their types only, which is never run (`tests.unit.guest.test_script`).
    assert names <= allowed | {"init"}


def test_guest_script_starts_with_few_imports() -> None:
    # Each costs a tenth of a second in an emulated machine.
    code = "import sys; exec(open(sys.argv[1]).read(), {'__name__': 'guest'})\n"
    code += "print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(SCRIPT)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = set(done.stdout.split())
    assert "json" in loaded
    heavy = {"typing", "subprocess", "tarfile", "shutil", "ctypes", "traceback", "argparse"}
    heavy |= {"pathlib", "logging", "tempfile", "socket", "resource", "threading"}
    assert not loaded & heavy


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8", "3.12", "3.13", "3.14"])
def test_guest_script_runs_under_other_pythons(version: str) -> None:
    python = shutil.which(f"python{version}")
    usage = [str(python), str(SCRIPT), "--help"]
    if python is None or subprocess.run([python, "-V"], capture_output=True).returncode:
        pytest.skip(f"no python{version} on this machine")
    done = subprocess.run(usage, capture_output=True, text=True, timeout=60, check=False)
    assert "usage: condor-init.py" in done.stderr
