"""Connections to a starter's proxy, whatever a guest says of them."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule import contract
from vmcapsule.slot.chirp import Contact
from vmcapsule.slot.packed.links import Links, Proxy

KINDS = [contract.LINE_OPEN, contract.LINE_DATA, contract.LINE_CLOSE, b"?"]
OPEN, DATA, CLOSE = KINDS[:3]


class Heard:
    """A starter that takes all connections and answers nothing; what each was told."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.contact = Contact(*self._listener.getsockname()[:2], "cookie")
        self.told: list[bytes] = []
        self._readers: list[threading.Thread] = []
        self._last: object = None
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            link, address = self._listener.accept()
            if address == self._last:
                link.close()
                return
            reader = threading.Thread(target=self._read, args=(link,))
            reader.start()
            self._readers.append(reader)

    def _read(self, link: socket.socket) -> None:
        with link, link.makefile("rb") as stream:
            data = b""
            with contextlib.suppress(OSError):
                data = stream.read()
            self.told.append(data)

    def end(self) -> list[bytes]:
        """What all were told, once they are closed."""
        with socket.socket() as last:
            last.bind(("127.0.0.1", 0))
            self._last = last.getsockname()
            last.connect((self.contact.host, self.contact.port))
            self._thread.join()
        self._listener.close()
        for reader in self._readers:
            reader.join()
        return self.told


@contextlib.contextmanager
def heard(delayed_only: bool = False) -> Iterator[tuple[Heard, Links]]:
    starter = Heard()
    links = Links(Proxy(Path(".chirp.config"), starter.contact, delayed_only))
    try:
        yield starter, links
    finally:
        links.close()
        starter.end()


def test_each_connection_is_its_own() -> None:
    with heard() as (starter, links):
        for number in (0, 15, 0):
            assert list(links.take(OPEN, bytes([number]))) == []
        list(links.take(DATA, b"\x00one"))
        list(links.take(DATA, b"\x0ftwo"))
        list(links.take(CLOSE, b"\x0f"))
        list(links.take(DATA, b"\x0fgone"))
    assert sorted(starter.told) == [b"one", b"two"]


@pytest.mark.parametrize("number", [b"", b"\x10", b"\xff"])
def test_there_are_so_many_connections_and_no_more(number: bytes) -> None:
    with heard() as (starter, links):
        assert list(links.take(OPEN, number)) == []
        assert list(links.take(DATA, number + b"said")) == []
        assert links.wanted(more=True) == {}
    assert starter.told == []


@pytest.mark.parametrize(
    ("said", "passed", "refused"),
    [
        (b"cookie x\nset_job_attr_delayed A 1\n", b"cookie x\nset_job_attr_delayed A 1\n", 0),
        (b"set_job_attr A 1\nget_job_attr A\n", b"", 2),
        (
            b"open /etc/passwd r 0\nulog x\nget_job_attr_delayed A\n",
            b"get_job_attr_delayed A\n",
            2,
        ),
        (b" set_job_attr_delayed A 1\n\nSET_JOB_ATTR_DELAYED A 1\n", b"", 3),
        (b"set_job_attr_delayed" + b"x" * 70_000 + b"\n", b"", 1),
    ],
)
def test_a_job_that_asked_for_nothing_has_delayed_updates(
    said: bytes, passed: bytes, refused: int
) -> None:
    answers = b""
    with heard(delayed_only=True) as (starter, links):
        list(links.take(OPEN, b"\x01"))
        for at in range(0, len(said), 1000):
            for kind, data in links.take(DATA, b"\x01" + said[at : at + 1000]):
                assert (kind, data[:1]) == (DATA, b"\x01")
                answers += data[1:]
    assert starter.told == [passed]
    assert answers == b"-8\n" * refused


FRAMES = st.tuples(st.sampled_from(KINDS), st.binary(max_size=40))


@given(st.lists(FRAMES, max_size=20), st.booleans())
def test_whatever_is_said_is_said_to_the_starter_or_to_nobody(
    frames: list[tuple[bytes, bytes]], delayed_only: bool
) -> None:
    with heard(delayed_only) as (starter, links):
        for kind, data in frames:
            for said, answer in links.take(kind, data):
                assert said in (DATA, CLOSE) and answer[0] < contract.LINE_LINKS_MAX
        assert len(links.wanted(more=True)) <= contract.LINE_LINKS_MAX
    said_to_it = b"".join(data[1:] for kind, data in frames if kind == DATA)
    assert sum(map(len, starter.told)) <= len(said_to_it)


def test_a_starter_that_does_not_listen_has_the_guest_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        links = Links(Proxy(Path(), Contact(*listener.getsockname()[:2], "cookie")))
        list(links.take(OPEN, b"\x00"))
        for _ in range(1000):
            if links.are_full():
                break
            list(links.take(DATA, b"\x00" + bytes(60_000)))
        assert links.are_full()
        links.close()


def test_a_starter_that_is_gone_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        contact = Contact(*listener.getsockname()[:2], "cookie")
    links = Links(Proxy(Path(), contact))
    assert list(links.take(OPEN, b"\x03")) == [(CLOSE, b"\x03")]
