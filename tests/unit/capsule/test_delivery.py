"""A delivery may be killed anywhere: whoever finds the capsule next makes it whole."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from tests.unit.returned import make_capsule, make_job, put_redo_log
from tests.unit.users import acting_as, give
from vmcapsule.capsule import delivery, making, packing
from vmcapsule.capsule.record import (
    HANDED_BACK,
    ISOLATION,
    RETURNED,
    UNREPORTED_SIGNAL,
    WANTED,
    Capsule,
)
from vmcapsule.capsule.states import LEFT_OVER, State
from vmcapsule.classad.ads import parse_ad, quote
from vmcapsule.errors import DeliveryError, GuestError, OutputBlocked, OutputMissing, UsageError
from vmcapsule.job.source import SourceJob
from vmcapsule.router import job_queue
from vmcapsule.router.cleanup import cleanup, settle
from vmcapsule.router.finalize import finalize, undelivered

OUTPUTS = {f"out{number}": bytes([number]) * 70_000 for number in range(1, 5)}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


def job_of(home: Path, **more: str) -> dict[str, str]:
    return {"ClusterId": "4", "ProcId": "2", "GlobalJobId": '"host#4.2#1"', **more}


@pytest.fixture
def made(tmp_path: Path, home: Path) -> Capsule:
    return make_capsule(tmp_path / "scratch", make_job(home, **job_of(home)), OUTPUTS)


def killed_at(number: int, name: str, work: Callable[[], object]) -> None:
    """Do ``work`` in a process that SIGKILLs itself at the ``number``-th os.``name``."""
    child = os.fork()
    if child == 0:
        calls = 0
        real = getattr(os, name)

        def deadly(*arguments: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)

        setattr(os, name, deadly)
        try:
            work()
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def found(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.iterdir()}


def hook_input(home: Path, made: Capsule, more: str = "") -> str:
    source = "\n".join(f"{k} = {v}" for k, v in job_of(home).items())
    iwd = f'Iwd = "{home}"\nCmd = "/bin/true"\n{more}'
    return f"{source}\n{iwd}\n------\nVmCapsuleDir = {quote(str(made.folder))}\n"


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("copy_file_range", 1),
        ("copy_file_range", 3),
        ("replace", 1),
        ("replace", 3),
        ("replace", 4),
    ],
)
def test_a_killed_delivery_is_finished_by_cleanup(
    call: str, number: int, made: Capsule, home: Path
) -> None:
    killed_at(number, call, lambda: delivery.deliver_from(made, delivery.job_of(made)))
    assert len([name for name in found(home) if name.startswith(".vmcapsule-")]) > 0 or (
        call == "replace" and number == 5
    )
    _, event = cleanup(f"VmCapsuleDir = {quote(str(made.folder))}\nJobStatus = 4\n")
    assert "finished its delivery" in event
    assert found(home) == OUTPUTS
    assert not made.folder.exists()


def test_a_delivery_is_not_repeated_by_finalize(made: Capsule, home: Path) -> None:
    first, _ = finalize(hook_input(home, made))
    assert found(home) == OUTPUTS
    (home / "out1").write_bytes(b"the user's next step was here")
    again, _ = finalize(hook_input(home, made))
    assert (home / "out1").read_bytes() == b"the user's next step was here"
    assert first == again and first.integer("ExitCode") == 0


def test_memory_in_the_sources_ad_is_the_jobs_and_not_its_machines(
    made: Capsule, home: Path
) -> None:
    ad, _ = finalize(hook_input(home, made))
    mirrored = parse_ad("MemoryUsage = 464\nResidentSetSize = 475136\n")
    told = mirrored.with_({name: ad.expr(name) for name in mirrored.names})
    assert (told.integer("MemoryUsage"), told.integer("ResidentSetSize")) == (1, 1024)


def test_what_came_back_as_a_redo_log_is_delivered(made: Capsule, home: Path) -> None:
    log = put_redo_log(made, made.folder / RETURNED)
    ad, _ = finalize(hook_input(home, made))
    assert ad.integer("ExitCode") == 0 and found(home) == OUTPUTS
    assert log.exists() and made.data_disk.stat().st_size < log.stat().st_size


def test_a_redo_log_of_an_earlier_run_is_not_read(made: Capsule, home: Path) -> None:
    put_redo_log(made, made.folder / RETURNED)
    (made.folder / RETURNED / HANDED_BACK).touch()
    with pytest.raises(GuestError):
        finalize(hook_input(home, made))
    assert found(home) == {}


@pytest.mark.parametrize(
    ("said", "expected"),
    [(b"kvm", "kvm"), (b"tcg", "tcg"), (b"kvm\n", None), (b"tcg" * 99, None), (None, None)],
)
def test_what_isolated_the_guest_is_in_the_sources_ad(
    made: Capsule, home: Path, said: Optional[bytes], expected: Optional[str]
) -> None:
    if said is not None:
        (made.folder / RETURNED).mkdir()
        (made.folder / RETURNED / ISOLATION).write_bytes(said)
    ad, _ = finalize(hook_input(home, made))
    assert ad.string("VmCapsuleIsolation") == expected


@pytest.mark.parametrize(
    ("missing", "unsent", "said"),
    [
        (("a", "b/"), (), "did not leave 'a', 'b/', which transfer_output_files names"),
        (
            tuple("abcdef"),
            (),
            "did not leave 'a', 'b', 'c' and 4 more, which transfer_output_files",
        ),
        (
            (),
            (("s", errno.EACCES),),
            "left 's', which cannot be sent: its user may not read it",
        ),
        ((), (("l", errno.EISDIR),), "left 'l', which cannot be sent: it links to a folder"),
        (
            (),
            tuple((name, errno.EISDIR) for name in "stuv"),
            "left 'u', which cannot be sent: it links to a folder and left 2 more that cannot",
        ),
        (("a",), (("s", errno.EIO),), "names and left 's', which cannot be sent: Input/output"),
    ],
)
def test_what_did_not_come_is_named_with_the_reason(
    missing: Any, unsent: Any, said: str, made: Capsule
) -> None:
    job_exit = delivery.exit_of(made)
    delivery.check_missing(job_exit)
    with pytest.raises(OutputMissing, match=said):
        delivery.check_missing(
            job_exit._replace(
                missing_outputs=missing,
                missing_count=len(missing) + (len(missing) > 3),
                unsent_outputs=unsent,
                unsent_count=len(unsent) + (len(unsent) > 3),
            )
        )


def test_finalize_after_cleanup_says_that_all_is_done(made: Capsule, home: Path) -> None:
    first, _ = finalize(hook_input(home, made))
    making.remove(made.folder)
    repeated, how = finalize(hook_input(home, made, "VmCapsuleDelivered = true\n"))
    assert how is None and first.boolean("VmCapsuleDelivered") is True
    assert "ExitCode" not in repeated, "what the first one said stays"


def test_a_spooled_job_is_told_what_to_fetch(made: Capsule, home: Path) -> None:
    ordinary, _ = finalize(hook_input(home, made))
    assert ordinary.value("SpooledOutputFiles") is None and "SpooledOutputFiles" in ordinary
    spooled, _ = finalize(hook_input(home, made, 'SUBMIT_Iwd = "/elsewhere"\n'))
    assert spooled.string("SpooledOutputFiles") == "out1,out2,out3,out4"
    making.remove(made.folder)
    before = (
        f"VmCapsuleDelivered = true\nVmCapsuleOutputs = {spooled.expr('VmCapsuleOutputs')}\n"
    )
    repeated, _ = finalize(hook_input(home, made, before))
    assert repeated.string("SpooledOutputFiles") == "out1,out2,out3,out4"


def test_a_failed_delivery_leaves_it_made_and_can_be_repeated(
    made: Capsule, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(DeliveryError, match="may not all be on disk: Input/output error"):
            delivery.deliver_from(made, delivery.job_of(made))
    assert found_files(home) == []
    assert made.state is State.MADE
    delivery.deliver_from(made, delivery.job_of(made))
    assert found(home) == OUTPUTS


def test_an_output_whose_folder_cannot_be_made_is_delivered_later(
    made: Capsule, home: Path
) -> None:
    blocker, elsewhere = home / "blocker", remapped(home)
    blocker.touch()
    with pytest.raises(OutputBlocked, match="blocker' is no folder"):
        delivery.deliver_from(made, elsewhere)
    assert found_files(home) == [blocker, *(home / name for name in ("out1", "out2", "out4"))]
    blocker.unlink()
    _, outputs = delivery.deliver_from(made, elsewhere)
    assert outputs == (str(blocker / "out3"),) and made.state is State.DELIVERED


def remapped(home: Path) -> SourceJob:
    """The job, with an output that cannot be put where a file is in place of its folder."""
    return make_job(home, **job_of(home), TransferOutputRemaps='"out3=blocker/out3"')


def test_an_output_with_something_in_its_way_is_delivered_later_and_no_other_again(
    made: Capsule, home: Path
) -> None:
    (home / "out3").mkdir()
    for _ in range(2):
        with pytest.raises(OutputBlocked, match=r"'out3' \('.*/out3' is a folder\); move"):
            delivery.deliver_from(made, delivery.job_of(made))
        assert made.state is State.LEFT_OVER
    assert found_files(home) == [home / name for name in ("out1", "out2", "out4")]
    (home / "out1").write_bytes(b"the user's next step was here")
    (home / "out3").rmdir()
    _, outputs = delivery.deliver_from(made, delivery.job_of(made))
    assert outputs == (str(home / "out3"),) and made.state is State.DELIVERED
    assert found(home) == {**OUTPUTS, "out1": b"the user's next step was here"}


@pytest.mark.parametrize("written", [b"", b'"out1"', b"[" * 100_000, b'["out'])
def test_a_list_of_what_is_left_over_that_cannot_be_read_is_told(
    made: Capsule, home: Path, written: bytes
) -> None:
    (home / "out3").mkdir()
    with pytest.raises(OutputBlocked):
        delivery.deliver_from(made, delivery.job_of(made))
    (made.folder / LEFT_OVER).write_bytes(written)
    with pytest.raises(UsageError, match="which outputs are left over: .* --again"):
        delivery.deliver_from(made, delivery.job_of(made))
    assert made.state is State.LEFT_OVER


def test_an_undelivered_output_keeps_the_capsule_of_a_job_that_ended(
    made: Capsule, home: Path
) -> None:
    (home / "out3").mkdir()
    with pytest.raises(OutputBlocked) as caught:
        finalize(hook_input(home, made))
    told = undelivered(hook_input(home, made), caught.value)
    assert (told.integer("ExitCode"), told.boolean("VmCapsuleDelivered")) == (74, False)
    assert "'vmcapsule extract'" in (told.string("ExitReason") or "")
    settled = settle(made, lambda _: job_queue.COMPLETED)
    assert "not delivered" in settled and made.folder.exists()


def test_what_is_in_the_way_of_listed_outputs_is_in_the_way_of_their_likes(
    tmp_path: Path, home: Path
) -> None:
    (home / "folder").mkdir()
    (home / "plain").touch()
    (home / "closed").touch(0o444)
    (home / "other").touch(0o444)
    job = make_job(
        home,
        TransferOutput='"new, folder, plain, deep/closed, moved, folder/in, ./"',
        TransferOutputRemaps='"moved=other"',
    )
    give(tmp_path)
    with acting_as():
        packing.put_obstacles(job, tmp_path)
    wanted = tmp_path / WANTED
    likes = {str(path.relative_to(wanted)): path for path in wanted.rglob("*")}
    assert sorted(likes) == ["deep", "deep/closed", "folder", "moved"]
    assert likes["folder"].is_dir()
    assert [likes[n].stat().st_mode & 0o777 for n in ("deep/closed", "moved")] == [0o444] * 2


def test_one_obstacle_where_another_should_lie_is_enough(tmp_path: Path, home: Path) -> None:
    for name in ("a", "b"):
        (home / name).touch(0o444)
    give(tmp_path)
    with acting_as():
        packing.put_obstacles(make_job(home, TransferOutput='"a, a/b"'), tmp_path)
    assert (tmp_path / WANTED / "a").is_file()


def test_of_many_outputs_with_something_in_their_way_a_few_are_named() -> None:
    with pytest.raises(OutputBlocked, match=r"'2' \(why\) and 4 more; move"):
        delivery.check_left_over({str(number): "why" for number in range(7)})


def test_what_a_killed_delivery_left_goes_also_when_the_next_one_fails(
    made: Capsule, home: Path
) -> None:
    killed_at(4, "copy_file_range", lambda: delivery.deliver_from(made, delivery.job_of(made)))
    assert len(found_files(home)) == 4
    blocker = home / "blocker"
    blocker.touch()
    with pytest.raises(OutputBlocked, match="blocker"):
        delivery.deliver_from(made, remapped(home))
    assert found_files(home) == [blocker, *(home / name for name in ("out1", "out2", "out4"))]


@pytest.mark.parametrize(
    "held",
    [
        # For an output that is not there; by on_exit_hold; the latter, removed since.
        "JobStatus = 5\nHoldReasonCode = 12\n",
        "JobStatus = 5\nHoldReasonCode = 3\nExitBySignal = false\nExitCode = 3\n",
        "JobStatus = 3\nLastHoldReasonCode = 3\nExitBySignal = true\nExitSignal = 9\n",
    ],
)
def test_what_there_is_is_delivered_of_a_job_that_is_held_after_its_run(
    made: Capsule, home: Path, held: str
) -> None:
    _, event = cleanup(f"VmCapsuleDir = {quote(str(made.folder))}\n{held}")
    assert "finished its delivery" in event
    assert found(home) == OUTPUTS and not made.folder.exists()


@pytest.mark.parametrize(
    "held",
    [
        "JobStatus = 5\nHoldReasonCode = 1\nExitBySignal = false\nExitCode = 3\n",
        # The guest did not report: what is there is of an earlier run.
        "JobStatus = 5\nHoldReasonCode = 3\nExitBySignal = true\n"
        f"ExitSignal = {UNREPORTED_SIGNAL}\n",
    ],
)
def test_nothing_is_delivered_of_a_job_that_is_held_otherwise(
    made: Capsule, home: Path, held: str
) -> None:
    _, event = cleanup(f"VmCapsuleDir = {quote(str(made.folder))}\n{held}")
    assert "did not end" in event
    assert found_files(home) == []


def test_what_was_in_an_outputs_way_keeps_the_capsule_of_a_held_job(
    made: Capsule, home: Path
) -> None:
    (home / "out3").mkdir()
    held = "JobStatus = 5\nHoldReasonCode = 12\n"
    _, event = cleanup(f"VmCapsuleDir = {quote(str(made.folder))}\n{held}")
    assert event.startswith("kept") and "out3" in event
    assert found_files(home) == [home / name for name in ("out1", "out2", "out4")]
    (home / "out3").rmdir()
    delivery.deliver_from(made, delivery.job_of(made))
    assert found(home) == OUTPUTS


def test_a_closed_file_keeps_only_its_own_output_of_a_held_job_back(
    made: Capsule, home: Path, tmp_path: Path
) -> None:
    (home / "out3").write_bytes(b"old")
    (home / "out3").chmod(0o444)
    give(tmp_path)
    with acting_as():
        held = "JobStatus = 5\nHoldReasonCode = 12\n"
        _, event = cleanup(f"VmCapsuleDir = {quote(str(made.folder))}\n{held}")
    assert event.startswith("kept") and "out3' is closed to writing" in event
    assert found(home) == {**OUTPUTS, "out3": b"old"}


def found_files(home: Path) -> list[Path]:
    return sorted(path for path in home.iterdir() if path.is_file())
