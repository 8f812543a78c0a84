"""Connections of a job in its guest to the starter's chirp proxy, as they are on its line."""

from __future__ import annotations

import contextlib
import select
import socket
from pathlib import Path
from typing import Iterator, Optional

from vmcapsule import contract
from vmcapsule.named import NamedTuple
from vmcapsule.slot.chirp import Contact

_CONNECT_S = 5.0
_READ_BYTES = contract.LINE_FRAME_BYTES_MAX // 2
#: Of what the starter has not taken yet no more is kept: then the guest is not listened to.
_WAITING_BYTES_MAX = 256 << 10
#: A starter refuses longer lines (``io_proxy_handler.h``); so much of one is kept here.
_LINE_BYTES_MAX = 5120
#: What a starter takes of a job that has asked for nothing, and what it says of the rest
#: (``io_proxy_handler.cpp``; CHIRP_ERROR_INVALID_REQUEST).
_ALWAYS = (b"cookie", b"set_job_attr_delayed", b"get_job_attr_delayed")
_REFUSED = b"-8\n"
Frames = Iterator[tuple[bytes, bytes]]


class Proxy(NamedTuple):
    """The starter's proxy, and where the job is told of it, in the file ``config``.

    ``delayed_only``: the job has asked for no more of it; our program may have, in its routed
    ad.
    """

    config: Path
    contact: Contact
    delayed_only: bool = False


class _Link:
    """One connection: the socket, what is to be sent, and the line that is not yet whole."""

    def __init__(self, proxy: Proxy) -> None:
        address = (proxy.contact.host, proxy.contact.port)
        self.socket = socket.create_connection(address, timeout=_CONNECT_S)
        self.socket.setblocking(False)
        self.waiting = b""
        self._delayed_only = proxy.delayed_only
        self._line = b""

    def say(self, data: bytes) -> bytes:
        """Have the starter hear ``data``; return what it is spared, answered in its place."""
        if not self._delayed_only:
            self.waiting += data
            return b""
        refused = b""
        *whole, self._line = (self._line + data).split(b"\n")
        for line in whole:
            if line.split(b" ", 1)[0].strip() in _ALWAYS:
                self.waiting += line + b"\n"
            else:
                refused += _REFUSED
        self._line = self._line[:_LINE_BYTES_MAX]
        return refused

    def flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.waiting:
                self.waiting = self.waiting[self.socket.send(self.waiting) :]


class Links:
    """All connections, by the numbers that the guest has given them."""

    def __init__(self, proxy: Optional[Proxy]) -> None:
        self._proxy = proxy
        self._links: dict[int, _Link] = {}

    def are_full(self) -> bool:
        """Has some starter yet to take more than is kept for it?"""
        return any(len(link.waiting) > _WAITING_BYTES_MAX for link in self._links.values())

    def wanted(self, more: bool) -> dict[int, int]:
        """What to wait for, by file descriptor; ``more``: what the starter says, too."""
        found = {}
        for link in self._links.values():
            events = (select.POLLIN if more else 0) | (select.POLLOUT if link.waiting else 0)
            if events:
                found[link.socket.fileno()] = events
        return found

    def take(self, kind: bytes, data: bytes) -> Frames:
        """Take a frame of the guest's, whatever it is; what is yielded is the answer."""
        number = data[0] if data else contract.LINE_LINKS_MAX
        if number >= contract.LINE_LINKS_MAX:
            return
        link = self._links.get(number)
        if kind == contract.LINE_OPEN and link is None:
            yield from self._open(number)
        elif kind == contract.LINE_DATA and link is not None:
            refused = link.say(data[1:])
            if refused:
                yield contract.LINE_DATA, bytes([number]) + refused
            yield from self._flush(number, link)
        elif kind == contract.LINE_CLOSE and link is not None:
            self._drop(number)

    def _open(self, number: int) -> Frames:
        if self._proxy is not None:
            with contextlib.suppress(OSError):  # the starter may be ending
                self._links[number] = _Link(self._proxy)
        if number not in self._links:
            yield contract.LINE_CLOSE, bytes([number])

    def look(self, ready: set[int]) -> Frames:
        """Go on with the connections that are ready; what is yielded is for the guest."""
        for number, link in list(self._links.items()):
            if link.socket.fileno() in ready:
                yield from self._flush(number, link)
                if number in self._links:
                    yield from self._hear(number, link)

    def _flush(self, number: int, link: _Link) -> Frames:
        try:
            link.flush()
        except OSError:
            self._drop(number)
            yield contract.LINE_CLOSE, bytes([number])

    def _hear(self, number: int, link: _Link) -> Frames:
        try:
            data = link.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            yield contract.LINE_DATA, bytes([number]) + data
            return
        self._drop(number)
        yield contract.LINE_CLOSE, bytes([number])

    def _drop(self, number: int) -> None:
        self._links.pop(number).socket.close()

    def close(self) -> None:
        """End all of them."""
        for number in list(self._links):
            self._drop(number)
