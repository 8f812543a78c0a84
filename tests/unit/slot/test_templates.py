"""What a startd is told of the templates that its machine has: run as it runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PosixPath
from typing import Mapping

import classad2
import pytest

from tests.unit.returned import small_template
from vmcapsule.slot.program import write_program
from vmcapsule.slot.templates import look
from vmcapsule.template.likeness import likeness
from vmcapsule.template.publish import add
from vmcapsule.template.template import load


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return Path(small_template(tmp_path)["VM_CAPSULE_TEMPLATE"])


def said(tmp_path: Path, *arguments: object) -> list[Mapping[str, object]]:
    """The ads that a startd gets, one after the other."""
    program = tmp_path / "program.pyz"
    write_program(program)
    done = subprocess.run(
        [sys.executable, "-I", program, "templates", *map(str, arguments)],
        env={"PATH": "/usr/bin:/bin"}, cwd="/", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    *texts, rest = done.stdout.split("- update:true\n")
    assert rest == ""
    return [read(text) for text in texts]


def read(text: str) -> Mapping[str, object]:
    ad = classad2.parseOne(text, classad2.ParserType.Old)
    values = {name: ad.eval(name) for name in ad}
    assert set(values) == {
        "VMCapsuleTemplates",
        "VMCapsuleTemplatePaths",
        "VMCapsuleTemplateReason",
    }
    return {n: None if v is classad2.Value.Undefined else v for n, v in values.items()}


def test_it_says_which_templates_are_there_and_what_is_wrong_with_others(
    tmp_path: Path, good: Path
) -> None:
    (tmp_path / "bad" / "condor_vm_capsule").mkdir(parents=True)
    (ad,) = said(tmp_path, good, good, tmp_path / "bad", tmp_path / "nowhere")
    assert ad["VMCapsuleTemplates"] == likeness(load(good))
    assert ad["VMCapsuleTemplatePaths"] == str(good)
    assert "no .vmx file" in str(ad["VMCapsuleTemplateReason"])
    assert "nowhere" not in str(ad["VMCapsuleTemplateReason"])


def test_without_any_it_says_so(tmp_path: Path) -> None:
    (ad,) = said(tmp_path, tmp_path / "nowhere")
    assert ad == {
        "VMCapsuleTemplates": "",
        "VMCapsuleTemplatePaths": "",
        "VMCapsuleTemplateReason": None,
    }


def test_a_folder_whose_name_no_list_can_hold_is_not_told(tmp_path: Path, good: Path) -> None:
    (ad,) = said(tmp_path, good.rename(tmp_path / "a,b"))
    assert ad["VMCapsuleTemplatePaths"] is None


def test_what_is_here_is_told_before_more_is_fetched(tmp_path: Path, good: Path) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    like = add(load(good), store, lambda _: None).likeness
    fetching = ("--from", store, "--into", cache, "--at-most-gib", 1)
    *before, after = said(tmp_path, *fetching)
    assert [ad["VMCapsuleTemplates"] for ad in before] == ["", ""]
    assert after["VMCapsuleTemplates"] == like
    assert after["VMCapsuleTemplatePaths"] == str(cache / like)
    assert said(tmp_path, *fetching) == [after, after]
    # The administrator's own goes first, and is not told twice.
    *_, both = said(tmp_path, *fetching, good)
    assert both["VMCapsuleTemplatePaths"] == str(good)


def test_what_goes_for_another_is_not_told_while_that_is_fetched(
    tmp_path: Path, good: Path
) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    old = add(load(good), store, lambda _: None).likeness
    said(tmp_path, "--from", store, "--into", cache)
    (good / "condor_vm_capsule" / "template.json").write_text('{"format": 1}')
    add(load(good), store, lambda _: None, only=True)
    ads = said(tmp_path, "--from", store, "--into", cache, "--at-most-gib", 0)
    # There is no room for the new one either.
    assert [ad["VMCapsuleTemplates"] for ad in ads] == [old, ""]


def test_a_store_that_is_gone_takes_nothing_away(tmp_path: Path, good: Path) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    like = add(load(good), store, lambda _: None).likeness
    said(tmp_path, "--from", store, "--into", cache)
    *_, ad = said(tmp_path, "--from", tmp_path / "nowhere", "--into", cache)
    assert ad["VMCapsuleTemplates"] == like
    assert "nowhere/templates.json': No such file" in str(ad["VMCapsuleTemplateReason"])


def test_a_copy_that_is_not_what_it_says_is_not_told(tmp_path: Path, good: Path) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    like = add(load(good), store, lambda _: None).likeness
    said(tmp_path, "--from", store, "--into", cache)
    (cache / like).rename(cache / ("ab" * 16))
    (ad,) = said(tmp_path, "--into", cache)
    assert ad["VMCapsuleTemplates"] == ""


def test_a_folder_that_is_closed_to_it_takes_nothing_away(tmp_path: Path, good: Path) -> None:
    """The default of root's template is in a home folder that is closed to all others."""
    cache = tmp_path / "cache"
    cache.write_text("a file")
    odd = good / "condor_vm_capsule" / "template.json" / "below"
    (good / "condor_vm_capsule" / "template.json").write_text('{"format": 1}')
    found = look([odd, Closed("/closed"), good], cache)
    assert [folder for _, folder in found.templates] == [good]
    assert found.wrong == ("'/closed': Permission denied",)


class Closed(PosixPath):
    """A path as the startd's user sees it, whoever runs this."""

    def is_dir(self) -> bool:
        raise PermissionError(13, "Permission denied", str(self))


def test_a_configuration_of_another_version_is_told(tmp_path: Path) -> None:
    (ad,) = said(tmp_path, "--of-another-version")
    assert "--of-another-version" in str(ad["VMCapsuleTemplateReason"])
    assert ad["VMCapsuleTemplates"] == ""
