"""The logs of the hooks: one line an event, with the name of the job's owner.

Hooks run as the jobs' owners, to whom HTCondor's LOG is closed.  What an owner cannot write
there waits in the scratch folder, in a file of that owner's own, until root's 'vmcapsule
gc' puts it into the log.  What cannot wait either goes to standard error, which the
JobRouter puts into a log of its own.
"""

from __future__ import annotations

import errno
import fcntl
import io
import itertools
import os
import re
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator, Optional

from vmcapsule.config import Config
from vmcapsule.errors import one_line
from vmcapsule.files import open_regular
from vmcapsule.named import NamedTuple

if TYPE_CHECKING:  # a hook without a log has no use for it
    import pwd

TRANSLATE, EXIT = "translate", "exit"

#: What may wait of one owner's for one log: as much does an owner add to it in one round.
WAITING_BYTES_MAX = 64 << 10
#: A log that has grown to this becomes ``.old``, as HTCondor's logs do.
LOG_BYTES_MAX = 32 << 20
#: Of how many users' files in one round the way is cleared, if it is not free.
CLEARED_MAX = 100
_TEXT_CHARS_MAX = 4000
_STAMP = "%Y-%m-%d %H:%M:%S"


class EventLog(NamedTuple):
    """One of the two logs: that of `TRANSLATE` or of `EXIT`."""

    kind: str
    path: Path
    #: Where events wait; nowhere, unless the folder is root's and all may write there.
    scratch: Path

    def waiting(self, uid: int) -> Path:
        """The file in which a user's events wait."""
        return self.scratch / f"events-{self.kind}-{uid}"


def logs_of(config: Config) -> tuple[EventLog, ...]:
    """The logs that the configuration asks for."""
    paths = ((TRANSLATE, config.translate_log), (EXIT, config.exit_log))
    scratch = config.scratch_dir_prefix
    return tuple(EventLog(kind, path, scratch) for kind, path in paths if path)


def tell(log: EventLog, job_id: str, event: str) -> None:
    """Log an event of a source job; a log that cannot be written costs a warning only."""
    account = _account(os.getuid())
    owner = account.pw_name if account else f"uid-{os.getuid()}"
    line = _line(time.strftime(_STAMP), owner, f"job {job_id}: {event}")
    try:
        with _open_log(log.path) as file:
            _append(file, line)
        return
    except OSError as error:
        reason = error.strerror
    try:
        _leave(log, line)
    except OSError as error:
        print(
            f"vmcapsule: warning: cannot write the log '{log.path}': {reason}; nor can it "
            f"wait in '{log.scratch}': {error.strerror}; so here: {line.decode().rstrip()}",
            file=sys.stderr,
        )


