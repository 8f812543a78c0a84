"""The hold event that the update hook writes, read with HTCondor's own reader of logs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.classad.ads import Ad, parse_ad, quote
from vmcapsule.job.policy import Logs, read_logs
from vmcapsule.router import update
from vmcapsule.router.cleanup import tell_users_hold
from vmcapsule.router.user_log import tell_hold, told_logs

SUBMITTED = (
    "000 (004.002.000) 2026-01-02 03:04:05 Job submitted from host: <127.0.0.1:9618>\n...\n"
)


def routed(iwd: Path, reason: str, *more: str) -> Ad:
    source = parse_ad(f'Iwd = {quote(str(iwd))}\nUserLog = "log"\n' + "\n".join(more))
    return parse_ad('VmCapsuleSourceJobId = "4.2"\n').with_(
        {
            "JobStatus": 1,
            "HoldReason": quote(reason),
            "HoldReasonCode": 13,
            "HoldReasonSubCode": 2,
            **told_logs(read_logs(source)),
        }
    )


def events(log: Path) -> list[dict[str, object]]:
    """As HTCondor reads them: in another process, where a fault cannot end this one."""
    reader = (
        "import htcondor2, json, sys\n"
        "for e in htcondor2.JobEventLog(sys.argv[1]).events(0):\n"
        "    ad = {name: e[name] for name in e if name.startswith('HoldReason')}\n"
        "    print(json.dumps(dict(ad, number=int(e.type), job=[e.cluster, e.proc])))\n"
    )
    argv = [sys.executable, "-c", reader, str(log)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_htcondor_reads_the_hold(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(SUBMITTED)
    tell_hold(routed(tmp_path, "vmcapsule: no 'gone'; check it"))
    submitted, held = events(tmp_path / "log")
    assert submitted["number"] == 0 and held["number"] == 12
    assert held["job"] == [4, 2]
    assert held["HoldReason"] == "vmcapsule: no 'gone'; check it"
    assert (held["HoldReasonCode"], held["HoldReasonSubCode"]) == (13, 2)


@given(reason=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n")))
def test_no_reason_makes_another_event(
    reason: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    tell_hold(routed(folder, f"{reason}... 012 (1.1.1) x"))
    lines = (folder / "log").read_text().split("\n")
    assert lines[0].startswith("012 (004.002.000) ") and lines[0].endswith(" Job was held.")
    # Nothing of it moves a terminal's cursor either.
    assert lines[1].startswith("\t") and lines[1][1:].isprintable()
    assert lines[2:] == ["\tCode 13 Subcode 2", "...", ""]


def test_dagmans_log_of_its_nodes_has_it_too_and_a_log_in_xml_has_not(tmp_path: Path) -> None:
    nodes = f"DAGManNodesLog = {quote(str(tmp_path / 'nodes.log'))}"
    tell_hold(routed(tmp_path, "why", nodes, "UserLogUseXML = true"))
    assert [path.name for path in tmp_path.iterdir()] == ["nodes.log"]
    assert events(tmp_path / "nodes.log")[0]["number"] == 12


def test_a_source_without_a_log_or_with_a_strange_one_is_no_error(tmp_path: Path) -> None:
    assert read_logs(parse_ad('Iwd = "/tmp"\n')) == Logs()
    assert read_logs(parse_ad('Iwd = "/tmp"\nUserLog = 7\n')) == Logs()
    tell_hold(parse_ad('VmCapsuleSourceJobId = "x"\nVmCapsuleUserLog = "/nowhere/log"\n'))


def test_a_users_hold_is_logged_as_the_routed_job_goes(tmp_path: Path) -> None:
    removed = routed(tmp_path, "of the routed job")
    reason = "via condor_hold (by user alice)"
    for hold in (
        None,
        {"HoldReasonCode": 3, "HoldReason": "PeriodicHold, which the JobRouter logs"},
        {"HoldReasonCode": 1, "HoldReason": reason, "HoldReasonSubCode": 0},
    ):
        tell_users_hold(removed, hold)
    (held,) = events(tmp_path / "log")
    assert (held["HoldReason"], held["HoldReasonCode"]) == (reason, 1)


def run_hook(ad: Ad, monkeypatch: pytest.MonkeyPatch) -> int:
    stdin = io.TextIOWrapper(io.BytesIO(ad.long_form().encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    return update.main()


def test_the_hook_writes_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = routed(tmp_path, "why").with_({"JobStatus": 5})
    assert run_hook(held, monkeypatch) == 0
    seen = held.with_({"VmCapsuleHoldSeen": True})
    assert run_hook(seen, monkeypatch) == 0
    assert len(events(tmp_path / "log")) == 1
    assert run_hook(held.with_({"JobStatus": 2}), monkeypatch) == 0
    assert len(events(tmp_path / "log")) == 1


def test_a_log_that_cannot_be_written_does_not_stop_the_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    held = routed(tmp_path / "gone", "why").with_({"JobStatus": 5})
    assert run_hook(held, monkeypatch) == 0
    printed = capfd.readouterr()
    assert "No such file" in printed.err and "user's log" in printed.err
    assert printed.out == "VmCapsuleHoldSeen = true\n"
