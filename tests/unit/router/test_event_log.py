"""The hooks' logs take what everybody's hooks tell, and nothing else from anybody."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import re
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.users import NOBODY, acting_as, another, open_way
from vmcapsule.cli.cli import main
from vmcapsule.router import event_log
from vmcapsule.router.event_log import (
    EXIT,
    TRANSLATE,
    WAITING_BYTES_MAX,
    EventLog,
    collect,
    lines_of,
    tell,
)

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
ALICE, BOB = NOBODY, another().pw_uid
NAME = {uid: pwd.getpwuid(uid).pw_name for uid in (ALICE, BOB)}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes others")


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """A log in a folder that is closed to other users, beside a scratch folder of all."""
    (tmp_path / "log").mkdir(mode=0o755)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch").chmod(0o1777)
    open_way(tmp_path / "scratch")
    return EventLog(EXIT, tmp_path / "log/VmCapsuleExitLog", tmp_path / "scratch")


def told(log: EventLog, uid: int, event: str, job: str = "4.0") -> None:
    with acting_as(uid):
        tell(log, job, event)


def collected(log: EventLog) -> list[str]:
    """What is in the log after root has been there, and all that root had to say."""
    said: list[str] = []
    collect(log, said.append)
    assert said == []
    return log.path.read_text().splitlines() if log.path.exists() else []


def test_who_may_writes_to_the_log_itself(log: EventLog) -> None:
    tell(log, "4.0", "delivered: exit code 3\nand\x1b[2J more")
    tell(log, "5.0", "removed")
    me = pwd.getpwuid(os.getuid()).pw_name
    first, second = log.path.read_text().splitlines()
    text = re.escape(" job 4.0: delivered: exit code 3 and\\x1b[2J more")
    assert re.fullmatch(STAMP + " " + me + text, first)
    assert second.endswith(f" {me} job 5.0: removed")
    assert log.path.stat().st_mode & 0o777 == 0o644
    assert list(log.scratch.iterdir()) == []


@needs_root
def test_what_an_owner_cannot_write_waits_for_root(log: EventLog) -> None:
    told(log, ALICE, "delivered: exit code 3")
    told(log, BOB, "not delivered", "5.0")
    assert not log.path.exists()
    assert log.waiting(ALICE).stat().st_mode & 0o777 == 0o600
    lines = sorted(collected(log), key=lambda line: line.split()[2] == NAME[BOB])
    assert re.fullmatch(f"{STAMP} {NAME[ALICE]} job 4.0: delivered: exit code 3", lines[0])
    assert re.fullmatch(f"{STAMP} {NAME[BOB]} job 5.0: not delivered", lines[1])
    told(log, ALICE, "removed")
    again = collected(log)
    assert len(again) == 3 and set(again[:2]) == set(lines)
    assert again[2].endswith(f" {NAME[ALICE]} job 4.0: removed")


@needs_root
def test_gc_brings_what_waits(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDOR_CONFIG", "ONLY_ENV")
    monkeypatch.setenv("_CONDOR_VM_CAPSULE_EXIT_LOG", str(log.path))
    monkeypatch.setenv("_CONDOR_VM_CAPSULE_SCRATCH_DIR_PREFIX", str(log.scratch))
    told(log, ALICE, "delivered")
    assert main(["gc"]) == 0
    assert log.path.read_text().endswith(f" {NAME[ALICE]} job 4.0: delivered\n")


@needs_root
def test_the_logs_do_not_mix(log: EventLog) -> None:
    other = log._replace(kind=TRANSLATE, path=log.path.with_name("VmCapsuleTransLog"))
    told(log, ALICE, "delivered")
    told(other, ALICE, "translated")
    assert [line.split()[-1] for line in collected(log)] == ["delivered"]
    assert [line.split()[-1] for line in collected(other)] == ["translated"]


@needs_root
def test_what_root_creates_is_as_the_folder_around_it(log: EventLog) -> None:
    os.chown(log.path.parent, BOB, BOB)
    told(log, ALICE, "delivered")
    collected(log)
    made = log.path.stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (BOB, BOB, 0o644)


@needs_root
def test_nobody_else_reads_changes_or_removes_what_waits(log: EventLog) -> None:
    told(log, ALICE, "delivered")
    with acting_as(BOB):
        for attempt in (Path.read_text, Path.unlink, Path.touch, lambda path: path.open("a")):
            with pytest.raises(PermissionError):
                attempt(log.waiting(ALICE))
    assert len(collected(log)) == 1


def a_fifo(log: EventLog) -> None:
    os.mkfifo(log.waiting(ALICE), 0o666)
    log.waiting(ALICE).chmod(0o666)


def a_folder(log: EventLog) -> None:
    (log.waiting(ALICE) / "full").mkdir(parents=True)


def a_file(log: EventLog) -> None:
    log.waiting(ALICE).write_text("bob's own\n")
    log.waiting(ALICE).chmod(0o666)


def a_link(log: EventLog) -> None:
    log.waiting(ALICE).symlink_to(log.scratch / "alices")


def another_name(log: EventLog) -> None:
    os.link(log.scratch / "alices", log.waiting(ALICE))


@needs_root
@pytest.mark.parametrize("squat", [a_fifo, a_folder, a_file, a_link, another_name])
def test_what_another_puts_in_an_owners_place(
    log: EventLog, squat: Callable[[EventLog], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is neither read nor emptied nor waited for, and only the first event is elsewhere."""
    alices = log.scratch / "alices"
    with acting_as(ALICE):
        alices.write_text("secret\n")
        # So that also this kernel lets another link to it.
        alices.chmod(0o666)
    with acting_as(BOB):
        squat(log)
    told(log, ALICE, "delivered")
    assert f"{NAME[ALICE]} job 4.0: delivered" in capsys.readouterr().err
    assert collected(log) == [] and not log.path.exists()
    assert alices.read_text() == "secret\n"
    told(log, ALICE, "removed")
    assert [line.split()[-1] for line in collected(log)] == ["removed"]
    assert capsys.readouterr().err == ""


