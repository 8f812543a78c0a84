"""A conversation with a starter, from the greeting to the end of the job.

The exit status of this process is the routed job's: so it ends as the machine's process
ended, by the same code or signal, as soon as the starter cannot take that for a failure to
start (``condor_starter.V6.1/vm_proc.cpp``: after the answer to CONDOR_VM_GETPID).
"""

from __future__ import annotations

import os
import select
import signal
from types import FrameType
from typing import Optional

from vmcapsule.slot import ending
from vmcapsule.slot.gahp.child import Child
from vmcapsule.slot.gahp.dialogue import GREETING, Dialogue, State
from vmcapsule.slot.gahp.lines import Lines
from vmcapsule.slot.gahp.log import log

#: How soon the end of the machine is seen.
POLL_S = 0.25
_READ_BYTES = 1 << 16
_STARTER, _TO_STARTER = 0, 1
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def serve(vm_type: str, child: Child) -> Optional[int]:
    """Talk until there is no more to say; return how the job ended.

    As `subprocess.Popen.returncode`; None where there was no job, or the starter stopped it.
    Whoever else ends this process ends no job: it did not report then.  The machine has ended
    in any case.
    """
    for number in _STOPS:
        signal.signal(number, _stop)
    # A starter that is gone is told by the end of what it says.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # Where it were ignored the kernel would not keep how the machine's process ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    dialogue = Dialogue(vm_type, child)
    try:
        _talk(dialogue, child)
    except KeyboardInterrupt:
        log("ended from outside")
        if not dialogue.is_over:
            child.stop_from_outside()
    except BrokenPipeError:
        log("the starter has gone")
    except Exception:
        # An exit code of ours would be the job's.
        log(f"a fault of the vm-gahp's own: {ending.details()}")
        child.stop_from_outside()
    finally:
        child.stop()
    return None if child.was_stopped else child.status


def _talk(dialogue: Dialogue, child: Child) -> None:
    _write([GREETING])
    lines, is_known = Lines(), False
    while not dialogue.is_over:
        has_ended = child.state is State.ENDED and not child.was_stopped
        if has_ended and dialogue.may_end:
            log(f"the machine has ended, status {child.status}")
            return
        if not select.select([_STARTER], [], [], POLL_S)[0]:
            continue
        data = os.read(_STARTER, _READ_BYTES)
        if not data:
            log("the starter has gone")
            return
        for line in lines.feed(data):
            _write(dialogue.say(line))
        if dialogue.may_end and not is_known:
            is_known = True
            log(f"the starter knows the machine, process {child.pid}")


def _write(answers: list[str]) -> None:
    data = "".join(f"{answer}\n" for answer in answers).encode("utf-8", "surrogateescape")
    while data:
        data = data[os.write(_TO_STARTER, data) :]


def _stop(number: int, frame: Optional[FrameType]) -> None:
    for each in _STOPS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)
