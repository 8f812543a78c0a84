"""The command ``vmcapsule``: how it is begun, and its exit status."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any, Optional, Sequence, Tuple

from vmcapsule.errors import SYSTEM_ERROR, VmCapsuleError, from_os, one_line

#: As a shell reports a program that a signal ended.
SIGNALED = 128
#: SIGHUP: the terminal or the connection is gone.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Commands without options that the JobRouter waits for, job by job.
HOOKS = ("translate", "finalize", "cleanup", "update")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line; return the exit status."""
    module_name, function, arguments = _asked(sys.argv[1:] if argv is None else argv)
    _open_streams()
    for number in INTERRUPTS:
        # What the caller ignores (nohup, a shell's '&') stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    # Names may be any bytes; showing one must never be what fails.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        # Imported late: '--help' and a mistyped command answer at once.
        module = importlib.import_module(f"vmcapsule.cli.{module_name}")
        status: int = getattr(module, function)(arguments)
        sys.stdout.flush()
        return status
    except VmCapsuleError as error:
        print(f"vmcapsule: {one_line(str(error))}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as error:
        number, *notes = error.args or (signal.SIGINT,)
        print("; ".join(["vmcapsule: interrupted", *notes]), file=sys.stderr)
        return SIGNALED + int(number)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has gone; nothing is left to tell it.
            sys.stderr.close()
            return SIGNALED + signal.SIGPIPE
        print(f"vmcapsule: {one_line(str(from_os(error)))}", file=sys.stderr)
        return SYSTEM_ERROR


def _asked(argv: Sequence[str]) -> Tuple[str, str, Any]:
    """Which function of which module is asked for, and what is said to it."""
    if len(argv) == 1 and argv[0] in HOOKS:
        # The parser knows them, too; making it takes longer than many a hook, and so does
        # looking for garbage in what such a short process has.
        gc.disable()
        return "hook_commands", argv[0], None
    from vmcapsule.cli.arguments import parser

    arguments = parser().parse_args(argv)
    return arguments.module, arguments.function, arguments


def _interrupt(number: int, frame: Optional[FrameType]) -> None:
    """Any of them ends us like Ctrl-C, so that VM and scratch are cleaned away."""
    for each in INTERRUPTS:
        # A second one would end the cleaning half-way.  Not SIG_IGN: children inherit it.
        if signal.getsignal(each) is _interrupt:
            signal.signal(each, lambda *_: None)
    raise KeyboardInterrupt(number)


def _open_streams() -> None:
    """Put /dev/null where the caller closed standard input, output or error.

    Else Python has None there, and the next file that is opened takes the number.
    """
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        fd = os.dup(fd)
    os.close(fd)
    sys.stdin = sys.stdin or open(0)  # noqa: PTH123, SIM115 - for as long as we live
    sys.stdout = sys.stdout or open(1, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: PTH123, SIM115
