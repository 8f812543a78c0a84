"""What a running job uses, as the guest looks at it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from tests.unit.guest_place import load_guest
from vmcapsule import contract

guest = load_guest()
#: No file's owner, and nobody's but this test's.
JOBS = 54321
REPORT = struct.Struct(">5Q")
HUNGRY = """\
import time
kept = bytearray(80 << 20)
end_s = time.process_time() + 0.3
while time.process_time() < end_s:
    pass
print("ready", flush=True)
input()
"""


class Ends:
    """A line, and what it carries."""

    def __init__(self) -> None:
        self.host, self.port = socket.socketpair()
        self.port.setblocking(False)
        self.host.setblocking(False)
        self.line = guest.Line(self.port.fileno())

    def report(self) -> tuple[int, ...]:
        data = self.host.recv(4096)
        assert data[:5] == contract.LINE_USAGE + REPORT.size.to_bytes(4, "big")
        return REPORT.unpack(data[5:])


def look(usage: object) -> None:
    usage.look_at_s = 0.0  # type: ignore[attr-defined]
    usage.look(set())  # type: ignore[attr-defined]


@pytest.mark.skipif(os.getuid() != 0, reason="only root starts processes of another user")
def test_all_processes_of_the_jobs_user_and_its_sandbox_count(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    ends = Ends()
    usage = guest.Usage(ends.line, JOBS, str(tmp_path))
    usage.look(set())
    assert ends.line.unsent == b"", "it is not time yet"
    look(usage)
    assert ends.report()[:4] == (0, 0, 0, 0), "nobody runs as that user"
    hungry = subprocess.Popen(
        ["/usr/bin/python3", "-c", HUNGRY],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=JOBS, cwd="/",
    )  # fmt: skip
    with hungry:
        assert hungry.stdout is not None and hungry.stdin is not None
        assert hungry.stdout.readline() == b"ready\n"
        look(usage)
        hungry.stdin.write(b"\n")
    user_ms, system_ms, resident_kib, image_kib, disk_kib = ends.report()
    assert user_ms + system_ms >= 250
    assert resident_kib > 70 << 10 and image_kib >= resident_kib
    assert 1024 <= disk_kib < 2048
    look(usage)
    # At the most so far.
    assert ends.report()[2:4] == (resident_kib, image_kib)


def test_a_host_that_does_not_listen_is_told_nothing_more(tmp_path: Path) -> None:
    ends = Ends()
    usage = guest.Usage(ends.line, os.getuid(), str(tmp_path))
    ends.line.unsent = b"waits"
    look(usage)
    assert ends.line.unsent == b"waits"
    assert usage.resident_kib > 0, "it looks all the same"


def test_a_large_sandbox_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        (tmp_path / str(number)).write_bytes(bytes(4096))
    # A step is one file then.
    monkeypatch.setattr(guest, "DISK_STEP_S", -1.0)
    ends = Ends()
    usage = guest.Usage(ends.line, os.getuid(), str(tmp_path))
    looks = 0
    while usage.walk is not None or looks == 0:
        usage.look(set())
        looks += 1
        assert looks < 1000
    assert looks > 100 and 400 <= usage.disk_kib < 500


def test_a_large_sandbox_is_seldom_looked_at(tmp_path: Path) -> None:
    ends = Ends()
    usage = guest.Usage(ends.line, os.getuid(), str(tmp_path))
    look(usage)
    first = ends.report()[4]
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    look(usage)
    assert ends.report()[4] == first
    usage.disk_at_s = 0.0
    look(usage)
    assert ends.report()[4] > first
