"""Whatever stands in an ad, hooks answer the JobRouter, and what they print is plain text."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator, Optional

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.returned import make_capsule, make_job
from vmcapsule.classad.ads import Ad, parse_ad, quote
from vmcapsule.cli import hook_commands
from vmcapsule.config import DEFAULT_PIPE_BUFFER_MAX_BYTES
from vmcapsule.router.finalize import finalize

ROUTE = b'[ Name = "capsule"; TargetUniverse = 5 ]\n'
DASHES = b"\n------\n"
BAD = "Foo = 1 +\n"
#: Bytes of any kind, and lines like an ad's with something wrong in them.
_name = st.sampled_from(
    ["ClusterId", "ProcId", "Owner", "Iwd", "UserLog", "VmCapsuleDir", "UserLogUseXML", "X"]
)
_value = st.sampled_from(
    ["1", '"x"', '"a/b"', "[", "{", '"\n', "1 +", "undefined", '"\udcff"', "-7", "2.5", ""]
) | st.text(max_size=9)
_line = st.builds("{} = {}".format, _name, _value) | st.sampled_from(["------", "", "[", "]"])
anything = st.binary(max_size=200) | st.lists(_line, max_size=12).map(
    lambda lines: "\n".join(lines).encode(errors="surrogatepass")
)


class _Stream(io.TextIOWrapper):
    def __init__(self, data: bytes = b"") -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")

    def written(self) -> str:
        self.flush()
        data = self.buffer.getvalue()  # type: ignore[attr-defined]
        text: str = data.decode("utf-8", "strict")
        return text


def hook(name: str, stdin: bytes) -> str:
    """Run a hook as the JobRouter does; return what it printed on standard output."""
    out, err = _Stream(), io.StringIO()
    given_in, sys.stdin = sys.stdin, _Stream(stdin)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert getattr(hook_commands, name)(None) == 0
    finally:
        sys.stdin = given_in
    assert "Traceback" not in err.getvalue()
    return out.written()


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing is configured, and relative paths lead to a folder of the test's own."""
    for name in [name for name in os.environ if name.upper().startswith("_CONDOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CONDOR_CONFIG", "ONLY_ENV")
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def held(source: str) -> Ad:
    printed = hook("translate", ROUTE + DASHES + source.encode(errors="surrogateescape"))
    assert len(printed.encode()) <= DEFAULT_PIPE_BUFFER_MAX_BYTES
    for line in printed.splitlines():
        assert line.isprintable()
    ad = parse_ad(printed)
    # Without it the JobRouter aborts; with a machine that matches the job would run.
    assert ad.integer("JobUniverse") == 5 and ad.boolean("Requirements") is False
    assert ad.string("PeriodicHoldReason") == ad.string("VmCapsuleHoldReason")
    assert isinstance(ad.integer("VmCapsuleHoldReasonCode"), int)
    return ad


def undelivered(source: str, routed: str) -> Ad:
    text = source.encode(errors="surrogateescape") + DASHES
    printed = hook("finalize", text + routed.encode(errors="surrogateescape"))
    ad = parse_ad(printed)
    assert ad.boolean("ExitBySignal") is False and (ad.integer("ExitCode") or 0) >= 64
    assert ad.boolean("VmCapsuleDelivered") is False
    reason = ad.string("ExitReason") or ""
    assert reason.startswith("vmcapsule: ") and reason.isprintable()
    return ad


def test_a_source_ad_that_cannot_be_parsed_is_held_naming_the_line() -> None:
    ad = held(
        f'Owner = "alice"\nClusterId = 12\n{BAD}ProcId = 3\nIwd = "/home/alice"\n'
        'UserLog = "job.log"\nDAGManNodesLog = "/dags/nodes.log"\n'
    )
    reason = ad.string("VmCapsuleHoldReason") or ""
    assert "cannot be parsed: 'Foo = 1 +': it is no ClassAd expression" in reason
    assert ad.integer("VmCapsuleHoldReasonSubCode") == 65
    assert (ad.string("Owner"), ad.string("Iwd")) == ("alice", "/home/alice")
    assert ad.string("VmCapsuleSourceJobId") == "12.3"
    assert ad.string("VmCapsuleUserLog") == "/home/alice/job.log"
    assert ad.string("VmCapsuleNodesLog") == "/dags/nodes.log"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "\n\n",
        "[",
        "------\n------\n",
        "ClusterId = 1\n\nClusterId = 2\n",
        'ClusterId = "x"\nProcId = 1/0\nOwner = 7\nIwd = { }\nUserLog = error\n',
        'ClusterId = 1\nUserLogUseXML = "perhaps"\nUserLog = "x"\n',
        f'ClusterId = {"9" * 5000}\nIwd = "/{"x" * 5000}"\nUserLog = "{"é" * 4000}"\n{BAD}',
        f'Iwd = "/{"x" * 4000}"\nUserLog = "/{"y" * 4000}"\nDAGManNodesLog = "/{"z" * 4000}"\n',
        'Owner = "\udcff"\nIwd = "/\udcff"\nCmd = "\udcff\x1b[31m"\nUserLog = "\udcff"\n' + BAD,
        f"Foo{'é' * 9000} = 1 +\n",
    ],
)
def test_no_source_ad_keeps_a_job_from_being_held(source: str) -> None:
    held(source)


