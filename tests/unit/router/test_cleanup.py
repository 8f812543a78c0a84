"""A capsule goes when nothing is lost with it, however often the hook runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

import pytest

from tests.unit.edits import put_files, raw_edit
from tests.unit.returned import put_into
from vmcapsule import contract
from vmcapsule.capsule.record import RETURNED, Capsule, save_capsule
from vmcapsule.capsule.states import State
from vmcapsule.classad.ads import quote
from vmcapsule.disk.empty_disk import build_data_disk
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.vmdk.vmdk import create_vmdk
from vmcapsule.errors import ToolError
from vmcapsule.router import job_queue
from vmcapsule.router.cleanup import cleanup, settle


@pytest.fixture
def made(tmp_path: Path) -> Capsule:
    """A capsule that was translated and has not run."""
    raw = tmp_path / "raw"
    build_data_disk(raw, size_bytes=16 << 20, offset_bytes=1 << 20)
    folder = tmp_path / "scratch" / "run-4.2"
    folder.mkdir(parents=True)
    create_vmdk(raw, folder / "data.vmdk", "monolithicSparse")
    made = Capsule(
        folder, folder / "data.vmdk", tmp_path / "system.vmdk", 16 << 20, 1, 64,
        job_id="4.2", global_job_id="host#4.2#1",
    )  # fmt: skip
    save_capsule(made, folder)
    return made


def come_back(made: Capsule) -> Path:
    """The guest reported, and file transfer brought its disk."""
    folder = made.folder / RETURNED
    folder.mkdir()
    (folder / "data.vmdk").write_bytes(made.data_disk.read_bytes())
    with raw_edit(folder / "data.vmdk", made.folder) as raw:
        record = json.dumps({"format": contract.FORMAT}).encode()
        put_files(FatVolume.open(raw.fd, 1 << 20), {contract.EXIT_RECORD: record})
    return folder / "data.vmdk"


def clean(made: Capsule, more: str = "") -> str:
    job_id, event = cleanup(
        f'VmCapsuleDir = {quote(str(made.folder))}\nVmCapsuleSourceJobId = "4.2"\n{more}'
    )
    assert job_id == "4.2"
    return event


def test_a_capsule_that_never_ran_goes(made: Capsule) -> None:
    assert clean(made).startswith("removed")
    assert list(made.folder.parent.iterdir()) == []


def test_a_delivered_capsule_goes_and_a_second_time_is_no_error(made: Capsule) -> None:
    come_back(made)
    put_into(made, State.DELIVERED)
    assert clean(made).startswith("removed")
    assert "gone already" in clean(made)


def test_what_was_not_delivered_stays(made: Capsule) -> None:
    come_back(made)
    assert "not delivered" in clean(made)
    assert (made.folder / RETURNED / "data.vmdk").exists()


def test_what_cannot_be_read_may_hold_outputs_and_stays(made: Capsule) -> None:
    come_back(made).write_bytes(b"damaged")
    assert "not delivered" in clean(made)
    assert made.folder.exists()


def test_a_folder_that_is_no_capsule_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    _, event = cleanup(f"VmCapsuleDir = {quote(str(tmp_path))}\n")
    assert event.startswith("kept") and (tmp_path / "precious").exists()


def test_a_routed_job_that_was_refused_has_no_capsule(tmp_path: Path) -> None:
    assert cleanup('VmCapsuleSourceJobId = "4.2"\n') == ("4.2", "there is no capsule")


@pytest.mark.parametrize(("status", "is_logged"), [(1, 1), (2, 1), (3, 1), (4, 0), (5, 0)])
def test_a_hold_by_its_user_of_a_job_packed_in_its_slot_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, is_logged: bool
) -> None:
    """Others were logged as they were made, and a job that has ended is not held."""
    hold = {"HoldReason": "via condor_hold", "HoldReasonCode": 1}
    monkeypatch.setattr(job_queue, "hold_of", {"ap#4.2#1": hold}.__getitem__)
    log = tmp_path / "log"
    text = (
        f'VmCapsuleInSlot = true\nVmCapsuleSourceJobId = "4.2"\nJobStatus = {status}\n'
        f'VmCapsuleSource_GlobalJobId = "ap#4.2#1"\nVmCapsuleUserLog = {quote(str(log))}\n'
    )
    # Its own hold was logged as it was seen.
    assert cleanup(f"{text}VmCapsuleHoldSeen = true\n") == ("4.2", "there is no capsule")
    assert not log.exists()
    assert cleanup(text) == ("4.2", "there is no capsule")
    assert log.exists() is bool(is_logged)
    assert not is_logged or "Job was held.\n\tvia condor_hold\n" in log.read_text()


@pytest.mark.parametrize("status", [1, 2, 3, 5, 6])
def test_a_run_that_did_not_end_leaves_nothing(made: Capsule, status: int) -> None:
    come_back(made)
    assert "did not end" in clean(made, f"JobStatus = {status}\n")
    assert list(made.folder.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "stays"),
    [(4, True), (None, True), (1, False), (2, False), (3, False), (5, False)],
)
def test_outputs_are_kept_for_jobs_that_have_ended(
    made: Capsule, status: Optional[int], stays: bool
) -> None:
    come_back(made)
    asked: list[str] = []

    def status_of(job: str) -> Optional[int]:
        asked.append(job)
        return status

    event = settle(made, status_of)
    assert (event.startswith("kept"), made.folder.exists()) == (stays, stays)
    assert asked == ["host#4.2#1"]


def test_where_nobody_answers_outputs_are_kept(made: Capsule) -> None:
    def status_of(job: str) -> Optional[int]:
        raise ToolError("the schedd does not answer")

    come_back(made)
    assert "the schedd does not answer" in settle(made, status_of)
    assert made.folder.exists()
