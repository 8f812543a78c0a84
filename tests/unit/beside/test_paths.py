"""Modules that are named in the tree are there: they move, and words about them stay behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
NAMING = [
    *(CHECKOUT / name for name in ("README.md", "tox.ini", "dev", "pyproject.toml")),
    *sorted((CHECKOUT / "docs").glob("*.md")),
    *sorted(path for path in (CHECKOUT / "tests" / "fixtures").rglob("*") if path.is_file()),
]
#: From the checkout, or from the package.
MODULE = re.compile(r"(?<![\w/.-])\w[\w-]*(?:/[\w.-]+)*/[\w-]+\.py\b")


@pytest.mark.parametrize("naming", NAMING, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_the_modules_that_it_names_are_there(naming: Path) -> None:
    named = MODULE.findall(naming.read_text(errors="replace"))
    homes = (CHECKOUT, CHECKOUT / "vmcapsule")
    assert [path for path in named if not any((home / path).exists() for home in homes)] == []
