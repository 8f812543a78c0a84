"""How a process ends that HTCondor takes for the job: as the job did, or as a failure of ours.

Little is imported here, and by all such processes before anything can fail: the file that they
are made of may be replaced while they run.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import traceback
from typing import NoReturn, TextIO

#: By what a gahp that is ended from outside ends the process of its machine: the job's time is
#: not up, and the run is to be repeated.
FROM_OUTSIDE = signal.SIGINT
_UNCATCHABLE = (signal.SIGKILL, signal.SIGSTOP)


def die(number: int) -> NoReturn:
    """End by a signal, as the job did, without a core file of our own."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL) if number not in _UNCATCHABLE else None
    os.kill(os.getpid(), number)
    # A signal that is ignored by default does not kill: tell it as a shell would.
    os._exit(128 + number)


def say(text: str, stream: TextIO) -> None:
    """Print a line for whoever reads it; that nobody can is no failure of the job's."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # Python would try the same line again as it ends, and end with 120 of its own.
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def details() -> str:
    """The traceback of what is being handled, for who is to mend it."""
    try:
        return traceback.format_exc()
    except Exception as error:  # the file whose lines it would show may be another by now
        return f"no traceback: {error}"
