"""A chirp proxy in the guest: what is said to it is said to the starter's, over the line."""

import os
import select

from init.contract import (
    LINE_CLOSE,
    LINE_DATA,
    LINE_FRAME_BYTES_MAX,
    LINE_LINKS_MAX,
    LINE_OPEN,
)

MYPY = False
if MYPY:
    from typing import Dict, Set

    from init.line import Line


class Client:
    """A connection of the job's, and what it has not yet taken of what came for it."""

    def __init__(self, fd: int) -> None:
        self.fd, self.waiting, self.is_over = fd, b"", False

    def flush(self) -> bool:
        """Give it what it takes; say whether there is more to come."""
        try:
            while self.waiting:
                self.waiting = self.waiting[os.write(self.fd, self.waiting) :]
        except BlockingIOError:
            return True
        except OSError:
            return False  # it has gone
        return not self.is_over


class Proxy:
    """Listens on this machine's own address, as a starter does on its."""

    def __init__(self, line: "Line") -> None:
        # What is around it in 'socket' takes a tenth of a second in an emulated machine.
        import _socket

        self.line = line
        self.clients: Dict[int, Client] = {}
        self.listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        self.listener.setblocking(False)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(LINE_LINKS_MAX)

    def contact(self, cookie: str) -> str:
        """What a starter writes into ``.chirp.config``."""
        address, port = self.listener.getsockname()
        return f"{address} {port} {cookie}\n"

    def wanted(self) -> "Dict[int, int]":
        """What to wait for, by file descriptor: nothing to send while the line is full."""
        hears = 0 if self.line.unsent else select.POLLIN
        found = {self.listener.fileno(): hears if len(self.clients) < LINE_LINKS_MAX else 0}
        for client in self.clients.values():
            found[client.fd] = hears | (select.POLLOUT if client.waiting else 0)
        return {fd: events for fd, events in found.items() if events}

    def look(self, ready: "Set[int]") -> None:
        """Go on with what is ready, of all file descriptors."""
        for number, client in list(self.clients.items()):
            if client.fd in ready:
                self.go_on(number, client)
        if self.listener.fileno() in ready:
            self.accept()

    def accept(self) -> None:
        try:
            fd, _ = self.listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return  # it has gone already
        os.set_blocking(fd, False)
        number = min(set(range(LINE_LINKS_MAX)) - set(self.clients))
        self.clients[number] = Client(fd)
        self.line.say(LINE_OPEN, bytes([number]))

    def go_on(self, number: int, client: Client) -> None:
        if not client.flush():
            self.end(number)
            return
        if self.line.unsent:
            return
        try:
            data = os.read(client.fd, LINE_FRAME_BYTES_MAX // 2)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.line.say(LINE_DATA, bytes([number]) + data)
        else:
            self.end(number)

    def end(self, number: int) -> None:
        client = self.clients.pop(number)
        os.close(client.fd)
        if not client.is_over:
            self.line.say(LINE_CLOSE, bytes([number]))

    def take(self, kind: bytes, data: bytes) -> None:
        """What the host says of a connection, which may be gone by now."""
        client = self.clients.get(data[0]) if data else None
        if client is None or kind not in (LINE_DATA, LINE_CLOSE):
            return
        client.waiting += data[1:]
        client.is_over = kind == LINE_CLOSE
        if not client.flush():
            self.end(data[0])
