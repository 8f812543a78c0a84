"""A starter's side of chirp, for tests: it takes attributes and keeps them."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Callable

import classad2


def words(line: str) -> list[str]:
    """Split a request as a starter does: at blanks that no backslash precedes."""
    found, kept = [""], False
    for char in line:
        if char == "\\" and not kept:
            kept = True
            continue
        if char.isspace() and not kept:
            found.append("")
        else:
            found[-1] += char
        kept = False
    return found


class Starter:
    """Takes connections, one by one; answers as one does, or ``answer``s something else."""

    def __init__(self, answer: Callable[[str], bytes] = lambda line: b"0\n") -> None:
        self.attributes: dict[str, object] = {}
        #: What is in the queue as soon as the answer is there.
        self.at_once: dict[str, object] = {}
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                link, _ = self._listener.accept()
                self._hear(link)

    def _hear(self, link: socket.socket) -> None:
        # The other side may break off, and an empty answer breaks off here.
        with contextlib.suppress(OSError), link, link.makefile("rb") as requests:
            for request in requests:
                line = request.decode("ascii").rstrip("\n")
                said = words(line)
                if said[0] == "set_job_attr_delayed":
                    self.attributes[said[1]] = classad2.ExprTree(said[2]).eval()
                if said[0] == "set_job_attr":
                    self.at_once[said[1]] = classad2.ExprTree(said[2]).eval()
                if not self._answer(line):
                    return
                link.sendall(self._answer(line))

    def write_contact(self, folder: Path) -> Path:
        """Write what a starter leaves in the job's scratch folder."""
        contact = folder / ".chirp.config"
        contact.write_text(f"127.0.0.1 {self.port} secret\n")
        return contact

    def close(self) -> None:
        self._listener.close()
