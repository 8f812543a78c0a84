"""The guest's end of the live line, with a pair of sockets in place of its port."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Iterator

import pytest

from tests.unit.guest_place import load_guest
from tests.unit.starter import Starter
from vmcapsule import contract
from vmcapsule.slot.chirp import Contact, read_contact
from vmcapsule.slot.packed.links import Links, Proxy
from vmcapsule.slot.packed.live import Live
from vmcapsule.vm.line import Line

guest = load_guest()
HEAD = struct.Struct(">cI")
OUT = contract.LINE_STDOUT


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The host's end, and the guest's, which never blocks: that is how it opens its port."""
    host, port = socket.socketpair()
    port.setblocking(False)
    host.settimeout(20)
    with host, port:
        yield host, port


def frame(kind: bytes, data: bytes) -> bytes:
    return HEAD.pack(kind, len(data)) + data


def frames(data: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    while data:
        kind, length = HEAD.unpack_from(data)
        assert length <= contract.LINE_FRAME_BYTES_MAX
        found.append((kind, data[HEAD.size : HEAD.size + length]))
        data = data[HEAD.size + length :]
    return found


def read_until(host: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        data += host.recv(1 << 20)
    return data


def run(port: socket.socket, script: str, out: Path) -> int:
    """Run a job whose output goes into a file; return its wait status."""
    with out.open("wb") as stream:
        process = subprocess.Popen(["/bin/sh", "-c", script], stdout=stream)
    line = guest.Line(port.fileno())
    status, usage = guest.wait_with_line(process.pid, line, {contract.LINE_STDOUT: str(out)})
    process.returncode = status
    assert usage.ru_maxrss > 0
    return int(status)


def test_what_a_job_prints_is_sent_while_it_runs(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    host, port = ends
    go_on = tmp_path / "go-on"
    heard: list[bytes] = []

    def listen() -> None:
        # The job ends when its first line has been heard, and not before.
        heard.append(read_until(host, b"first\n"))
        go_on.touch()

    listener = threading.Thread(target=listen)
    listener.start()
    script = f"echo first; until [ -e {go_on} ]; do sleep 0.05; done; exit 3"
    assert run(port, script, tmp_path / "out") == 3 << 8
    listener.join()
    assert frames(heard[0]) == [(contract.LINE_BEGUN, b""), (contract.LINE_STDOUT, b"first\n")]


def test_signals_reach_the_job(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    host, port = ends
    told = frame(contract.LINE_SIGNAL, bytes([signal.SIGUSR1])) + frame(b"?", b"of tomorrow")
    # A number that no signal has is passed over, and so is what comes in two pieces.
    told += frame(contract.LINE_SIGNAL, bytes([200, signal.SIGTERM]))
    host.sendall(told[:3])

    def go_on() -> None:
        read_until(host, b"ready\n")
        host.sendall(told[3:])

    talker = threading.Thread(target=go_on)
    talker.start()
    script = (
        "trap 'echo one' USR1; trap 'echo two; exit 5' TERM; echo ready;"
        "while :; do sleep 0.05; done"
    )
    assert run(port, script, tmp_path / "out") == 5 << 8
    talker.join()
    assert (tmp_path / "out").read_text() == "ready\none\ntwo\n"


def test_a_host_that_does_not_listen_delays_nothing(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    host, port = ends
    out = tmp_path / "out"
    with out.open("wb") as stream:
        argv = ["/bin/sh", "-c", "head -c 9000000 /dev/zero; sleep 1.2; exit 4"]
        process = subprocess.Popen(argv, stdout=stream)
    line = guest.Line(port.fileno())
    process.returncode, _ = guest.wait_with_line(process.pid, line, {OUT: str(out)})
    assert process.returncode == 4 << 8
    assert out.stat().st_size == 9000000
    # Nor is what it could not be sent piled up.
    assert len(line.unsent) <= contract.LINE_FRAME_BYTES_MAX


def test_a_slow_client_gets_all_in_order(ends: tuple[socket.socket, socket.socket]) -> None:
    host, port = ends
    proxy = guest.Proxy(guest.Line(port.fileno()))
    parts = [bytes([number]) * 60_000 for number in range(100)]
    with socket.create_connection(proxy.listener.getsockname()) as client:
        proxy.accept()
        for part in parts:
            proxy.take(contract.LINE_DATA, b"\0" + part)
        proxy.take(contract.LINE_CLOSE, b"\0")
        got = b""
        while more := client.recv(1 << 20):
            got += more
            proxy.look(set(proxy.wanted()))
    assert got == b"".join(parts)
    assert proxy.clients == {}
    proxy.listener.close()


def test_a_host_that_has_gone_delays_nothing(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    host, port = ends
    host.close()
    assert run(port, "echo said; sleep 0.7; exit 6", tmp_path / "out") == 6 << 8


ASKS = """\
import os, socket
host, port, cookie = open(".chirp.config").read().split()
with socket.create_connection((host, int(port))) as link, link.makefile("rwb") as both:
    for request in (f"cookie {cookie}", "set_job_attr_delayed ChirpStep 7", "get_job_attr Cmd"):
        both.write(request.encode() + b"\\n")
        both.flush()
        print(both.readline())
"""


@pytest.mark.parametrize("delayed_only", [False, True])
def test_a_jobs_chirp_is_its_starters(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path, delayed_only: bool
) -> None:
    # Both ends of the line at once: the host's has one socket for its pipes.
    host, port = ends
    host.setblocking(False)
    starter = Starter()
    contact = read_contact(starter.write_contact(tmp_path))
    live = Live(
        Line(tmp_path, host.fileno(), host.fileno()),
        {},
        Links(Proxy(Path(), contact, delayed_only)),
    )
    line = guest.Line(port.fileno())
    proxy = guest.Proxy(line)
    (tmp_path / ".chirp.config").write_text(proxy.contact(contact.cookie))
    (tmp_path / "job.py").write_text(ASKS)
    with live.listening(), (tmp_path / "out").open("wb") as out:
        job = subprocess.Popen([sys.executable, "job.py"], cwd=tmp_path, stdout=out)
        job.returncode, _ = guest.wait_with_line(job.pid, line, {}, [proxy])
    starter.thread.join(20)
    starter.close()
    assert job.returncode == 0
    assert starter.attributes == {"ChirpStep": 7}
    # What the job has not asked for the starter would refuse by itself, if our program had not.
    last = b"-8\n" if delayed_only else b"0\n"
    said = (tmp_path / "out").read_text().splitlines()
    assert said == [repr(answer) for answer in (b"0\n", b"0\n", last)]


def test_a_job_that_asks_where_nobody_listens_is_told_so(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    host, port = ends
    host.setblocking(False)
    live = Live(Line(tmp_path, host.fileno(), host.fileno()), {}, Links(None))
    line = guest.Line(port.fileno())
    proxy = guest.Proxy(line)
    with live.listening():
        # More than there can be at once: each is closed by the other end, and has its turn.
        address = proxy.listener.getsockname()
        ask = f"[print(socket.create_connection({address}).recv(9)) for n in range(20)]"
        argv = [sys.executable, "-c", f"import socket; {ask}"]
        with (tmp_path / "out").open("wb") as out:
            job = subprocess.Popen(argv, stdout=out)
            job.returncode, _ = guest.wait_with_line(job.pid, line, {}, [proxy])
    assert job.returncode == 0
    assert (tmp_path / "out").read_text() == "b''\n" * 20


def test_more_connections_than_there_can_be_are_no_failure(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    host, port = ends
    host.setblocking(False)
    with socket.create_server(("127.0.0.1", 0), backlog=50) as starter:
        there = Proxy(Path(), Contact(*starter.getsockname()[:2], "cookie"))
        live = Live(Line(tmp_path, host.fileno(), host.fileno()), {}, Links(there))
        line = guest.Line(port.fileno())
        proxy = guest.Proxy(line)
        counts: list[int] = []
        accept = proxy.accept
        proxy.accept = lambda: (accept(), counts.append(len(proxy.clients)))
        address = proxy.listener.getsockname()
        ask = f"[socket.create_connection({address}) for n in range(20)]"
        argv = [sys.executable, "-c", f"import socket, time; at = {ask}; time.sleep(0.7)"]
        with live.listening():
            job = subprocess.Popen(argv)
            job.returncode, _ = guest.wait_with_line(job.pid, line, {}, [proxy])
        assert job.returncode == 0
        assert max(counts) == contract.LINE_LINKS_MAX


@pytest.mark.parametrize("instead", ["mkfifo", "ln -s /etc/passwd", "mkdir", "true"])
def test_a_job_that_puts_something_else_in_its_streams_place_is_no_failure(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path, instead: str
) -> None:
    host, port = ends
    out = tmp_path / "out"
    out.touch()
    subprocess.run(["/bin/sh", "-c", f"rm {out}; {instead} {out}"], check=True)
    process = subprocess.Popen(["/bin/sh", "-c", "sleep 0.6; exit 2"])
    line = guest.Line(port.fileno())
    status, _ = guest.wait_with_line(process.pid, line, {contract.LINE_STDOUT: str(out)})
    process.returncode = status
    assert status == 2 << 8
    assert frames(host.recv(1000)) == [(contract.LINE_BEGUN, b"")]


def test_a_machine_has_its_line_by_the_ports_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert guest.open_line(str(tmp_path / "none")) is None
    for number, name in enumerate(["org.qemu.guest_agent.0", contract.LINE_PORT]):
        (tmp_path / f"vport0p{number}").mkdir()
        (tmp_path / f"vport0p{number}" / "name").write_text(name + "\n")
    opened: list[str] = []
    monkeypatch.setattr(os, "open", lambda path, flags: opened.append(path) or 77)
    assert guest.open_line(str(tmp_path)).fd == 77
    assert opened == ["/dev/vport0p1"]