@needs_root
def test_one_owner_neither_fills_the_log_nor_keeps_others_out(
    log: EventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    with acting_as(ALICE):
        log.waiting(ALICE).touch(0o600)
        os.truncate(log.waiting(ALICE), 1 << 40)
    told(log, ALICE, "delivered")
    said = capsys.readouterr().err
    assert "see that root runs 'vmcapsule gc'" in said
    assert f"{NAME[ALICE]} job 4.0: delivered" in said
    told(log, BOB, "delivered", "5.0")
    lines = collected(log)
    assert any(line.endswith(f"{NAME[BOB]} job 5.0: delivered") for line in lines)
    assert log.path.stat().st_size < 2 * WAITING_BYTES_MAX
    told(log, ALICE, "removed")
    assert collected(log)[-1].endswith("job 4.0: removed")


@needs_root
def test_root_does_not_wait_for_a_lock(log: EventLog) -> None:
    told(log, ALICE, "delivered")
    with log.waiting(ALICE).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        told(log, BOB, "delivered", "5.0")
        assert [line.split()[2:] for line in collected(log)] == [
            [NAME[BOB], "job", "5.0:", "delivered"]
        ]
    assert len(collected(log)) == 2


@needs_root
def test_what_cannot_be_logged_goes_on_waiting(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(log, ALICE, "delivered")
    log.path.mkdir()
    said: list[str] = []
    collect(log, said.append)
    assert said == [f"kept {log.waiting(ALICE)}: Is a directory"]
    log.path.rmdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", unable)
        collect(log, said.append)
    assert said[1:] == [f"kept {log.waiting(ALICE)}: Input/output error"]
    # Rather twice than not at all.
    assert [line.split()[-1] for line in collected(log)] == ["delivered"] * 2


def unable(fd: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@needs_root
def test_a_user_without_an_account_adds_nothing(log: EventLog) -> None:
    taken = {account.pw_uid for account in pwd.getpwall()}
    nobodys = next(uid for uid in range(54321, 1 << 16) if uid not in taken)
    told(log, nobodys, "delivered")
    assert log.waiting(nobodys).stat().st_size > 0
    assert collected(log) == []


@pytest.mark.parametrize("what", ["gone", "own"])
def test_where_nothing_can_wait_the_event_is_on_standard_error(
    log: EventLog, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody would come for it in a folder of one's own."""
    if what == "gone":
        log = log._replace(scratch=log.scratch / "no")
    elif os.geteuid() == 0:
        os.chown(log.scratch, ALICE, ALICE)
    log = log._replace(path=log.path.parent / "no/log")
    told(log, ALICE, "delivered")
    said = capsys.readouterr().err
    assert f"warning: cannot write the log '{log.path}': No such file or directory" in said
    assert "job 4.0: delivered\n" in said
    assert list(log.scratch.glob("*")) == []


def test_a_large_log_is_put_aside(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "LOG_BYTES_MAX", 300)
    for number in range(4):
        tell(log, f"{number}.0", "x" * 60)
    collect(log, pytest.fail)
    assert not log.path.exists()
    assert len(log.path.with_name("VmCapsuleExitLog.old").read_text().splitlines()) == 4
    tell(log, "5.0", "removed")
    assert len(collected(log)) == 1


HOSTILE = st.text(max_size=2000).map(lambda text: text.encode(errors="surrogatepass"))


@given(st.binary(max_size=2000) | HOSTILE)
@example(b"2026-01-01 00:00:00 root job 1.0: removed\n")
@example(b"\x1b[2J\r2026-01-01 00:00:00 root job 1.0: removed")
@example("a\u2028b\x85c\x0bd\udcff".encode(errors="surrogatepass"))
def test_no_line_can_be_taken_for_another_owners(data: bytes) -> None:
    made = lines_of(data, "alice").decode()
    for line in made.split("\n")[:-1]:
        assert re.match(rf"{STAMP} alice ", line, re.ASCII)
        assert line.isprintable()
    assert made == "" or made.endswith("\n")


@given(st.lists(st.text(max_size=200), max_size=5))
def test_what_a_hook_tells_comes_out_as_it_was_told(events: list[str]) -> None:
    stamp = "2026-11-24 13:36:17"
    lines = b"".join(event_log._line(stamp, "alice", f"job 4.0: {event}") for event in events)
    assert lines_of(lines, "alice") == lines


@pytest.mark.parametrize("data", [b"\n", b"x\n", b"\x01", b"\xf0\x9f\x98\x80 "])
def test_little_becomes_no_more_than_may_wait(data: bytes) -> None:
    made = lines_of((data * WAITING_BYTES_MAX)[: WAITING_BYTES_MAX + 1], "alice")
    assert len(made) <= WAITING_BYTES_MAX + 200