def test_nor_does_a_route_that_cannot_be_read() -> None:
    printed = hook("translate", b"[ Name = \n" + DASHES + b"ClusterId = 1\nProcId = 2\n")
    assert parse_ad(printed).string("VmCapsuleSourceJobId") == "1.2"


@given(anything)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_bytes_in_place_of_a_source_ad_are_held(data: bytes) -> None:
    held(data.decode(errors="surrogateescape"))


def test_a_finalize_that_cannot_read_the_source_says_that_nothing_was_delivered(
    at_home: Path,
) -> None:
    source = f'ClusterId = 4\nProcId = 2\n{BAD}Iwd = "{at_home}"\nUserLog = "job.log"\n'
    ad = undelivered(source, f'VmCapsuleDir = "{at_home}/capsule"\n')
    assert ad.integer("ExitCode") == 65
    assert "line 3 of the ad cannot be parsed" in (ad.string("ExitReason") or "")
    note = (at_home / "job.log.vmcapsule").read_text()
    assert note.startswith("Job 4.2: ") and "vmcapsule extract 4.2" in note


def test_a_note_waits_for_nobody(at_home: Path) -> None:
    """Opening a FIFO to write waits for a reader, and a hook has no time limit."""
    os.mkfifo(at_home / "job.log.vmcapsule")
    code = (
        "import sys; from vmcapsule.cli import hook_commands\n"
        "sys.exit(hook_commands.finalize(None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[3],
        input=f'Iwd = "{at_home}"\nUserLog = "job.log"\n{BAD}\n------\n',
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "ExitReason" in done.stdout
    assert "cannot leave a note" in done.stderr


def test_nor_does_one_that_cannot_read_the_routed_ad_lose_its_job(at_home: Path) -> None:
    ad = undelivered(f'ClusterId = 4\nProcId = 2\nIwd = "{at_home}"\n', BAD)
    assert "cannot be parsed: 'Foo = 1 +'" in (ad.string("ExitReason") or "")


@pytest.mark.parametrize(
    ("source", "routed"),
    [
        ("", ""),
        ('ClusterId = "x"\nUserLog = 7\n', "VmCapsuleDir = 7\n"),
        ("ClusterId = 1\n", 'VmCapsuleDir = "\udcff"\n'),
        ("ClusterId = 1\n", f'VmCapsuleDir = "/{"x" * 5000}"\n'),
        ('ClusterId = 1\nUserLog = "\x01"\n', "------\n------\n"),
        ('ClusterId = 1\nIwd = "/nowhere"\nUserLog = "x"\n', ""),
    ],
)
def test_no_ads_lose_a_job_that_has_ended(source: str, routed: str) -> None:
    undelivered(source, routed)


@given(anything, anything)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_bytes_in_place_of_the_two_ads_end_a_job(above: bytes, below: bytes) -> None:
    # No folder of this machine is a capsule, whatever is named.
    undelivered(above.decode(errors="surrogateescape"), below.decode(errors="surrogateescape"))


@pytest.mark.parametrize(
    "routed",
    [BAD, "[", "\n", "A = 1\n\nA = 2\n", "VmCapsuleDir = 7\n", 'VmCapsuleDir = "\udcff"'],
)
def test_a_cleanup_never_fails(routed: str) -> None:
    assert hook("cleanup", routed.encode(errors="surrogateescape")) == ""


@given(anything)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_nor_does_it_for_any_bytes(data: bytes) -> None:
    assert hook("cleanup", data) == ""


@pytest.mark.parametrize(
    ("name", "listed"), [("a b", True), ("café", True), ("a\nb", False), ("a\udcff", False)]
)
def test_a_name_that_an_ad_cannot_hold_does_not_undo_a_delivery(
    name: str, listed: bool, at_home: Path
) -> None:
    """A spooled job's outputs are listed for condor_transfer_data; without a list all are."""
    identity = {"ClusterId": "4", "ProcId": "2"}
    made = make_capsule(at_home / "scratch", make_job(at_home, **identity), {name: b"data"})
    source = f'ClusterId = 4\nProcId = 2\nIwd = "{at_home}"\nSUBMIT_Iwd = "/elsewhere"\n'
    ad, job_exit = finalize(f"{source}\n------\nVmCapsuleDir = {quote(str(made.folder))}\n")
    assert job_exit is not None and ad.integer("ExitCode") == 0
    expected: Optional[str] = name if listed else None
    assert ad.string("SpooledOutputFiles") == expected
    assert (at_home / name).read_bytes() == b"data"
