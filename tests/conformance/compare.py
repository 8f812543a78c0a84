"""Two outcomes of a case compared, and whether what differs was expected."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Dict, Iterator, List, Optional, Tuple

from tests.conformance.cases import Case
from tests.conformance.outcome import ENDED, FAILED, HELD, Entry, JobEnd, Outcome, Tree, Usage
from vmcapsule.errors import JobRefused, TooLarge, escaped, one_line

SAME, REFUSED, DIFFERENT = "same", "refused", "different"

#: By these exit statuses vmcapsule says that a capsule cannot do what the job asks for.
_REFUSALS = (JobRefused.exit_status, TooLarge.exit_status)
_OURS = "vmcapsule: "
#: condor's JobPolicy: the subcode is the user's own.
_POLICY = 3
_SHOWN_CHARS = 80


@dataclass(frozen=True)
class Verdict:
    """What a case's outcome is, one way: a word, the evidence, and what is wrong.

    ``evidence`` are the differences, or the reasons of a refusal.  ``wrong`` is empty when
    all is as expected.
    """

    word: str
    evidence: Tuple[str, ...] = ()
    wrong: Tuple[str, ...] = ()


def judge(case: Case, way: str, native: Outcome, other: Outcome) -> Verdict:
    """Compare a way's outcome with the native one and with what the case lists for it."""
    is_listed = any(one.kind == REFUSED for one in case.expected_of(way))
    refusals = _refusals(native, other, is_listed)
    if refusals:
        return Verdict(REFUSED, refusals, tuple(_wrong_refusal(case, way, refusals)))
    found = tuple(differences(case, native, other))
    wrong = tuple(_wrong_differences(case, way, found))
    return Verdict(DIFFERENT if found else SAME, found, wrong)


def _refusals(native: Outcome, other: Outcome, is_listed: bool) -> Tuple[str, ...]:
    """Why the jobs were refused, each reason once; nothing when one of them was not.

    What the native way does not do either is no refusal, unless it is listed as one.
    """
    if not is_listed and any(job.state in (HELD, FAILED) for job in native.jobs):
        return ()
    if not other.jobs or not all(_is_refused(job) for job in other.jobs):
        return ()
    reasons = [job.reason.partition(_OURS)[2] or job.reason for job in other.jobs]
    return tuple(dict.fromkeys(one_line(reason) for reason in reasons))


def _is_refused(job: JobEnd) -> bool:
    return job.state in (HELD, FAILED) and job.status in _REFUSALS


def _wrong_refusal(case: Case, way: str, reasons: Tuple[str, ...]) -> Iterator[str]:
    listed = [one for one in case.expected_of(way) if one.kind == REFUSED]
    if not listed:
        yield f"refused, which is not listed: {reasons[0]}"
    for word in (word for one in listed for word in one.patterns):
        for reason in reasons:
            if word not in reason:
                yield f"the refusal does not name '{word}': {reason}"


def _wrong_differences(case: Case, way: str, found: Tuple[str, ...]) -> Iterator[str]:
    expected = case.expected_of(way)
    if any(one.kind == REFUSED for one in expected):
        yield "to be refused, but it ran"
    listed = [one for one in expected if one.kind == DIFFERENT]
    for difference in found:
        if not any(one.matches(difference) for one in listed):
            yield difference
    certain = [one for one in listed if not one.perhaps]
    for pattern in (pattern for one in certain for pattern in one.patterns):
        if not any(fnmatchcase(difference, pattern) for difference in found):
            yield f"listed, but does not occur: {pattern}"


def differences(case: Case, native: Outcome, other: Outcome) -> List[str]:
    """What is not as natively: a line for each, in a stable order."""
    if len(native.jobs) != len(other.jobs):
        return [f"jobs: {len(other.jobs)}, natively {len(native.jobs)}"]
    pairs = list(zip(native.jobs, other.jobs))
    by_job = [dict(_job_differences(case, *pair)) for pair in pairs]
    found = _folded(by_job)
    if all(_ended_alike(*pair) for pair in pairs):
        found += _tree_differences(case, native.tree, other.tree)
    return found


def _folded(by_job: List[Dict[str, str]]) -> List[str]:
    """Of several jobs: what is the same for all is said once."""
    found = []
    for number, said in enumerate(by_job):
        for aspect, text in said.items():
            for_all = all(one.get(aspect) == text for one in by_job)
            if not for_all:
                found.append(f"{aspect} of job {number}: {text}")
            elif number == 0:
                found.append(f"{aspect}: {text}")
    return found


def _ended_alike(native: JobEnd, other: JobEnd) -> bool:
    return native.state == other.state or {native.state, other.state} == {HELD, FAILED}


