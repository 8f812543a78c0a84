"""What is told of this run: the failure that ends it, and the log."""

import os
import time

from init.contract import LOG_BYTES_MAX

MYPY = False
if MYPY:
    from typing import Optional

MESSAGE_CHARS_MAX = 1000


class Failure(Exception):
    """What the exit record says of a run that did not succeed: a stage and one line.

    ``number`` is the errno with which the job's program did not start.
    """

    def __init__(self, stage: str, message: str, number: "Optional[int]" = None) -> None:
        super().__init__(message)
        self.stage = stage
        self.message = message
        self.number = number


class Log:
    """One line a step, with the seconds since the start: on the disk and the console."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.fds = [1]
        self.room = LOG_BYTES_MAX

    def open(self, path: str) -> None:
        """Keep the log in ``path`` too, when that can be written."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self.fds.append(os.open(path, flags, 0o644))
        except OSError as error:
            self(f"cannot write {path}: {error.strerror}")

    def __call__(self, text: str) -> None:
        stamp = f"{time.monotonic() - self.started_s:8.3f} "
        data = (stamp + text.rstrip() + "\n").encode("utf-8", "backslashreplace")
        self.room -= len(data)
        for fd in self.fds[:]:
            try:
                if fd == 1 or self.room >= 0:
                    os.write(fd, data)
            except OSError:
                self.fds.remove(fd)  # a full disk, or nobody is there; the other has it

    def close(self) -> None:
        for fd in self.fds[1:]:
            os.close(fd)
        self.fds = [1]
