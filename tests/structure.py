"""The packages, from the ground up: their floors, how large they are, what they import.

``./dev structure`` prints this table and puts it into docs/design.md; the tests hold the
code to the floors.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Iterator, NamedTuple

HOME = Path(__file__).resolve().parents[1]
PACKAGE = HOME / "vmcapsule"
PAGE = HOME / "docs" / "design.md"
#: Between these lines the page has the table.
BEGIN, END = "<!-- ./dev structure -->\n", "<!-- end -->\n"

#: The top of the package is the ground floor, by module.
GROUND = {
    *("__init__", "named", "errors", "atomic", "contract", "process", "resources", "params"),
    "config",
    "files",
}
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


class Package(NamedTuple):
    """One row of the table."""

    name: str
    floor: int
    lines: int
    imports: tuple[str, ...]
    #: The first line of its docstring.
    purpose: str


def modules() -> list[Path]:
    """Every module of the package."""
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


def packages() -> list[Package]:
    """The packages, the lowest first."""
    names = [name for name in FLOOR_OF if (PACKAGE / name).is_dir()]
    return [_package(name) for name in sorted(names, key=lambda name: (FLOOR_OF[name], name))]


def _package(name: str) -> Package:
    texts = [path.read_text() for path in sorted((PACKAGE / name).rglob("*.py"))]
    needed = {other.split(".")[0] for text in texts for other in imported(ast.parse(text))}
    purpose = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text())) or ""
    return Package(
        name=name,
        floor=FLOOR_OF[name],
        lines=sum(text.count("\n") for text in texts),
        imports=tuple(
            sorted(other for other in needed if (PACKAGE / other).is_dir() and other != name)
        ),
        purpose=purpose.split("\n\n")[0].replace("\n", " "),
    )


def table() -> str:
    """The packages as a table of Markdown; all of them may import the ground floor."""
    rows = ["| floor | package | lines | imports | what it is for |", "|---|---|---|---|---|"]
    for each in packages():
        needs = ", ".join(each.imports) or "-"
        rows.append(
            f"| {each.floor} | `{each.name}/` | {each.lines} | {needs} | {each.purpose} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    """Print the table and put it into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.split(END)[1], encoding="utf-8")
    print(table(), end="")


if __name__ == "__main__":
    main()
