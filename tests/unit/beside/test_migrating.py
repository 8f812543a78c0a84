"""docs/migrating.md: each knob of the original guide, and none that is not there today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmcapsule.config import load_config

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "migrating.md").read_text()
#: As the quick-start guide of the original plugin sets them.
GUIDE = {
    "TEMPLATE": "/var/vmware-capsule",
    "SCRATCH_DIR_PREFIX": "/scratch/vmathew/jr",
    "TRANSLATE_LOG": "/var/log/condor/VmCapsuleTransLog",
    "EXIT_LOG": "/var/log/condor/VmCapsuleExitLog",
    "DISK_PART_OFFSET": "32256",
    "CONDOR_TARBALL": "/scratch/vmathew/condor-tarballs/condor.tar.gz",
    "CONDOR_TARBALL_VERSION": "7.2.0",
    "INIT_SCRIPT_PATH": "/etc/hostname",
    "DATA_DISK_MOUNT_POINT": "/condor-data",
    "CONDOR_CLASSAD_TEMPLATE": "/etc/hostname",
}
KNOB = re.compile(r"`(VM_CAPSULE_\w+)`")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def test_every_knob_of_the_guide_has_its_row() -> None:
    named = [knob for cells in rows("Knob by knob") for knob in KNOB.findall(cells[0])]
    assert named == [f"VM_CAPSULE_{name}" for name in GUIDE]
    assert [len(cells) for cells in rows("Knob by knob")] == [3] * len(GUIDE)


@pytest.mark.parametrize("knob", sorted(set(KNOB.findall(PAGE))))
def test_every_knob_that_is_named_is_one(knob: str) -> None:
    name = knob[len("VM_CAPSULE_") :]
    value = GUIDE.get(name, "/var/cache/vmcapsule")
    assert load_config({knob: value}).warnings == ()
    assert load_config({knob + "X": value}).warnings != ()


def test_the_guides_knobs_are_all_understood_together() -> None:
    config = load_config({f"VM_CAPSULE_{name}": value for name, value in GUIDE.items()})
    assert config.warnings == ()
    assert config.disk_part_offset_bytes == 32256
    assert config.condor_tarball_version == "7.2.0"


@pytest.mark.parametrize(
    ("knob", "default"),
    [
        ("TEMPLATE", "CACHE/templates"),
        ("SCRATCH_DIR_PREFIX", "CACHE/scratch"),
        ("DATA_DISK_MOUNT_POINT", "/condor-data"),
    ],
)
def test_the_defaults_are_as_the_page_says(knob: str, default: str) -> None:
    (said,) = [cells[1] for cells in rows("Knob by knob") if f"`VM_CAPSULE_{knob}`" in cells[0]]
    config = load_config({"VM_CAPSULE_CACHE_DIR": "/C"})
    value = str(getattr(config, knob.lower()))
    assert said == f"`{default}`" and value == default.replace("CACHE", "/C")
