"""What the process of a machine leaves for HTCondor's file transfer to find, or to fail on."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.returned import make_capsule, make_job
from tests.unit.starter import Starter
from vmcapsule.capsule import delivery
from vmcapsule.capsule.record import RETURNED, WANTED, Capsule
from vmcapsule.errors import DiskError, ExecFailed, VmCapsuleError
from vmcapsule.guest.exit_record import JobExit
from vmcapsule.slot.gahp import run
from vmcapsule.slot.starter import Slot
from vmcapsule.transfer.entries import FILE, FOLDER


@pytest.fixture
def made(tmp_path: Path) -> Capsule:
    """A capsule whose job was to leave three outputs; its disk lies where it was booted."""
    made = make_capsule(tmp_path / "scratch", make_job(tmp_path), {})
    return made._replace(wanted_outputs="there,below/there,gone")


def ended(made: Capsule, **changes: object) -> JobExit:
    return delivery.exit_of(made)._replace(**changes)


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def test_the_disk_goes_back_with_a_file_for_each_output_that_is_there(
    made: Capsule,
) -> None:
    run.hand_back(made, ended(made, missing_outputs=("gone",)), {"below": FOLDER})
    assert left(made.folder / RETURNED) == ["data-flat.vmdk", "data.vmdk"]
    assert left(made.folder / WANTED) == ["below/there", "there"]


def test_an_output_that_is_a_folder_goes_back_as_one(made: Capsule) -> None:
    run.hand_back(made, ended(made), {"there": FOLDER, "not-wanted": FOLDER})
    wanted = made.folder / WANTED
    assert (wanted / "there").is_dir() and (wanted / "gone").is_file()
    assert not (wanted / "not-wanted").exists()


def test_of_many_missing_outputs_only_those_that_came_are_vouched_for(made: Capsule) -> None:
    """The guest names the first few; HTCondor tells of the first that it does not find."""
    long = "x" * 300
    made = made._replace(wanted_outputs=f"socket,there,gone,gone2,{long},below/there")
    came = {"there": FILE, "below": FOLDER, "below/there": FILE}
    run.hand_back(made, ended(made, missing_outputs=("gone",), missing_count=3), came)
    assert left(made.folder / WANTED) == ["below/there", "socket", "there"]


def test_what_cannot_be_sent_has_a_like_that_cannot_either(made: Capsule) -> None:
    unsent = (("d/se cret", errno.EACCES), ("other", errno.EISDIR))
    run.hand_back(made, ended(made, unsent_outputs=unsent))
    (like,) = (made.folder / RETURNED / "unsent").iterdir()
    assert like.name == "se_cret"
    assert stat.S_IMODE(like.stat().st_mode) == 0


def test_a_link_to_a_folder_has_a_link_to_a_folder(made: Capsule) -> None:
    run.hand_back(made, ended(made, unsent_outputs=(("d/link", errno.EISDIR),)))
    link = made.folder / RETURNED / "unsent/link"
    assert link.is_symlink() and link.is_dir()


@given(st.one_of(st.text(), st.sampled_from(["", ".", "..", "a/..", "x" * 500, "a/b/"])))
def test_a_name_from_the_guest_is_one_that_a_folder_can_have(path: str) -> None:
    name = run.plain(path)
    assert name not in ("", ".", "..") and "/" not in name and "\0" not in name
    assert len(os.fsencode(name)) <= 255


def told(error: VmCapsuleError, folder: Path) -> dict[str, object]:
    """What the job's ad gets of a run that ended in ``error``."""
    starter = Starter()
    here = Slot(None, "ep1", 1, 4, chirp=starter.write_contact(folder))
    run.tell(error, error.message, here)
    starter.close()
    return starter.attributes


def test_a_program_that_does_not_start_asks_for_htcondors_own_hold(tmp_path: Path) -> None:
    attributes = told(ExecFailed("no program", "", errno.ENOEXEC), tmp_path)
    # CONDOR_HOLD_CODE FailedToCreateProcess.
    assert attributes["ChirpVmCapsuleHoldReasonCode"] == 6
    assert attributes["ChirpVmCapsuleHoldReasonSubCode"] == 8
    assert attributes["ChirpVmCapsuleHoldReason"] == "vmcapsule: ep1: no program"
    assert list(attributes)[-1] == "ChirpVmCapsuleRun", "it says that the others are there"


def test_a_run_that_can_be_repeated_asks_for_no_hold(tmp_path: Path) -> None:
    attributes = told(DiskError("torn"), tmp_path)
    assert (attributes["ChirpVmCapsuleUnreported"], attributes["ChirpVmCapsuleRun"]) == (2, 5)
    assert not [name for name in attributes if "Hold" in name]
