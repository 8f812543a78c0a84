"""The routed ad of a job whose machine our vm-gahp runs: what becomes of it when it ends, and
where it is tried again."""

from __future__ import annotations

import time
from typing import Any, Optional

import classad2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.router.test_routed_ad import CAPSULE, recorded, routed_ad
from vmcapsule.capsule.record import UNREPORTED_SIGNAL
from vmcapsule.classad.ads import Ad, parse_ad
from vmcapsule.resources import resource
from vmcapsule.router.route import REMOVED_WHEN_HELD
from vmcapsule.slot.packed.share import GUEST_KIB
from vmcapsule.slot.starter import AVOID_S

RETRIES = (
    "JobMaxRetries = 1\nOnExitRemove = NumJobCompletions > JobMaxRetries || ExitCode =?= 0\n"
)
SILENT = f"ExitBySignal = true\nExitSignal = {UNREPORTED_SIGNAL}\n"
MACHINE = (
    'Arch = "X86_64"; Disk = 100000000; TotalMemory = 8192; VM_Type = "kvm"; VM_AvailNum = 4;'
    'VM_Memory = 8192; HasFileTransfer = true; VMCapsuleHypervisor = "qemu 10.0";'
)


def template() -> Ad:
    return parse_ad(resource("templates/kvm-gahp.classad").read_text())


def routed(source: str = "", own: Optional[Ad] = None) -> Ad:
    return routed_ad(recorded(source), own or template(), CAPSULE)


def later(source: str, facts: str) -> Ad:
    """The routed ad as it is later, when ``facts`` are in it."""
    names = [line.split(" = ")[0] for line in facts.splitlines()]
    return parse_ad(routed(source).without(names).long_form() + facts)


def told(runs: int, completions: int) -> str:
    return (
        f"NumJobCompletions = {completions}\nChirpVmCapsuleRun = {completions}\n"
        f'ChirpVmCapsuleUnreported = {runs}\nChirpVmCapsuleReason = "ep1: it died"\n'
    )


@pytest.mark.parametrize(
    ("own", "status", "removed"),
    [
        ("JobSuccessExitCode = 3", "ExitBySignal = false\nExitCode = 3\n", True),
        ("JobSuccessExitCode = 3", "ExitBySignal = false\nExitCode = 0\n", False),
        ("jobsuccessexitcode = 3", "ExitBySignal = false\nExitCode = 3\n", True),
    ],
)
def test_the_jobs_own_idea_of_success_ends_its_retries(
    own: str, status: str, removed: bool
) -> None:
    policy = "OnExitRemove = NumJobCompletions > JobMaxRetries || ExitCode =?= "
    source = f"JobMaxRetries = 2\n{own}\n{policy}MY.JobSuccessExitCode\n"
    ended = later(source, status + "NumJobCompletions = 1\n")
    assert ended.boolean("OnExitRemove") is removed


def test_no_starter_takes_the_guests_run_for_a_failure() -> None:
    # It would bring back the job's FailureFiles then, and not the disk.
    assert "JobSuccessExitCode" not in routed("JobSuccessExitCode = 3\n")


@pytest.mark.parametrize(
    ("facts", "removed", "held"),
    [
        ("ExitBySignal = false\nExitCode = 0\nNumJobCompletions = 1\n", True, False),
        ("ExitBySignal = false\nExitCode = 3\nNumJobCompletions = 1\n", False, False),
        ("ExitBySignal = false\nExitCode = 3\nNumJobCompletions = 2\n", True, False),
        # Two runs without a report are not the user's tries.
        ("ExitBySignal = false\nExitCode = 3\n" + told(2, 2).replace("ons = 2", "ons = 3"),
         False, False),
        ("ExitBySignal = false\nExitCode = 3\n" + told(2, 2).replace("ons = 2", "ons = 4"),
         True, False),
        (SILENT + told(1, 1), False, False),
        (SILENT + told(1, 7), False, False),
        (SILENT + told(3, 4), False, True),
        # Nobody counted: chirp is switched off there.
        (SILENT + "NumJobCompletions = 2\n", False, False),
        (SILENT + "NumJobCompletions = 3\n", False, True),
        (SILENT + told(1, 1).replace("ons = 1", "ons = 3"), False, True),
    ],
)  # fmt: skip
def test_what_becomes_of_it_when_it_ends(facts: str, removed: bool, held: bool) -> None:
    ended = later(RETRIES, facts)
    assert (ended.boolean("OnExitRemove"), ended.boolean("OnExitHold")) == (removed, held)


