"""What one user has in an ad must not keep us from reading what the queue says of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmcapsule.classad.ads import parse_ad
from vmcapsule.errors import ToolError
from vmcapsule.router import job_queue


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a condor_q prints that is found first; its arguments are in ``asked`` beside."""
    program = tmp_path / "condor_q"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in *-totals*) echo "-- Schedd: ap : <[::1]:9618> @ now"; exit;; esac\n'
        f'printf "%s\\n" "$@" > {tmp_path}/asked\ncat {tmp_path}/answer\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "answer"


def test_bytes_that_are_no_text_are_one_users_own_trouble(answer: Path) -> None:
    answer.write_bytes(
        b'[\n{\n  "GlobalJobId": "ap#7.0#1",\n  "VmCapsuleDir": "\xff"\n}\n,\n'
        b'{\n  "GlobalJobId": "ap#8.0#1",\n  "VmCapsuleDir": "/scratch/caf\xc3\xa9",\n'
        b'  "Managed": "External"\n}\n]\n'
    )
    needed = job_queue.needed()
    assert needed.folders == {"\udcff", "/scratch/café"}
    assert needed.sources == {"ap#8.0#1"}


def test_a_hold_reason_of_odd_bytes_is_read(answer: Path) -> None:
    answer.write_bytes(b'[{"HoldReason": "a\xff\tb\x01", "HoldReasonCode": 1}]')
    assert job_queue.hold_of("ap#7.0#1") == {
        "HoldReason": "a\udcff\tb\x01",
        "HoldReasonCode": 1,
    }


def test_a_hold_is_looked_for_by_the_jobs_number(answer: Path) -> None:
    """Among 100,000 jobs that are removed at once."""
    answer.write_bytes(b"[]")
    for said, found in (("ap.example.org#7.12#1700000000", "7.12"), ("odd", None)):
        assert job_queue.hold_of(said) is None
        asked = (answer.parent / "asked").read_text().splitlines()
        assert (found in asked) is (found is not None)
        assert f'GlobalJobId == "{said}"' in asked[-1]


@pytest.mark.parametrize("printed", [b"no JSON", b"[" * 100_000])
def test_what_is_no_json_is_an_error_of_the_tool(answer: Path, printed: bytes) -> None:
    answer.write_bytes(printed)
    with pytest.raises(ToolError, match="printed no JSON"):
        job_queue.needed()


def test_only_what_is_a_path_is_asked_for(answer: Path) -> None:
    """A list in lists in lists would be one in JSON, too, and stop its reader."""
    answer.write_bytes(b"[]")
    job_queue.needed()
    constraint = (answer.parent / "asked").read_text().splitlines()[-1]
    for text, found in (
        ('VmCapsuleDir = "/scratch/x"', True),
        ('Managed = "External"', True),
        ('VmCapsuleDir = "' + "x" * 5000 + '"', False),
        ("A = 1", False),
        ("VmCapsuleDir = " + "{" * 100 + "}" * 100, False),
        ("VmCapsuleDir = {}\nManaged = {}", False),
    ):
        assert parse_ad(f"{text}\nFound = {constraint}").boolean("Found") is found, text
