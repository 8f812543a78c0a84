"""A guest's card without a guest: what it sends goes into the network that QEMU makes.

Run as a program where `tests.own_host` is the host: tries every address that its loopback
could have, and prints what the name server answered.
"""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator

from tests.own_host import LOOPBACK, LOOPBACK6, OUTSIDE, OWN, PORT, QUESTION, RESOLVER
from tests.unit.vm import frames
from vmcapsule import process
from vmcapsule.vm.confinement import SANDBOX, confined

#: QEMU's own net: its gateway, its name server, and all that are nobody.
NET = [f"10.0.2.{number}" for number in range(1, 255)]
NET6 = ["fec0::2", "fec0::3", "fe80::2"]
NAME_SERVER = "10.0.2.3"
_ANSWER_S = 20


@contextlib.contextmanager
def plugged_in() -> Iterator[socket.socket]:
    """A socket whose datagrams are frames; the machine behind it runs nothing."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        card = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        card.bind(f"{folder}/card")
        ends = f"local.type=unix,local.path={folder}/qemu"
        ends += f",remote.type=unix,remote.path={folder}/card"
        argv = [
            process.find("qemu-system-x86_64"), "-nodefaults", "-machine", "none",
            "-display", "none", *SANDBOX,
            "-netdev", "user,id=net", "-netdev", "hubport,id=one,hubid=0,netdev=net",
            "-netdev", f"dgram,id=card,{ends}", "-netdev", "hubport,id=two,hubid=0,netdev=card",
        ]  # fmt: skip
        qemu = subprocess.Popen(confined(argv, network=True))
        stack.callback(qemu.wait)
        stack.callback(qemu.kill)
        while not Path(f"{folder}/qemu").exists():
            if qemu.poll() is not None:
                raise SystemExit(f"QEMU ended with status {qemu.returncode}")
            time.sleep(0.02)
        card.connect(f"{folder}/qemu")
        yield card


def answers(card: socket.socket, wait_s: float) -> Iterator[bytes]:
    """What comes back until nothing more does for ``wait_s`` seconds."""
    while select.select([card], [], [], wait_s)[0]:
        yield card.recv(1 << 16)


def main() -> int:
    with plugged_in() as card:
        card.send(frames.arp())
        everywhere = [LOOPBACK, RESOLVER, LOOPBACK6, OWN, *NET, *NET6, OUTSIDE]
        for number, address in enumerate(everywhere, 20_000):
            card.send(frames.syn(address, PORT, number))
            card.send(frames.datagram(address, PORT, number, address.encode()))
            list(answers(card, 0.01))
        card.send(frames.datagram(NAME_SERVER, 53, 30_000, QUESTION))
        for frame in answers(card, _ANSWER_S):
            if frames.is_from(frame, NAME_SERVER):
                print(frame[-4:].hex())
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())
