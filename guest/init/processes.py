"""Processes: started, looked at, limited and killed."""

import os
import signal
import sys
import time

from init.files import to_bytes, to_text
from init.report import Failure

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, List


def oom_score(score: int) -> None:
    """Say how gladly the kernel may kill this process when memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "w") as stream:
            stream.write(str(score))
    except OSError:
        pass  # no right to it: all processes are as likely as before


def spawn(
    argv: "List[str]",
    setup: "Callable[[], None]",
    environment: "Dict[str, str]",
    stage: str = "exec",
) -> int:
    """Start a program; ``setup`` runs in the child.  Raise Failure when it cannot start."""
    args = [to_bytes(arg) for arg in argv]
    env = {to_bytes(n): to_bytes(v) for n, v in environment.items()}
    what, failed = f"cannot start '{argv[0]}'", 0
    reader, writer = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    if pid == 0:
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            oom_score(0)
            setup()
            failed = 1
            os.execve(args[0], args, env)
        except OSError as error:
            text = to_bytes(f"{what}: {error.strerror}")
            if error.filename not in (None, args[0]):
                text += b" ('" + os.fsencode(error.filename) + b"')"
            os.write(writer, b"%d " % (failed * (error.errno or 0)) + text)
        except BaseException as error:  # nothing of the child may go on as the parent
            os.write(writer, to_bytes(f"0 {what}: {error!r}"))
        finally:
            os._exit(127)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        message = stream.read()  # ends as the program starts: the pipe closes on exec
    if message:
        os.waitpid(pid, 0)
        digits, _, text = message.partition(b" ")
        raise Failure(stage, to_text(text), int(digits) or None)
    return pid


def process_table() -> "Dict[int, List[str]]":
    """The fields of /proc/PID/stat from the state on (man 5 proc), by process."""
    table = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as stream:
                fields = to_text(stream.read()).rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if fields and fields[0] not in "ZX":
            table[int(name)] = fields
    return table


def kill_below(root: int) -> int:
    """Kill ``root`` (but not this process) and all below it, parents first."""
    killed = set()
    for _ in range(250):
        parents = {pid: int(fields[1]) for pid, fields in process_table().items()}
        found = [root] if root in parents else []
        for pid in found:
            found.extend(child for child, parent in parents.items() if parent == pid)
        found = [pid for pid in found if pid != os.getpid()]
        if not found:
            break
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            except ProcessLookupError:
                pass  # it has ended by itself
        time.sleep(0.02)
    return len(killed)


def kill_user(uid: int) -> None:
    """Kill all processes of a user at once, however fast they multiply."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def c_library() -> "Any":
    """The C library, or None under a Python without ctypes."""
    try:
        import ctypes

        return ctypes.CDLL(None, use_errno=True)
    except (ImportError, OSError):
        return None


def limit(name: str, value: float, hard_too: bool) -> None:
    """Set a limit of this process; below 0 is unlimited.  Only root may raise a hard one."""
    import resource

    which = getattr(resource, name)
    hard = resource.getrlimit(which)[1]
    if not (hard_too and os.geteuid() == 0) and hard != resource.RLIM_INFINITY:
        value = hard if value < 0 else min(value, hard)
    soft = resource.RLIM_INFINITY if value < 0 else int(min(value, sys.maxsize))
    resource.setrlimit(which, (soft, soft if hard_too else hard))
