"""Packages import only from lower floors, so that each can be used without what is above."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Iterator

PACKAGE = Path(__file__).resolve().parents[2] / "vmcapsule"

#: The top of the package is the ground floor, by module.
GROUND = {"__init__", "errors", "contract", "process", "resources", "config"}
FLOORS = [
    GROUND,
    {"classad", "disk"},
    {"job", "template", "vm"},
    {"transfer"},
    {"guest"},
    {"capsule", "images"},
    {"local", "slot"},
    {"router"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """A module's name below the package, such as ``disk.fat.volume``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(tree: ast.AST) -> Iterator[str]:
    """What a module imports of ours, by `dotted` name; what it takes of it may follow."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (n[len("vmcapsule.") :] for n in names if n.startswith("vmcapsule."))


def test_every_package_has_a_floor_and_says_what_it_is_for() -> None:
    assert {dotted(path).split(".")[0] for path in modules()} == set(FLOOR_OF)
    for path in PACKAGE.rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert text, f"{path} has no docstring"
        assert path.parent == PACKAGE or "Begin with" in text, path


def test_packages_import_only_from_lower_floors() -> None:
    upward = [
        f"{dotted(path)} (floor {FLOOR_OF[room]}) imports {other} (floor {FLOOR_OF[package]})"
        for path in modules()
        for room in [dotted(path).split(".")[0]]
        for other in imported(ast.parse(path.read_text()))
        for package in [other.split(".")[0]]
        if package in FLOOR_OF
        and package != room
        and FLOOR_OF[package] >= FLOOR_OF[room]
        and not {room, package} <= GROUND
    ]
    assert upward == []


def test_no_two_modules_import_each_other() -> None:
    """Also within a package: what a module needs is whole before it begins."""
    names = {dotted(path).removesuffix(".__init__") for path in modules()}
    needs: dict[str, set[str]] = {}
    for path in modules():
        found = imported(ast.parse(path.read_text()))
        needs[dotted(path)] = {
            name for each in found for name in (each, each.rpartition(".")[0]) if name in names
        }
    rounds = []

    def follow(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            rounds.append(" -> ".join([*above[above.index(name) :], name]))
        elif name not in done:
            for other in sorted(needs.get(name, ())):
                follow(other, (*above, name))
            done.add(name)

    done: set[str] = set()
    for name in sorted(needs):
        follow(name, ())
    assert rounds == []


def test_nothing_below_the_command_line_exits() -> None:
    exits = [
        dotted(path)
        for path in modules()
        if dotted(path) != "__main__" and "sys.exit" in path.read_text()
    ]
    assert exits == []
