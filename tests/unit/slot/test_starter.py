"""What a starter says of slot and job; malformed ads say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmcapsule.slot.starter import Slot, read_slot

MACHINE = 'Machine = "ep1.example.org"\nName = "slot1@ep1"\nVMCapsuleKVM = true\n'
JOB = "NumJobCompletions = 2\nNumJobStarts = 3\nChirpVmCapsuleUnreported = 1\n"


def slot(folder: Path, machine: str = MACHINE, job: str = JOB) -> Slot:
    (folder / ".machine.ad").write_text(machine, errors="surrogatepass")
    (folder / ".job.ad").write_text(job, errors="surrogatepass")
    return read_slot(folder, {})


def test_the_starters_files_are_read(tmp_path: Path) -> None:
    found = slot(tmp_path)
    assert found == Slot(True, "ep1.example.org", 1, 2, 3, tmp_path / ".chirp.config")


def test_the_environment_says_where_they_are(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    slot(elsewhere)
    environment = {
        "_CONDOR_MACHINE_AD": str(elsewhere / ".machine.ad"),
        "_CONDOR_JOB_AD": str(elsewhere / ".job.ad"),
        "_CONDOR_CHIRP_CONFIG": "/chirp/config",
    }
    found = read_slot(tmp_path, environment)
    assert found == Slot(True, "ep1.example.org", 1, 2, 3, Path("/chirp/config"))


def test_outside_of_a_slot_nothing_is_known(tmp_path: Path) -> None:
    found = read_slot(tmp_path, {"_CONDOR_JOB_AD": "/dev/null\0"})
    assert found == Slot(chirp=tmp_path / ".chirp.config")


@pytest.mark.parametrize(
    ("text", "kvm"),
    [
        ("vmcapsulekvm=TRUE", True),
        ("VMCapsuleKVM = false\r", False),
        ("VMCapsuleKVM = undefined", None),
        ('VMCapsuleKVM = "true"', None),
        ("VMCapsuleKVM = true || error", None),
        ("VMCapsuleKVM = truer", None),
        ("OtherVMCapsuleKVM = true", None),
        ("VMCapsuleKVM", None),
        ("VMCapsuleKVM = true\n" + "x" * (5 << 20), None),
    ],
)
def test_only_a_plain_answer_is_believed(tmp_path: Path, text: str, kvm: object) -> None:
    assert slot(tmp_path, text).kvm is kvm


@pytest.mark.parametrize("number", ["-1", "1.5", "9999999", "٣", '"3"', "1 + 1", ""])
def test_a_count_that_is_none_is_0(tmp_path: Path, number: str) -> None:
    assert slot(tmp_path, job=f"ChirpVmCapsuleUnreported = {number}").unreported == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.text())
def test_no_ad_breaks_it(tmp_path: Path, machine: str, job: str) -> None:
    found = slot(
        tmp_path, f"{machine}\nMachine = {job}", f"{job}\nNumJobCompletions ={machine}"
    )
    assert found.completions >= 0 and len(found.machine or "") < 256


def test_a_line_of_blanks_takes_no_time(tmp_path: Path) -> None:
    assert slot(tmp_path, "VMCapsuleKVM = " + " " * (3 << 20) + "x").kvm is None
