"""What a starter gives a job, as the host prepares it for the guest."""

from __future__ import annotations

import re

import pytest

from vmcapsule import contract, guest_files
from vmcapsule.ads import parse_ad
from vmcapsule.job import SourceJob, read_job

pytest.importorskip("classad2")


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
        "TMPDIR": mark,
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "9",
        "MINE": "a b",
    }
    assert {name: found[name] for name in expected} == expected
    assert not {"PATH", "HOME"} & set(found)


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