def _job_differences(case: Case, native: JobEnd, other: JobEnd) -> Iterator[Tuple[str, str]]:
    """(aspect, what) of two ends of one job."""
    if not _ended_alike(native, other):
        yield "state", f"{_state(other)}, natively {_state(native)}"
        return
    for aspect, mine, theirs in (
        ("exit", _exit(other), _exit(native)),
        ("core", str(other.core_dumped), str(native.core_dumped)),
        ("hold", _hold(other), _hold(native)),
    ):
        if mine != theirs:
            yield aspect, f"{mine}, natively {theirs}"
    if None not in (native.runs, other.runs) and native.runs != other.runs:
        yield "runs", f"{other.runs}, natively {native.runs}"
    if native.story is not None and other.story is not None and native.story != other.story:
        yield "log", f"{', '.join(other.story)}; natively {', '.join(native.story)}"
    if native.state == ENDED:
        yield from _usage_differences(case, native.usage, other)


def _state(job: JobEnd) -> str:
    why = job.reason.partition(_OURS)[2] or job.reason
    return f"{job.state} ({one_line(why)})" if why else job.state


def _exit(job: JobEnd) -> str:
    if job.exit_signal is not None:
        return f"signal {job.exit_signal}"
    return "none" if job.exit_code is None else f"code {job.exit_code}"


def _hold(job: JobEnd) -> str:
    if job.state not in (HELD, FAILED):
        return "none"
    has_subcode = job.hold_code == _POLICY and job.hold_subcode is not None
    subcode = f" subcode {job.hold_subcode}" if has_subcode else ""
    return f"code {job.hold_code}{subcode}"


def _usage_differences(case: Case, native: Usage, job: JobEnd) -> Iterator[Tuple[str, str]]:
    """What a job used is never the same twice; it must be there, and be the job's own.

    The hypervisor's would be far more: ten seconds of CPU and hundreds of MiB.
    """
    other, has_ad = job.usage, job.story is not None
    # A guest takes the time for its own in which its processor waits for this machine's.
    is_cpu = _is_some if case.is_busy else partial(_is_plausible_cpu, other.crowd)
    if other.of_machine:
        # What a starter has not looked at yet is none.
        is_cpu = _is_any
    is_memory = _is_some if other.of_machine else _is_plausible_memory
    for name, mine, theirs, unit, is_plausible in (
        ("CPU time", other.cpu_s, native.cpu_s, "s", is_cpu),
        ("memory", other.memory_mib, native.memory_mib, "MiB", is_memory),
        ("disk", other.disk_kib, native.disk_kib, "KiB", _is_some),
    ):
        if mine is None:
            if has_ad and theirs is not None:
                yield name, "not in the ad"
        elif theirs is not None and not is_plausible(mine, theirs):
            yield name, f"not the job's: {mine} {unit}, natively {theirs} {unit}"


def _is_any(mine: float, native: float) -> bool:
    return mine >= 0


def _is_some(mine: float, native: float) -> bool:
    return mine > 0


def _is_plausible_cpu(crowd: float, mine: float, native: float) -> bool:
    """Emulated, a program takes up to a few dozen times as long."""
    return native / 4 - 0.5 <= mine <= native * 40 + 4 * crowd


def _is_plausible_memory(mine: float, native: float) -> bool:
    return native / 2 - 8 <= mine <= native * 2 + 96


def _tree_differences(case: Case, native: Tree, other: Tree) -> List[str]:
    found = []
    for path in sorted({*native, *other}):
        name = escaped(path.decode(errors="backslashreplace"))
        if any(fnmatchcase(name, pattern) for pattern in case.ignore):
            continue
        vague = any(fnmatchcase(name, pattern) for pattern in case.vague)
        what = _entry_difference(native.get(path), other.get(path), vague)
        found += [f"file {name}: {what}"] if what else []
    return found


def _entry_difference(native: Optional[Entry], other: Optional[Entry], vague: bool) -> str:
    if native is None or other is None:
        return "missing" if other is None else "extra" if native is None else ""
    if native.kind != other.kind:
        return f"{other.kind}, natively {native.kind}"
    if vague:
        return ""
    said = []
    if native.mode != other.mode:
        said.append(f"mode {other.mode:04o}, natively {native.mode:04o}")
    if native.target != other.target:
        said.append(f"to {_shown(other.target)}, natively {_shown(native.target)}")
    if native.sha256 != other.sha256:
        said.append(_content_difference(native, other))
    if native.is_sparse != other.is_sparse:
        said.append("sparse, natively not" if other.is_sparse else "not sparse, natively so")
    return "; ".join(said)


def _content_difference(native: Entry, other: Entry) -> str:
    sizes = f"{other.size} bytes, natively {native.size}"
    if native.data is None or other.data is None:
        return f"other content ({sizes})"
    mine, theirs = other.data.split(b"\n"), native.data.split(b"\n")
    for number in range(max(len(mine), len(theirs))):
        one = mine[number] if number < len(mine) else b""
        two = theirs[number] if number < len(theirs) else b""
        if one != two:
            return f"line {number + 1} is {_shown(one)}, natively {_shown(two)}"
    return f"other content ({sizes})"


def _shown(data: bytes) -> str:
    text = escaped(data[:_SHOWN_CHARS].decode(errors="backslashreplace"))
    return f"'{text}'" + ("..." if len(data) > _SHOWN_CHARS else "")
