"""The host's end of a line, whatever a guest says on it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule import contract
from vmcapsule.slot.chirp import Contact
from vmcapsule.slot.packed.links import Frames, Links, Proxy
from vmcapsule.slot.packed.live import Live, Stream
from vmcapsule.vm import line
from vmcapsule.vm.line import Line

HEAD = struct.Struct(">cI")
OUT, ERR = contract.LINE_STDOUT, contract.LINE_STDERR


def frame(kind: bytes, data: bytes = b"") -> bytes:
    return HEAD.pack(kind, len(data)) + data


@contextlib.contextmanager
def streams(folder: Path) -> Iterator[dict[bytes, Stream]]:
    with (folder / "out").open("ab") as out, (folder / "err").open("ab") as err:
        yield {OUT: Stream(out.fileno()), ERR: Stream(err.fileno())}


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Line]:
    with line.made(tmp_path / "line") as made:
        yield made


@pytest.fixture
def live(ours: Line, tmp_path: Path) -> Iterator[Live]:
    with streams(tmp_path) as found:
        yield Live(ours, found, Links(None))


def guest_says(ours: Line, data: bytes) -> None:
    """Say something, and wait while the pipe is full."""
    while data:
        with contextlib.suppress(BlockingIOError):
            data = data[os.write(ours.out_of, data) :]


def heard_by_guest(ours: Line) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(ours.into, 1 << 20)
    return b""


def until(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_what_the_job_prints_is_where_its_output_goes(
    live: Live, ours: Line, tmp_path: Path
) -> None:
    said = frame(contract.LINE_BEGUN) + frame(OUT, b"one\n") + frame(b"?", b"of tomorrow")
    said += frame(ERR, b"error\n") + frame(OUT, b"two\n")
    with live.listening():
        guest_says(ours, said[:-3])
        until(lambda: (tmp_path / "err").read_bytes() == b"error\n")
        assert (tmp_path / "out").read_bytes() == b"one\n"
        guest_says(ours, said[-3:])
    # In the end all that came has been taken.
    assert (tmp_path / "out").read_bytes() == b"one\ntwo\n"


def test_signals_are_the_jobs_once_it_runs(live: Live, ours: Line) -> None:
    with live.listening():
        assert not live.send_signal(signal.SIGTERM)
        assert heard_by_guest(ours) == b""
        guest_says(ours, frame(contract.LINE_BEGUN))
        until(lambda: live.send_signal(signal.SIGTERM))
    assert heard_by_guest(ours) == frame(contract.LINE_SIGNAL, bytes([signal.SIGTERM]))
    # As with a job that has ended: it is too late, and no reason to end otherwise.
    assert live.send_signal(signal.SIGTERM)


def test_a_guest_that_takes_no_signals_is_not_waited_for(live: Live, ours: Line) -> None:
    with live.listening():
        guest_says(ours, frame(contract.LINE_BEGUN))
        until(lambda: live.send_signal(signal.SIGUSR1))
        assert all(live.send_signal(signal.SIGUSR1) for _ in range(200_000))
        heard = b""
        while select.select([ours.into], [], [], 0.5)[0]:
            heard += heard_by_guest(ours)
    one = frame(contract.LINE_SIGNAL, bytes([signal.SIGUSR1]))
    # Of more than a megabyte.
    assert heard == one * (len(heard) // len(one)) and len(heard) < 400_000


def test_a_guest_that_asks_and_does_not_listen_is_not_listened_to(ours: Line) -> None:
    with socket.create_server(("127.0.0.1", 0)) as starter:
        there = Contact(*starter.getsockname()[:2], "cookie")
        live = Live(ours, {}, Links(Proxy(Path(), there, delayed_only=True)))
        with live.listening():
            guest_says(ours, frame(contract.LINE_OPEN, b"\0"))
            # Each line is answered by three bytes.
            asked = frame(contract.LINE_DATA, b"\0" + b"\n" * 60_000)
            sent = 0
            for _ in range(200):
                with contextlib.suppress(BlockingIOError):
                    sent += os.write(ours.out_of, asked[sent % len(asked) :])
                time.sleep(0.01)
            assert sent < 25 * len(asked)
            # It goes on when the guest does.
            heard = 0
            while select.select([ours.into], [], [], 1)[0]:
                heard += len(heard_by_guest(ours))
            # All the whole frames, with 6 bytes before the answers to each.
            assert heard == sent // len(asked) * (3 * 60_000 + 6) > 0


class Failing(Links):
    """A talker with a fault in it."""

    def take(self, kind: bytes, data: bytes) -> Frames:
        raise KeyError(kind)
        yield kind, data


def test_a_talker_that_fails_is_let_go_and_the_rest_goes_on(
    ours: Line, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with streams(tmp_path) as found:
        live = Live(ours, found, Failing(None), Links(None))
        with live.listening():
            guest_says(ours, frame(contract.LINE_BEGUN) + frame(OUT, b"said\n"))
            until(lambda: (tmp_path / "out").read_bytes() == b"said\n")
            until(lambda: live.send_signal(signal.SIGTERM))
    assert heard_by_guest(ours) == frame(contract.LINE_SIGNAL, bytes([signal.SIGTERM]))
    assert capfd.readouterr().err == "vmcapsule: warning: KeyError: b'b'\n"


def test_a_stream_that_cannot_be_written_is_no_end_of_the_line(
    ours: Line, tmp_path: Path
) -> None:
    with Path("/dev/full").open("wb") as full, (tmp_path / "err").open("ab") as err:
        found = {OUT: Stream(full.fileno()), ERR: Stream(err.fileno())}
        with Live(ours, found, Links(None)).listening():
            guest_says(ours, frame(OUT, b"x") + frame(ERR, b"y"))
    assert (found[OUT].count, found[ERR].count) == (0, 1)


@pytest.mark.parametrize("length", [contract.LINE_FRAME_BYTES_MAX + 1, (1 << 32) - 1])
def test_a_frame_that_is_too_long_is_the_last(
    live: Live, ours: Line, tmp_path: Path, length: int
) -> None:
    with live.listening():
        guest_says(ours, frame(OUT, b"before\n"))
        said = HEAD.pack(OUT, length) + b"x" * min(length, 200_000) + frame(OUT, b"after\n")
        for _ in range(50):
            with contextlib.suppress(BlockingIOError):
                said = said[os.write(ours.out_of, said) :] if said else said
            time.sleep(0.01)
    assert (tmp_path / "out").read_bytes() == b"before\n"


@given(st.lists(st.binary(max_size=300), max_size=12))
def test_whatever_is_said_goes_nowhere_else(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("said")
    with line.made(folder / "line") as ours, streams(folder) as found:
        with Live(ours, found, Links(None)).listening():
            for part in filter(None, parts):
                os.write(ours.out_of, part)
        said = b"".join(parts)
        assert (folder / "out").stat().st_size + (folder / "err").stat().st_size <= len(said)
        assert {path.name for path in folder.iterdir()} == {"out", "err", "line.in", "line.out"}


@given(st.lists(st.tuples(st.sampled_from([OUT, ERR]), st.binary(max_size=70_000)), max_size=9))
def test_all_that_is_said_comes_in_order(
    tmp_path_factory: pytest.TempPathFactory, told: list[tuple[bytes, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("told")
    told = [(kind, data[: contract.LINE_FRAME_BYTES_MAX]) for kind, data in told]
    with line.made(folder / "line") as ours, streams(folder) as found:
        with Live(ours, found, Links(None)).listening():
            for kind, data in told:
                guest_says(ours, frame(kind, data))
    for name, kind in (("out", OUT), ("err", ERR)):
        expected = b"".join(data for one, data in told if one == kind)
        assert (folder / name).read_bytes() == expected