def test_starts_are_counted_on_where_the_source_was_released() -> None:
    assert routed("NumJobStarts = 3\n").integer("NumJobStarts") == 3


def test_the_hold_says_what_happened() -> None:
    ended = later("", SILENT + told(3, 4))
    expected = "vmcapsule: the guest did not report in 3 runs; the last was on ep1: it died"
    assert ended.string("OnExitHoldReason") == expected
    assert ended.integer("OnExitHoldSubCode") == 76


def test_without_chirp_the_hold_says_less() -> None:
    ended = later("", SILENT + "NumJobCompletions = 3\n")
    expected = "vmcapsule: the guest did not report in 3 runs"
    assert ended.string("OnExitHoldReason") == expected


def test_a_reason_of_an_earlier_run_is_not_given() -> None:
    ended = later("", SILENT + told(1, 1).replace("ons = 1", "ons = 3"))
    assert "it died" not in (ended.string("OnExitHoldReason") or "")


ASKED = (
    'ChirpVmCapsuleHoldReason = "no program"\nChirpVmCapsuleHoldReasonCode = 6\n'
    "ChirpVmCapsuleHoldReasonSubCode = 8\n"
)


def test_a_job_whose_program_does_not_start_waits_for_its_hold() -> None:
    ended = later("", SILENT + told(1, 1) + ASKED)
    assert (ended.boolean("OnExitRemove"), ended.boolean("OnExitHold")) == (False, False)
    assert matches(ended, 'Machine = "ep1"') is False


@pytest.mark.parametrize(("age_s", "is_held"), [(60, False), (600, True)])
def test_without_the_hook_it_is_held_after_a_while(age_s: int, is_held: bool) -> None:
    since = f"EnteredCurrentStatus = {int(time.time()) - age_s}\n"
    waiting = later("", ASKED + since)
    assert waiting.boolean("PeriodicHold") is is_held
    assert waiting.string("PeriodicHoldReason") == "no program"
    assert waiting.integer("PeriodicHoldSubCode") == 8
    assert later("", since).boolean("PeriodicHold") is False


def test_an_ad_templates_own_periodic_hold_stays() -> None:
    own = template().with_({"PeriodicHold": "true", "PeriodicHoldReason": '"mine"'})
    ad = routed(own=own)
    assert ad.boolean("PeriodicHold") is True
    assert ad.string("PeriodicHoldReason") == "mine"


def test_the_users_own_hold_stays_theirs() -> None:
    source = 'OnExitHold = ExitCode =?= 9\nOnExitHoldReason = "mine"\nOnExitHoldSubCode = 42\n'
    ended = later(source, "ExitBySignal = false\nExitCode = 9\nNumJobCompletions = 1\n")
    assert ended.boolean("OnExitHold") is True
    assert (ended.string("OnExitHoldReason"), ended.integer("OnExitHoldSubCode")) == (
        "mine",
        42,
    )
    assert later(source, SILENT + told(1, 1)).boolean("OnExitHold") is False


def test_the_count_of_an_earlier_routing_is_not_carried_on() -> None:
    ad = routed("ChirpVmCapsuleUnreported = 3\nChirpVmCapsuleRun = 1\nVmCapsuleMaxTries = 9\n")
    assert "ChirpVmCapsuleUnreported" not in ad and "ChirpVmCapsuleRun" not in ad
    assert ad.integer("VmCapsuleMaxTries") == 3


