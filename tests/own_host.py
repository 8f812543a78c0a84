"""A host of a test's own: a network namespace that is one machine alone.

Run as a program by ``unshare --map-root-user --net --mount``, with a command to run there:
what it listens to, and who came, is then its standard output, as one JSON object.  Nothing
of it is reached from outside, and nothing outside from it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

REPOSITORY = Path(__file__).resolve().parents[1]
PORT = 7001
#: Its loopback, and an address beside it that a guest may reach.
LOOPBACK, LOOPBACK6, RESOLVER, OUTSIDE = "127.0.0.1", "::1", "127.0.0.53", "10.55.9.9"
#: The address that has the route to everywhere.
OWN = "10.55.0.1"
#: A name that its resolver knows, as OUTSIDE.
NAME = b"\x07outside\x04test\x00"
QUESTION = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + NAME + b"\0\1\0\1"

_SET_UP = f"""
ip link set lo up
ip link add up0 type veth peer name up1
ip addr add {OWN}/24 dev up0
ip link set up1 up
ip link set up0 up
ip route add default via 10.55.0.254
ip addr add {OUTSIDE}/32 dev lo
"""


class Visitors:
    """Who came to an address, by which protocol, and what they said."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def listen(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        streams = socket.socket(family, socket.SOCK_STREAM)
        streams.bind((address, PORT))
        streams.listen(256)
        packets = socket.socket(family, socket.SOCK_DGRAM)
        packets.bind((address, PORT))
        _behind(lambda: self._accept(streams, address))
        _behind(lambda: self._receive(packets, address))

    def _accept(self, streams: socket.socket, address: str) -> None:
        peer, _ = streams.accept()
        # Who came is known without a word of his: a frame alone may have brought him.
        self.seen.append([address, "tcp", ""])
        _behind(lambda: self._hear(peer, address))

    def _hear(self, peer: socket.socket, address: str) -> None:
        peer.settimeout(20)
        try:
            said = peer.recv(64)
        except OSError:
            said = b""
        self.seen.append([address, "tcp", said.decode(errors="replace")])
        peer.close()
        raise EOFError

    def _receive(self, packets: socket.socket, address: str) -> None:
        said, _ = packets.recvfrom(2048)
        self.seen.append([address, "udp", said.decode(errors="replace")])


def resolve(at: str) -> None:
    """Answer every question for `NAME`'s address."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((at, 53))

    def answer() -> None:
        question, peer = server.recvfrom(512)
        end = question.index(b"\0", 12) + 5
        kind = question[end - 4 : end - 2]
        known = question[12 : end - 4].lower() == NAME and kind == b"\0\1"
        head = question[:2] + b"\x81\x80\0\1" + (b"\0\1" if known else b"\0\0") + bytes(4)
        found = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(OUTSIDE)
        server.sendto(head + question[12:end] + (found if known else b""), peer)

    _behind(answer)


def _behind(turn: Callable[[], None]) -> None:
    def turns() -> None:
        try:
            while True:
                turn()
        except EOFError:
            return

    threading.Thread(target=turns, daemon=True).start()


def main(resolv_conf: str, command: list[str]) -> int:
    for line in _SET_UP.strip().splitlines():
        subprocess.run(line.split(), check=True)
    Path(resolv_conf).write_text(f"nameserver {RESOLVER}\n")
    subprocess.run(["mount", "--bind", resolv_conf, "/etc/resolv.conf"], check=True)
    visitors = Visitors()
    for address in (LOOPBACK, LOOPBACK6, OUTSIDE):
        visitors.listen(address)
    resolve(RESOLVER)
    # An address that was just given can be bound at once, a route takes a moment.
    time.sleep(1)
    done = subprocess.run(command, capture_output=True, text=True)
    result = {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    print(json.dumps({**result, "visitors": visitors.seen}))
    return 0


class Stay(NamedTuple):
    """What a command did on such a host, and who came to which of its addresses, how."""

    status: int
    stdout: str
    stderr: str
    visitors: tuple[tuple[str, str, str], ...]


def run_there(command: Sequence[object], folder: Path, **environment: str) -> Stay:
    """Run ``command`` in ``folder`` on a host of its own."""
    program = [sys.executable, __file__, folder / "resolv.conf", *command]
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", "--mount", "--", *map(str, program)],
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE, text=True, timeout=600, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    visitors = tuple((address, how, said) for address, how, said in found["visitors"])
    return Stay(found["status"], found["stdout"], found["stderr"], visitors)


def reason_against() -> str:
    """Why this user cannot have such a host here, or have a guest with a network on it."""
    tun = Path("/dev/net/tun")
    if not os.access(tun, os.R_OK | os.W_OK):
        return f"this user may not use {tun}"
    if shutil.which("pasta") is None:
        return "pasta is not installed"
    trial = ["unshare", "--map-root-user", "--net", "--mount", "true"]
    refused = subprocess.run(trial, capture_output=True, text=True)
    return refused.stderr.strip()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
