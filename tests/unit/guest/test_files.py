"""What a starter gives a job, as the host prepares it for the guest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmcapsule import contract
from vmcapsule.classad.ads import parse_ad
from vmcapsule.guest import files as guest_files
from vmcapsule.job.source import SourceJob, read_job


def job(*lines: str) -> SourceJob:
    return read_job(parse_ad("\n".join(['Cmd = "/x"', 'Iwd = "/"', "RequestCpus = 3", *lines])))


def test_slot_ad_is_a_claimed_dynamic_slots() -> None:
    ad = parse_ad(guest_files.machine_ad(job("RequestMemory = 200", "RequestDisk = 5000")))
    assert (ad.integer("Cpus"), ad.integer("Memory"), ad.integer("Disk")) == (3, 200, 5000)
    assert (ad.string("Name"), ad.expr("DynamicSlot")) == ("slot1_1@capsule", "true")
    assert (ad.string("Arch"), ad.string("OpSys")) == ("X86_64", "LINUX")


def test_environment_has_what_a_starter_adds() -> None:
    given = "Environment = \"MKL_NUM_THREADS=9 TMPDIR=/elsewhere OMP_NUM_THREADS= MINE='a b'\""
    found = guest_files.direct_environment(job(given))
    mark = contract.SCRATCH_DIR_MARK
    expected = {
        "_CONDOR_SLOT": "slot1_1",
        "BATCH_SYSTEM": "HTCondor",
        "_CONDOR_JOB_AD": f"{mark}/.job.ad",
        "_CONDOR_SCRATCH_DIR": mark,
        "TMPDIR": "/tmp",
        "JULIA_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "9",
        "MINE": "a b",
    }
    assert {name: found[name] for name in expected} == expected
    assert not {"PATH", "HOME"} & set(found)
    # After one that the job has set HTCondor sets no more.
    assert found["OMP_NUM_THREADS"] == ""
    assert "TF_NUM_THREADS" not in found


def test_numbers_of_threads_are_set_where_the_job_sets_none() -> None:
    given = guest_files.thread_variables(job('Environment = "CUBACORES= MINE=1"'))
    assert (given["CUBACORES"], given["TF_NUM_THREADS"], len(given)) == ("3", "3", 12)


def test_the_time_zone_is_this_machines(tmp_path: Path) -> None:
    zones = tmp_path / "usr" / "share" / "zoneinfo" / "Europe"
    zones.mkdir(parents=True)
    (zones / "Berlin").write_bytes(b"TZif2 and so on")
    assert (guest_files.localtime(tmp_path), guest_files.time_zone(tmp_path)) == (None, None)
    (tmp_path / "localtime").symlink_to(zones / "Berlin")
    assert guest_files.localtime(tmp_path) == b"TZif2 and so on"
    assert guest_files.time_zone(tmp_path) == "Europe/Berlin"


@pytest.mark.parametrize("data", [b"", b"not a zone", b"TZif" + bytes(1 << 16)])
def test_what_is_no_time_zone_is_left_behind(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "localtime").write_bytes(data)
    assert guest_files.localtime(tmp_path) is None


@pytest.mark.parametrize("target", ["/etc/zone", "/usr/share/zoneinfo/a b", "/zoneinfo/../x"])
def test_what_names_no_time_zone_has_no_name(tmp_path: Path, target: str) -> None:
    (tmp_path / "localtime").symlink_to(target)
    assert guest_files.time_zone(tmp_path) is None


@pytest.mark.parametrize(("version", "interval"), [("23.9.6", 1000000), ("25.14.1", 1)])
def test_configuration_lacks_only_what_the_guest_puts_before_it(
    version: str, interval: int
) -> None:
    text = guest_files.condor_config(job(), version)
    defined = set(re.findall(r"^(\w+) *=", text, re.MULTILINE))
    used = set(re.findall(r"\$\((\w+)\)", text))
    assert used - defined == {"VMCAPSULE_WORK", "VMCAPSULE_USER"}
    assert f"VMCAPSULE_HOME = /condor-{version}\n" in text
    assert f"VMCAPSULE_UPDATE_INTERVAL_S = {interval}\n" in text
    assert "OMP_NUM_THREADS=3" in text
