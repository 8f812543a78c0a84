"""The live line to the host: what the job prints while it runs, and signals for it."""

import os
import select
import signal

from init.contract import LINE_BEGUN, LINE_FRAME_BYTES_MAX, LINE_PORT, LINE_SIGNAL
from init.files import read_text

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

    from init.proxy import Proxy
    from init.shells import Shells
    from init.usage import Usage

    #: What else goes over the line.
    Talkers = Sequence[Union[Proxy, Shells, Usage]]

PORTS = "/sys/class/virtio-ports"
HEAD_BYTES = 5
#: How often the streams' files are looked at, and how much of one is sent at a time: a job
#: that prints more than the line carries is ahead of it, and waits for nothing.
LOOK_S = 0.5
LOOK_BYTES_MAX = 1 << 20
CHUNK_BYTES = LINE_FRAME_BYTES_MAX // 2


def open_line(ports: str = PORTS) -> "Optional[Line]":
    """This machine's line; None where it has none."""
    if not os.path.isdir(ports):
        return None
    for port in os.listdir(ports):
        name = os.path.join(ports, port, "name")
        if os.path.isfile(name) and read_text(name).strip() == LINE_PORT:
            return Line(os.open(os.path.join("/dev", port), os.O_RDWR | os.O_NONBLOCK))
    return None


class Line:
    """The guest's end, which never waits for the host's."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.unsent = b""
        self.heard = b""

    def say(self, kind: bytes, data: bytes = b"") -> bool:
        """Send a frame, or keep what of it cannot be sent yet; say whether all is sent."""
        self.unsent += kind + len(data).to_bytes(4, "big") + data
        return self.flush()

    def flush(self) -> bool:
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.fd, self.unsent) :]
        except OSError:
            return False  # its host does not read just now, or has gone
        return True

    def frames(self) -> "List[Tuple[bytes, bytes]]":
        """What has come: the kinds of whole frames and what is in them."""
        try:
            self.heard += os.read(self.fd, LINE_FRAME_BYTES_MAX)
        except OSError:
            return []  # nothing
        found: List[Tuple[bytes, bytes]] = []
        while len(self.heard) >= HEAD_BYTES:
            end = HEAD_BYTES + int.from_bytes(self.heard[1:HEAD_BYTES], "big")
            if len(self.heard) < end:
                break
            found.append((self.heard[:1], self.heard[HEAD_BYTES:end]))
            self.heard = self.heard[end:]
        return found

    def pass_on(self, number: int, pid: int) -> bool:
        """Send a process a signal; say whether there is such a one."""
        try:
            os.kill(pid, number)
        except OSError:
            return False
        return True


class Followed:
    """A stream's file, of which what was written lately is sent."""

    def __init__(self, kind: bytes, fd: int) -> None:
        self.kind, self.fd, self.sent = kind, fd, 0

    def send_more(self, line: Line) -> None:
        end = self.sent + LOOK_BYTES_MAX
        while self.sent < end and line.flush():
            try:
                data = os.pread(self.fd, CHUNK_BYTES, self.sent)
            except OSError:
                break  # what has the file's name by now is none
            if not data:
                break
            self.sent += len(data)
            line.say(self.kind, data)


def follow(streams: "Dict[bytes, str]") -> "List[Followed]":
    """The streams' files as the job has opened them, unless it has removed them already."""
    found = []
    for kind, path in streams.items():
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        found.append(Followed(kind, fd))
    return found


def wait_with_line(
    pid: int, line: Line, streams: "Dict[bytes, str]", talkers: "Talkers" = ()
) -> "Tuple[int, Any]":
    """Wait until the job has ended; return its wait status and what it used.

    ``streams`` has the paths of its streams' files, by the kind of their frames.  Meanwhile
    what it writes there is sent, and it gets the signals that come.
    """
    followed = follow(streams)
    reader, writer = os.pipe()
    for fd in (reader, writer):
        os.set_blocking(fd, False)
    handler = signal.signal(signal.SIGCHLD, lambda *_: None)
    wakeup = signal.set_wakeup_fd(writer)
    try:
        line.say(LINE_BEGUN)
        while True:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                return status, usage
            line.flush()
            for stream in followed:
                stream.send_more(line)
            for kind, data in line.frames():
                if kind == LINE_SIGNAL:
                    for number in data:
                        line.pass_on(number, pid)
                for talker in talkers:
                    talker.take(kind, data)
            rest(reader, line, talkers)
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGCHLD, handler)
        for fd in [reader, writer] + [stream.fd for stream in followed]:
            os.close(fd)


def rest(reader: int, line: Line, talkers: "Talkers") -> None:
    """Until it is time to look again, a child has ended, or somebody says something."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(line.fd, select.POLLIN | (select.POLLOUT if line.unsent else 0))
    for talker in talkers:
        for fd, wanted in talker.wanted().items():
            poll.register(fd, wanted)
    events = dict(poll.poll(LOOK_S * 1000))
    if reader in events:
        os.read(reader, 4096)
    elif events.get(line.fd, 0) & ~(select.POLLIN | select.POLLOUT):
        # Nobody is at the other end, which is no news each time.
        select.select([reader], [], [], LOOK_S)
    # What the job has printed does not keep them from it.
    line.flush()
    for talker in talkers:
        talker.look(set(events))
