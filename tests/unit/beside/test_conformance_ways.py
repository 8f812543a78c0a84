"""Which ways the conformance suite runs, and in which pool each; no pool."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import Dict, List, NoReturn, Sequence, Tuple

import pytest

from tests.conformance import __main__ as main
from tests.conformance import suite
from tests.conformance.cases import Case, load_cases
from tests.conformance.outcome import ENDED, JobEnd, Outcome, Outcomes
from tests.conformance.test_representative import COMPARED_HERE
from tests.conformance.ways import COMPARED, WAYS
from tests.pool.pool import Pool
from vmcapsule.errors import ToolError

CASE = "exit-code"
NO_PACKAGES = ToolError("there is no package 'libvirt-daemon'", "use another suite")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Dict[str, Tuple[str, List[str]]]:
    """By way that was run: its pool's suite, and the suites of the pools that ran then."""
    running: List[str] = []
    found: Dict[str, Tuple[str, List[str]]] = {}

    class Runner:
        def __init__(self, pool: Pool, way: str) -> None:
            found[way] = (pool.suite, [*running])

        def run(self, cases: Sequence[Case]) -> Outcomes:
            end = JobEnd(ENDED, exit_code=0)
            return {case.name: Outcome((end,), {}) for case in cases}

    version = subprocess.CompletedProcess([], 0, b"$CondorVersion: 23.9.6 $")
    for name, way in WAYS.items():
        monkeypatch.setitem(WAYS, name, replace(way, runner=Runner))
    monkeypatch.setattr(suite, "configure", lambda pool: None)
    monkeypatch.setattr(main, "_free_bytes", lambda folder: 1 << 40)
    monkeypatch.setattr(Pool, "build", lambda pool: None)
    monkeypatch.setattr(Pool, "start", lambda pool: running.append(pool.suite))
    monkeypatch.setattr(Pool, "stop", lambda pool: running.remove(pool.suite))
    monkeypatch.setattr(Pool, "run", lambda pool, *_: version)
    return found


def no_libvirt(pool: Pool) -> None:
    raise NO_PACKAGES


def test_libvirt_is_in_a_pool_of_its_own_while_its_way_is_run(
    ran: Dict[str, Tuple[str, List[str]]],
) -> None:
    assert main.main([CASE, "--dry"]) == 0
    assert ran.pop("kvm") == ("trixie-kvm", ["trixie", "trixie-kvm"])
    assert ran == {way: ("trixie", ["trixie"]) for way in WAYS if way != "kvm"}


def test_its_pool_is_stopped_when_the_way_fails(
    ran: Dict[str, Tuple[str, List[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(pool: Pool, way: str) -> NoReturn:
        raise NO_PACKAGES

    monkeypatch.setitem(WAYS, "kvm", replace(WAYS["kvm"], runner=fails))
    with pytest.raises(ToolError):
        suite.run_suite(Pool("trixie", "dull"), load_cases([CASE], COMPARED), ["kvm"])
    suite.run_suite(Pool("trixie", "dull"), load_cases([CASE], COMPARED), ["vmware"])
    assert ran["vmware"][1] == []


def test_a_way_that_cannot_be_had_is_left_out_of_all_with_the_reason(
    ran: Dict[str, Tuple[str, List[str]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Pool, "build", no_libvirt)
    assert main.main([CASE, "--dry"]) == 0
    assert ran.keys() == {*WAYS} - {"kvm"}
    assert f"kvm: left out: {NO_PACKAGES}\n" in capsys.readouterr().err


def test_one_that_was_asked_for_by_name_is_not_left_out(
    ran: Dict[str, Tuple[str, List[str]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Pool, "build", no_libvirt)
    assert main.main([CASE, "--dry", "--way", "vmware", "--way", "kvm"]) == 69
    assert str(NO_PACKAGES) in capsys.readouterr().err
    assert ran == {}, "before anything is run"


def test_what_is_run_for_every_change_needs_no_libvirt() -> None:
    assert "slot" in COMPARED_HERE and "kvm" not in COMPARED_HERE
