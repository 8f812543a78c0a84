"""The guest's script is written in parts and shipped as one file that does the same."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.guest_place import PARTS, SCRIPT
from vmcapsule import contract
from vmcapsule.errors import ConfigError
from vmcapsule.guest.script import joined

WRITTEN = [PARTS / contract.INIT_SCRIPT, *sorted((PARTS / "init").glob("*.py"))]


def write(folder: Path, **texts: str) -> Path:
    """A script, and beside it its parts by name."""
    (folder / "init").mkdir()
    for name, text in texts.items():
        (folder / "init" / f"{name}.py").write_text(text)
    script = folder / "script.py"
    (folder / "init" / "script.py").rename(script)
    return script


def output(script: Path) -> str:
    argv = [sys.executable, str(script), "a"]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def test_each_part_comes_once_after_what_it_needs(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        script='#!/bin/x\n"""Doc."""\n\nimport sys\n\nfrom init.b import f\n'
        "from init.a import A\nprint(__doc__, f(), A, sys.argv[1])\n",
        b="from init.a import (\n    A,\n    B,\n)\n\n\ndef f():\n    return A, B\n",
        a="print(1)\nA = 2\nMYPY = False\nif MYPY:\n    from init.b import f\nB = 3\n",
    )
    one = tmp_path / "one.py"
    one.write_bytes(joined(script))
    text = one.read_text()
    assert text.startswith('#!/bin/x\n"""Doc."""\n')
    titles = [line.split()[2] for line in text.splitlines() if line.startswith("# ---")]
    assert titles == ["init/a.py", "init/b.py", "script.py"]
    assert output(one) == output(script) == "1\nDoc. (2, 3) 2 a\n"


def test_a_script_of_one_file_is_shipped_as_it_is(tmp_path: Path) -> None:
    script = tmp_path / "one.py"
    script.write_bytes(b"import os\n# from init.x import y\n\xff")
    assert joined(script) == script.read_bytes()


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    script = write(tmp_path, script="import os\nfrom init.gone import x\n")
    with pytest.raises(ConfigError, match=r"INIT_SCRIPT_PATH: .*/init/gone\.py.*No such file"):
        joined(script)


def test_the_parts_work_without_being_joined() -> None:
    usage = "usage: condor-init.py [--data DIR]"
    for script in (WRITTEN[0], SCRIPT):
        argv = [sys.executable, str(script), "--help"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert usage in done.stderr


def test_every_part_is_shipped() -> None:
    shipped = SCRIPT.read_text()
    assert "\nfrom init." not in shipped
    for path in WRITTEN[1:]:
        assert path.name == "__init__.py" or f"--- init/{path.name} -" in shipped


def test_parts_are_small() -> None:
    assert {path.name for path in WRITTEN if path.read_text().count("\n") > 300} == set()


def test_names_mean_the_same_in_the_whole_file() -> None:
    """All parts share one set of names, and are imported in the one way that is replaced."""
    owners: dict[str, str] = {"MYPY": ""}
    for path in WRITTEN:
        for node in ast.parse(path.read_text()).body:
            for name in bound(node):
                assert owners.setdefault(name, path.name) in ("", path.name), name
            assert not isinstance(node, ast.Import) or all(a.asname is None for a in node.names)
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").startswith("init.")
                assert all(alias.asname is None for alias in node.names)
                assert node.col_offset == 0
    assert {"Log", "Packer", "OUTPUT_PACK", "main"} <= set(owners)


def bound(node: ast.stmt) -> list[str]:
    """The names that a statement at the margin gives a meaning to, imports aside."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        names = (n for target in node.targets for n in ast.walk(target))
        return [n.id for n in names if isinstance(n, ast.Name) and n.id != "MYPY"]
    return []
