"""Every command and option that a message, a docstring or a page names is one that exists."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path
from typing import Iterator

import pytest

from vmcapsule.cli.arguments import parser
from vmcapsule.slot import templates
from vmcapsule.slot.packed import arguments as packed

HOME = Path(__file__).resolve().parents[3]
#: In quotes, or at the beginning of one of several lines: the words, and what follows them.
COMMAND = re.compile(
    r"(?:(?<=['`/])|(?<=\n)|(?<=\n  ))vmcapsule((?: +[a-z]+\b(?![./(=]))+)((?: +[^'`\n|>]*)?)"
)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def subcommands(of: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = {}
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(action.choices)
    return found


def options(of: argparse.ArgumentParser) -> set[str]:
    """What a command takes, or any command below it."""
    own = {option for action in of._actions for option in action.option_strings}
    return own.union(*(options(below) for below in subcommands(of).values()))


TOP = parser()
#: Of the command, and of the program that takes a job's place and that startds ask.
OTHERS = (packed.of_wrapper(), packed.of_routed_ad(), templates.parser())
OPTIONS = options(TOP).union(*map(options, OTHERS))


def texts() -> Iterator[tuple[str, str]]:
    """Where each text is, and the text: of Python files the strings that are sentences."""
    for path in (HOME / "vmcapsule").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            # What begins with an option is an argument for some program.
            if is_text and " " in node.value and not node.value.startswith("--"):
                yield f"{path.relative_to(HOME)}:{node.lineno}", node.value
    pages = [*(HOME / "docs").glob("*.md"), HOME / "README.md", HOME / "CHANGELOG.md"]
    files = [path for path in (HOME / "templates").iterdir() if path.is_file()]
    for path in [*pages, *files, *(HOME / "hooks").glob("[a-z]*")]:
        yield str(path.relative_to(HOME)), path.read_text()


def wrong(where: str, text: str) -> Iterator[str]:
    for match in COMMAND.finditer(text):
        at, words = TOP, match[1].split()
        while words and words[0] in subcommands(at):
            at = subcommands(at)[words.pop(0)]
        if at.prog == "vmcapsule" or (words and subcommands(at)):
            yield f"{where}: there is no command '{match[0].strip()}'"
        for option in OPTION.findall(match[2]):
            if option not in options(at):
                yield f"{where}: '{at.prog}' has no option {option}"
    for option in set(OPTION.findall(text)) - OPTIONS:
        yield f"{where}: there is no option {option}"


def test_what_is_named_exists() -> None:
    named = [*texts()]
    assert [line for where, text in named for line in wrong(where, text)] == []
    assert sum(len(COMMAND.findall(text)) for _, text in named) > 50


@pytest.mark.parametrize(
    "text",
    [
        "check it with --boot",
        "see 'vmcapsule template check --boot'",
        "run 'vmcapsule template'; and 'vmcapsule tamplate build'",
        "first:\n  vmcapsule template make x\n",
        "'vmcapsule run --force x'",
    ],
)
def test_what_does_not_exist_is_noticed(text: str) -> None:
    assert list(wrong("here", text))
