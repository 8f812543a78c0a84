"""Rooms import only from lower floors, so that each can be used without what is above."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Iterator

PACKAGE = Path(__file__).resolve().parents[2] / "vmcapsule"

FLOORS = [
    {"__init__", "errors", "contract", "classad_text", "job_text", "job_attributes"},
    {"process", "resources", "chirp", "slot", "entries", "drafts"},
    {"ads", "config", "disk", "accelerator", "index"},
    {"refusals", "submit", "pack", "job_queue", "user_log", "exit_record"},
    {"job", "staging"},
    {"sandbox", "outputs", "template", "guest_ad", "guest_files", "capsule_name"},
    {"capsule", "tarball"},
    {"bundle", "extract", "routed_ad", "boot", "scratch"},
    {"delivery", "packing", "return_disk", "program", "probe", "images", "inspection"},
    {"run", "cleanup"},
    {"translate", "update", "finalize", "execute", "snippet", "sweep"},
    {"report"},
    {"arguments", "commands", "hook_commands", "entry"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "vmcapsule":
            yield from (alias.name for alias in node.names if alias.name in FLOOR_OF)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vmcapsule."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("vmcapsule."):
                    yield alias.name.split(".")[1]


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} == set(FLOOR_OF)


def test_rooms_import_only_from_lower_floors() -> None:
    upward = [
        f"{path.relative_to(PACKAGE)} (floor {FLOOR_OF[room]}) imports {other}"
        f" (floor {FLOOR_OF[other]})"
        for path in sorted(PACKAGE.rglob("*.py"))
        for room in [room_of(path)]
        for other in imported_rooms(ast.parse(path.read_text()))
        if other != room and FLOOR_OF[other] >= FLOOR_OF[room]
    ]
    assert upward == []


def test_nothing_below_the_command_line_exits() -> None:
    exits = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if room_of(path) != "__main__" and "sys.exit" in path.read_text()
    ]
    assert exits == []