def _leave(log: EventLog, line: bytes) -> None:
    """Let a line wait in a file of our own.  Raises `OSError`."""
    uid = os.getuid()
    if uid == 0 or not _is_swept(log.scratch):
        raise OSError(errno.EPERM, "it is no folder that root sweeps for others")
    with _open(log.waiting(uid), os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
        if not _is_of(os.fstat(file.fileno()), uid):
            raise OSError(errno.EEXIST, "something else is in the way")
        # Root holds it for a moment only, and never waits for it.
        fcntl.flock(file, fcntl.LOCK_EX)
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes + len(line) > WAITING_BYTES_MAX:
            raise OSError(errno.EDQUOT, "much waits already; see that root runs 'vmcapsule gc'")
        try:
            _append(file, line)
        except OSError:
            file.truncate(size_bytes)
            raise


def collect(log: EventLog, say: Callable[[str], None]) -> None:
    """Put into the log what waits for it; ``say`` is told a line for each trouble.

    A log that has grown large is put aside first, by whoever may; the rest is root's.
    """
    try:
        if log.path.stat().st_size >= LOG_BYTES_MAX:
            log.path.replace(f"{log.path}.old")
    except FileNotFoundError:
        pass
    except OSError as error:
        say(f"cannot put the log '{log.path}' aside: {error.strerror}")
    if os.getuid() != 0 or not _is_swept(log.scratch):
        return
    in_the_way = []
    for uid, path in _all_waiting(log):
        try:
            if _is_of(path.lstat(), uid):
                _take(log, path, uid)
            else:
                in_the_way.append((uid, path))
        except OSError as error:
            say(f"kept {path}: {error.strerror}")
    for uid, path in itertools.islice(in_the_way, CLEARED_MAX):
        try:
            _clear(path, uid)
        except OSError as error:
            say(f"user {uid} cannot leave events in {path}: {error.strerror}")


def _all_waiting(log: EventLog) -> Iterator[tuple[int, Path]]:
    with os.scandir(log.scratch) as entries:
        for entry in entries:
            match = re.fullmatch(rf"events-{log.kind}-([1-9][0-9]{{0,9}})", entry.name)
            if match is not None:
                yield int(match[1]), log.scratch / entry.name


def _take(log: EventLog, path: Path, uid: int) -> None:
    """Put what waits in one owner's file into the log, and only then empty the file.

    Who is killed in between has it said twice.
    """
    with _open(path, os.O_RDWR) as file:
        account = _account(uid)
        # No job is a subordinate user's, of whom everybody may have thousands.
        if account is None or not _is_of(os.fstat(file.fileno()), uid):
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # next time
        data = file.read(WAITING_BYTES_MAX + 1)
        if data:
            with _open_log(log.path) as to:
                _append(to, lines_of(data, account.pw_name))
                os.fsync(to.fileno())
            file.truncate(0)


def lines_of(data: bytes, owner: str) -> bytes:
    """What waited, as lines that nobody can take for another owner's.

    ``data`` may be anything.  What comes out is as long as WAITING_BYTES_MAX and a line.
    """
    own = re.compile(rf"(\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d) {re.escape(owner)} (.*)", re.ASCII)
    now = time.strftime(_STAMP)
    made, size_bytes = [], 0
    for text in data.decode(errors="backslashreplace").splitlines():
        match = own.fullmatch(text)
        line = _line(match[1], owner, match[2]) if match else _line(now, owner, text)
        size_bytes += len(line)
        if size_bytes > WAITING_BYTES_MAX:
            made.append(_line(now, owner, "(the rest was more than may wait)"))
            break
        made.append(line)
    return b"".join(made)


def _clear(path: Path, uid: int) -> None:
    """Put aside what is in the way of a user's file, and make that file, the user's own.

    Nobody can be in its way again: the folder is sticky.
    """
    account = _account(uid)
    if account is None:
        return
    path.rename(path.with_name(f".{path.name}.{os.urandom(4).hex()}"))
    with _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
        os.fchown(file.fileno(), uid, account.pw_gid)


def _line(stamp: str, owner: str, text: str) -> bytes:
    line = f"{stamp} {owner} {one_line(text, _TEXT_CHARS_MAX)}\n"
    return line.encode(errors="backslashreplace")


def _account(uid: int) -> Optional[pwd.struct_passwd]:
    import pwd

    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _is_swept(scratch: Path) -> bool:
    """Is it a folder in which root sees to what others leave?  One's own is not."""
    try:
        return scratch.stat().st_uid == 0
    except FileNotFoundError:
        return False


def _is_of(status: os.stat_result, uid: int) -> bool:
    """Is this a user's own file, which has no other name?

    Who cannot read a file may still give it a name, where the kernel does not forbid that.
    """
    return stat.S_ISREG(status.st_mode) and status.st_uid == uid and status.st_nlink == 1


def _open(path: Path, flags: int, mode: int = 0o600) -> io.FileIO:
    return io.FileIO(open_regular(path, flags, mode), "r+")


def _open_log(path: Path) -> io.FileIO:
    """Open a log to append; what root creates belongs to whom its folder belongs to."""
    flags = os.O_WRONLY | os.O_APPEND
    try:
        return _open(path, flags)
    except FileNotFoundError:
        pass
    try:
        file = _open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return _open(path, flags)  # another hook was quicker
    if os.getuid() == 0:
        folder = path.parent.stat()
        os.fchown(file.fileno(), folder.st_uid, folder.st_gid)
    return file


def _append(file: io.FileIO, lines: bytes) -> None:
    """Append in one write, so that nobody else's line begins in the middle."""
    if file.write(lines) != len(lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
