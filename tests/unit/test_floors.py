"""Packages import only from lower floors, so that each can be used without what is above."""

from __future__ import annotations

import ast
import re

from tests.structure import (
    BEGIN,
    END,
    FLOOR_OF,
    GROUND,
    PACKAGE,
    PAGE,
    dotted,
    imported,
    modules,
    packages,
    table,
)


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


def test_an_installation_has_all_packages() -> None:
    text = (PACKAGE.parent / "pyproject.toml").read_text()
    listed = re.search(r"^packages = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    assert listed
    found = PACKAGE.rglob("__init__.py")
    there = {".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in found}
    assert set(re.findall(r'"([\w.]+)"', listed[1])) == there


def test_the_page_of_the_design_shows_the_packages_as_they_are() -> None:
    """But for how many lines they have by now: './dev structure' writes the page."""

    def without_lines(text: str) -> list[list[str]]:
        rows = [row.split("|") for row in text.splitlines()]
        return [row[:3] + row[4:] for row in rows]

    shown = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    assert without_lines(shown) == without_lines(table()), "'./dev structure' writes it anew"
    lines = {
        row.split("|")[2].strip(" `/"): row.split("|")[3] for row in shown.splitlines()[2:]
    }
    for package in packages():
        assert 0.7 < int(lines[package.name]) / package.lines < 1.4, package.name