def matches(job: Ad, machine: str) -> Any:
    ad = classad2.parseOne(job.long_form(), classad2.ParserType.Old)
    return ad.lookup("Requirements").eval(ad, classad2.ClassAd(f"[{MACHINE}{machine}]"))


@pytest.mark.parametrize("demand", ["VMCapsuleNetwork", "VMCapsuleKVM"])
@pytest.mark.parametrize(
    ("said", "answer"), [("true", True), ("false", False), ("undefined", False)]
)
def test_it_runs_where_what_it_demands_is_there(demand: str, said: str, answer: bool) -> None:
    demands = (f"TARGET.{demand} =?= true",)
    job = routed_ad(recorded(), template(), CAPSULE._replace(demands=demands))
    machine = f"{demand} = {said}"
    assert matches(job, machine) is answer
    assert matches(routed(), machine) is True


@pytest.mark.parametrize(
    ("until_s", "answers"),
    [
        (None, [True, True, True]),
        (AVOID_S - 1, [False, False, True]),
        (-1, [True, True, True]),
        # The clock there is wrong: that shall not keep the job from its only machine.
        (9 * AVOID_S, [True, True, True]),
    ],
)
def test_other_machines_are_tried_first_for_a_while(
    until_s: object, answers: list[bool]
) -> None:
    facts = 'MachineAttrMachine0 = "ep1"\nMachineAttrMachine1 = "ep2"\n'
    if isinstance(until_s, int):
        facts += f"ChirpVmCapsuleUntil = {int(time.time()) + until_s}\n"
    job = later("", facts)
    machines = [f'Machine = "ep{n}"' for n in (1, 2, 3)]
    assert [matches(job, machine) for machine in machines] == answers


@pytest.mark.parametrize(("kvm", "rank"), [("true", 1.0), ("false", 0.0), ("undefined", 0.0)])
def test_machines_where_kvm_works_come_first(kvm: str, rank: float) -> None:
    ad = classad2.parseOne(routed().long_form(), classad2.ParserType.Old)
    machine = classad2.ClassAd(f"[VMCapsuleKVM = {kvm}]")
    assert ad.lookup("Rank").eval(ad, machine) == rank


def test_unless_the_job_ranks_them_itself() -> None:
    assert routed("Rank = KFlops\n").expr("Rank") == "KFlops"


def test_a_held_one_goes_when_its_hold_was_seen() -> None:
    assert routed().expr("PeriodicRemove") == REMOVED_WHEN_HELD
    own = template().with_({"PeriodicRemove": "NumJobStarts > 9"})
    expected = f"(NumJobStarts > 9) || ({REMOVED_WHEN_HELD})"
    assert routed(own=own).expr("PeriodicRemove") == expected


#: Of bytes that a template has: its system disk, kernel and initrd.
SHARED_KIB = 400_000


@given(st.integers(0, 1 << 40), st.integers(1, 1 << 40), st.data())
def test_what_is_claimed_is_in_use_at_the_peak_and_no_more(
    inputs_kib: int, request_kib: int, data: st.DataObject
) -> None:
    outputs_kib = data.draw(st.integers(0, request_kib))
    facts = CAPSULE._replace(size_kib=SHARED_KIB + inputs_kib, data_kib=inputs_kib)
    job = recorded(f"RequestDisk = {request_kib}\n")
    claimed_kib = routed_ad(job, template(), facts).integer("RequestDisk")
    came, unpacked, written = SHARED_KIB + inputs_kib, inputs_kib, request_kib
    packing = came + unpacked + written + GUEST_KIB + outputs_kib
    # What comes back is as long as the outputs, and tables and records.
    returning = came + outputs_kib + outputs_kib + (2 << 10)
    assert claimed_kib is not None and claimed_kib >= max(packing, returning)
    # All of what may be written is an output: that is the most there can be.
    assert claimed_kib == packing + request_kib - outputs_kib
