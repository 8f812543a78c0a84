"""The conformance suite's judgement: what counts as a difference, and what as expected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Dict, Optional

import pytest

from tests.conformance.cases import Case, Expected
from tests.conformance.compare import DIFFERENT, REFUSED, SAME, judge
from tests.conformance.outcome import (
    ENDED,
    FAILED,
    HELD,
    WAITING,
    Entry,
    JobEnd,
    Outcome,
    Usage,
)
from tests.conformance.suite import verdict

WAY = "vmware"
DONE = JobEnd(ENDED, exit_code=0, runs=1, story=("submitted", "terminated with 0"))
FILE = Entry("file", 0o644, 4, "aaaa", data=b"one\ntwo\n")


def case(*expected: Expected, **more: object) -> Case:
    return Case("a-case", Path("/nowhere"), "about", expected=expected, **more)  # type: ignore[arg-type]


def outcome(*jobs: JobEnd, tree: Optional[Dict[bytes, Entry]] = None) -> Outcome:
    return Outcome(jobs or (DONE,), {b"out": FILE} if tree is None else tree)


def differing(*patterns: str) -> Expected:
    return Expected(DIFFERENT, (WAY,), patterns, "because")


def refusal(reason: str = "StreamOut = true: no; do", status: int = 65) -> JobEnd:
    return JobEnd(HELD, status=status, hold_code=3, reason=f"vmcapsule: {reason}")


def test_what_is_alike_is_the_same() -> None:
    said = judge(case(), WAY, outcome(), outcome())
    assert (said.word, said.evidence, said.wrong) == (SAME, (), ())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"exit_code": 1}, "exit: code 1, natively code 0"),
        ({"exit_code": None, "exit_signal": 9}, "exit: signal 9, natively code 0"),
        ({"exit_code": None}, "exit: none, natively code 0"),
        ({"core_dumped": True}, "core: True, natively False"),
        ({"runs": 2}, "runs: 2, natively 1"),
        ({"story": ("submitted",)}, "log: submitted; natively submitted, terminated with 0"),
        ({"state": WAITING}, "state: waiting, natively ended"),
        ({"state": HELD, "reason": "why"}, "state: held (why), natively ended"),
        ({"usage": Usage(memory_mib=300)}, "memory: not the job's: 300 MiB, natively 5 MiB"),
        ({"usage": Usage()}, "memory: not in the ad"),
    ],
)
def test_a_job_that_ends_otherwise_differs(change: Dict[str, object], text: str) -> None:
    native = replace(DONE, usage=Usage(memory_mib=5))
    other = replace(native, **change)  # type: ignore[arg-type]
    said = judge(case(), WAY, outcome(native), outcome(other))
    assert (said.word, said.evidence, said.wrong) == (DIFFERENT, (text,), (text,))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mode": 0o600}, "file out: mode 0600, natively 0644"),
        ({"kind": "link", "target": b"x"}, "file out: link, natively file"),
        ({"is_sparse": True}, "file out: sparse, natively not"),
        (
            {"sha256": "bb", "data": b"one\nTWO\n"},
            "file out: line 2 is 'TWO', natively 'two'",
        ),
        ({"sha256": "bb", "data": b"one\n"}, "file out: line 2 is '', natively 'two'"),
        (
            {"sha256": "bb", "size": 9, "data": None},
            "file out: other content (9 bytes, natively 4)",
        ),
    ],
)
def test_a_file_that_is_otherwise_differs(change: Dict[str, object], text: str) -> None:
    other = replace(FILE, **change)  # type: ignore[arg-type]
    said = judge(case(), WAY, outcome(), outcome(tree={b"out": other}))
    assert (said.word, said.evidence) == (DIFFERENT, (text,))


def test_missing_and_extra_files_differ() -> None:
    said = judge(case(), WAY, outcome(), outcome(tree={b"bad\xff\n": FILE}))
    assert said.evidence == ("file bad\\xff\\n: extra", "file out: missing")


def test_links_are_compared_by_where_they_point() -> None:
    links = [outcome(tree={b"l": Entry("link", 0, target=to)}) for to in (b"a", b"b")]
    assert judge(case(), WAY, *links).evidence == ("file l: to 'b', natively 'a'",)


def test_of_vague_files_only_the_kind_counts_and_of_ignored_ones_nothing() -> None:
    native = outcome(tree={b"core.1": FILE, b"x.log": FILE})
    changed = replace(FILE, sha256="bb", mode=0o600)
    lenient = case(vague=("core.*",), ignore=("*.log",))
    other = outcome(tree={b"core.1": changed})
    assert judge(lenient, WAY, native, other).word == SAME
    folder = outcome(tree={b"core.1": Entry("folder", 0o755)})
    assert judge(lenient, WAY, native, folder).word == DIFFERENT
    assert judge(lenient, WAY, native, outcome(tree={})).evidence == ("file core.1: missing",)


def test_what_is_the_same_for_all_jobs_is_said_once() -> None:
    three = [replace(DONE, exit_code=code) for code in (0, 0, 0)]
    ones = [replace(DONE, exit_code=1)] * 3
    assert judge(case(), WAY, outcome(*three), outcome(*ones)).evidence == (
        "exit: code 1, natively code 0",
    )
    said = judge(case(), WAY, outcome(*three), outcome(three[0], ones[0], three[2]))
    assert said.evidence == ("exit of job 1: code 1, natively code 0",)


def test_another_number_of_jobs_differs() -> None:
    said = judge(case(), WAY, outcome(DONE, DONE), outcome(DONE))
    assert said.evidence == ("jobs: 1, natively 2",)


def test_a_way_without_a_queue_is_not_asked_for_log_and_runs() -> None:
    native = replace(DONE, usage=Usage(cpu_s=0.1, memory_mib=5, disk_kib=9))
    alone = JobEnd(ENDED, exit_code=0, usage=Usage(cpu_s=0.2, memory_mib=6))
    assert judge(case(), WAY, outcome(native), outcome(alone)).word == SAME


def test_cpu_time_of_a_hypervisor_is_not_the_jobs() -> None:
    native = replace(DONE, usage=Usage(cpu_s=0.1))
    emulated, hypervisor = (replace(DONE, usage=Usage(cpu_s=s)) for s in (3.0, 14.0))
    assert judge(case(), WAY, outcome(native), outcome(emulated)).word == SAME
    said = judge(case(), WAY, outcome(native), outcome(hypervisor))
    assert said.evidence == ("CPU time: not the job's: 14.0 s, natively 0.1 s",)


def test_where_many_want_a_processor_a_guest_counts_its_waiting() -> None:
    native = replace(DONE, usage=Usage(cpu_s=0.0))
    alone, among_many = (
        replace(DONE, usage=Usage(cpu_s=4.5, crowd=crowd)) for crowd in (1.0, 10.0)
    )
    assert judge(case(), WAY, outcome(native), outcome(alone)).word == DIFFERENT
    assert judge(case(), WAY, outcome(native), outcome(among_many)).word == SAME


def test_of_a_busy_job_some_cpu_time_is_wanted() -> None:
    native = replace(DONE, usage=Usage(cpu_s=0.0))
    busy = case(is_busy=True)
    much, none = (replace(DONE, usage=Usage(cpu_s=s)) for s in (60.0, 0.0))
    assert judge(busy, WAY, outcome(native), outcome(much)).word == SAME
    said = judge(busy, WAY, outcome(native), outcome(none))
    assert said.evidence == ("CPU time: not the job's: 0.0 s, natively 0.0 s",)


def test_a_listed_difference_is_no_fault() -> None:
    other = outcome(replace(DONE, runs=2))
    said = judge(case(differing("runs: *")), WAY, outcome(), other)
    assert (said.word, said.wrong) == (DIFFERENT, ())


def test_a_listed_difference_must_occur() -> None:
    said = judge(case(differing("runs: *")), WAY, outcome(), outcome())
    assert (said.word, said.wrong) == (SAME, ("listed, but does not occur: runs: *",))


def test_a_difference_that_is_listed_as_perhaps_need_not_occur() -> None:
    perhaps = replace(differing("runs: *"), perhaps=True)
    assert judge(case(perhaps), WAY, outcome(), outcome()).wrong == ()
    other = outcome(replace(DONE, runs=2, exit_code=1))
    said = judge(case(perhaps), WAY, outcome(), other)
    assert said.wrong == ("exit: code 1, natively code 0",)


def test_what_is_listed_covers_no_other_difference() -> None:
    other = outcome(replace(DONE, runs=2, exit_code=1))
    said = judge(case(differing("runs: *")), WAY, outcome(), other)
    assert said.wrong == ("exit: code 1, natively code 0",)


def test_what_is_listed_for_another_way_does_not_count() -> None:
    other = outcome(replace(DONE, runs=2))
    elsewhere = replace(differing("runs: *"), ways=("run",))
    assert judge(case(elsewhere), WAY, outcome(), other).wrong


def test_a_refusal_must_be_listed_and_name_the_attribute() -> None:
    refused = outcome(refusal(), tree={})
    said = judge(case(), WAY, outcome(), refused)
    assert said.word == REFUSED
    assert said.wrong == ("refused, which is not listed: StreamOut = true: no; do",)
    named = Expected(REFUSED, (WAY,), ("StreamOut",))
    said = judge(case(named), WAY, outcome(), refused)
    assert (said.evidence, said.wrong) == (("StreamOut = true: no; do",), ())
    wrong = judge(case(replace(named, patterns=("StreamIn",))), WAY, outcome(), refused).wrong
    assert wrong == ("the refusal does not name 'StreamIn': StreamOut = true: no; do",)


def test_a_job_that_was_to_be_refused_and_ran_is_wrong() -> None:
    named = Expected(REFUSED, (WAY,), ("StreamOut",))
    assert judge(case(named), WAY, outcome(), outcome()).wrong == ("to be refused, but it ran",)


def test_what_is_held_natively_is_refused_only_where_that_is_listed() -> None:
    native = outcome(JobEnd(HELD, hold_code=33))
    assert judge(case(), WAY, native, outcome(refusal())).word == DIFFERENT
    listed = case(Expected(REFUSED, (WAY,), ("StreamOut",)))
    said = judge(listed, WAY, native, outcome(refusal()))
    assert (said.word, said.wrong) == (REFUSED, ())


@pytest.mark.parametrize("status", [66, 70, 74, None])
def test_a_failure_is_no_refusal(status: Optional[int]) -> None:
    failed = JobEnd(HELD, status=status, hold_code=3, reason="vmcapsule: it broke")
    said = judge(case(), WAY, outcome(), outcome(failed))
    assert said.evidence == ("state: held (it broke), natively ended",)


def test_one_refused_job_of_two_is_no_refusal() -> None:
    said = judge(case(), WAY, outcome(DONE, DONE), outcome(refusal(), DONE))
    assert said.word == DIFFERENT


def test_held_here_and_there_is_compared_by_code() -> None:
    native = JobEnd(HELD, hold_code=13, hold_subcode=2)
    alone = JobEnd(FAILED, hold_code=13, status=66, reason="input missing")
    assert judge(case(), WAY, outcome(native), outcome(alone)).word == SAME
    said = judge(case(), WAY, outcome(native), outcome(refusal(status=66)))
    assert said.evidence == ("hold: code 3, natively code 13",)


def test_a_policys_subcode_counts() -> None:
    holds = [outcome(JobEnd(HELD, hold_code=3, hold_subcode=code)) for code in (33, 34)]
    assert judge(case(), WAY, *holds).evidence == (
        "hold: code 3 subcode 34, natively code 3 subcode 33",
    )


def test_of_a_job_that_did_not_end_alike_the_folder_is_not_compared() -> None:
    held = outcome(JobEnd(HELD, hold_code=3, reason="why"), tree={})
    assert judge(case(), WAY, outcome(), held).evidence == (
        "state: held (why), natively ended",
    )


def test_a_native_job_that_does_not_end_is_no_reference() -> None:
    waits = outcome(JobEnd(WAITING))
    assert verdict(case(), WAY, waits, waits).wrong == ("the native jobs are: waiting",)
    assert verdict(case(native_waits=True), WAY, waits, waits).wrong == ()
    assert verdict(case(native_waits=True), WAY, outcome(), outcome()).wrong
    ended, both = outcome(JobEnd(ENDED)), outcome(JobEnd(ENDED), JobEnd(WAITING))
    assert verdict(case(idle=1), WAY, both, both).wrong == ()
    ran = outcome(JobEnd(ENDED), JobEnd(ENDED))
    said = ("state of job 1: ended, natively waiting",)
    assert verdict(case(idle=1), WAY, both, ran).wrong == said
    for native in (waits, ended, ran):
        assert (verdict(case(idle=1), WAY, native, native).wrong == ()) == (native == waits)


def test_what_is_known_to_be_a_machines_has_to_be_there_and_no_more() -> None:
    native = replace(DONE, usage=Usage(cpu_s=0.1, memory_mib=5))
    machine = Usage(cpu_s=9.0, memory_mib=340, of_machine=True)
    whole, lacking = (
        replace(DONE, usage=one)
        for one in (machine, replace(machine, cpu_s=None, memory_mib=0))
    )
    assert judge(case(), WAY, outcome(native), outcome(whole)).word == SAME
    assert judge(case(), WAY, outcome(native), outcome(lacking)).evidence == (
        "CPU time: not in the ad",
        "memory: not the job's: 0 MiB, natively 5 MiB",
    )
