"""How a job ended, as its guest's exit record on the data disk says: trust nothing of it."""

from __future__ import annotations

import errno
import json
import math
import signal
from typing import Any, Mapping, Optional

from vmcapsule import contract
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import ExecFailed, GuestError, one_line
from vmcapsule.named import NamedTuple

SIGNAL_MAX = 64
#: No job dies of these: they stop a process, have it go on, or do nothing (signal(7)).
_NOT_DEADLY = {
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP),
    *(signal.SIGTTIN, signal.SIGTTOU, signal.SIGURG, signal.SIGWINCH),
}
_NAMED = contract.NAMED_MAX


class JobExit(NamedTuple):
    """How the job ended, as the guest's exit record says."""

    runner: str
    exit_code: Optional[int]
    exit_signal: Optional[int]
    core_dumped: bool
    started_at_s: float
    ended_at_s: float
    user_cpu_s: float
    system_cpu_s: float
    max_rss_kib: int
    #: 0: not known.
    image_size_kib: int
    disk_usage_kib: int
    #: The first few of those that it did not leave, and how many there are.
    missing_outputs: tuple[str, ...]
    missing_count: int
    #: Of what it left and HTCondor does not send, with the errno that tells why, likewise.
    unsent_outputs: tuple[tuple[str, int], ...]
    unsent_count: int
    phases_s: Mapping[str, float]
    guest: Mapping[str, str]
    #: How many entries the index of the outputs has, as the guest says.
    entries: int

    @property
    def status(self) -> int:
        """As a shell reports it: the exit code, or 128 + the signal."""
        return 128 + self.exit_signal if self.exit_signal is not None else self.exit_code or 0


def read_record(volume: FatVolume) -> Optional[dict[str, Any]]:
    """Return the exit record as the guest wrote it, or None when there is none."""
    if volume.lookup(contract.EXIT_RECORD) is None:
        return None
    data = volume.read(contract.EXIT_RECORD, contract.EXIT_RECORD_BYTES_MAX)
    try:
        record = json.loads(data)
        if not isinstance(record, dict):
            raise ValueError("it is not an object")
        if record["format"] != contract.FORMAT:
            raise ValueError(f"its format is {record['format']!r:.20}")
    except (ValueError, KeyError, RecursionError) as error:
        raise _unreadable(error) from error
    return record


def _unreadable(error: Exception) -> GuestError:
    return GuestError(
        f"the guest's exit record cannot be used: {type(error).__name__}: {error}",
        "run the job again; if it recurs, check the template's init script",
    )


def read_exit(volume: FatVolume) -> JobExit:
    """Return how the job ended.

    Raises `GuestError` when the guest left no record, or one that says it failed.
    Silence is never taken for success.
    """
    record = read_record(volume)
    if record is None:
        raise GuestError(
            "the guest left no exit record: it ended before the job did",
            "check the template with 'vmcapsule template check'; of a job that is run "
            "with 'vmcapsule run --keep' the console is kept",
        )
    try:
        if record["state"] == "failed":
            failure = record["failure"]
            stage, message = _word(failure["stage"]), _word(failure["message"])
            if stage == "exec" and failure.get("errno") is not None:
                raise ExecFailed(
                    f"the job's program could not be started: {message}",
                    "see that it is a program, and that the template has the interpreter "
                    "that a script names in its first line",
                    _errno(failure["errno"]),
                )
            raise GuestError(
                f"the guest could not run the job ({stage}): {message}",
                "'vmcapsule inspect' shows the guest's log, of a capsule that is still there "
                "or was kept with 'vmcapsule run --keep'",
            )
        if record["state"] != "exited":
            raise ValueError(f"its state is {record['state']!r:.20}")
        return _job_exit(record)
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise _unreadable(error) from error


def as_reported(path: str) -> str:
    """How a path appears in `JobExit`."""
    return _word(path)


def _word(value: object, limit: int = 500) -> str:
    """One printable line from whatever a guest wrote."""
    return one_line(str(value), limit)


def _job_exit(record: Mapping[str, Any]) -> JobExit:
    code, deadly = record["exit_code"], record["exit_signal"]
    if (code is None) == (deadly is None):
        raise ValueError("it has not exactly one of exit code and signal")
    _check_int("exit_code", code, 0, 255)
    _check_int("exit_signal", deadly, 1, SIGNAL_MAX)
    if deadly in _NOT_DEADLY:
        raise ValueError(f"no job dies of signal {deadly}")
    missing = tuple(as_reported(path) for path in record.get("missing_outputs", [])[:_NAMED])
    unsent = tuple(
        (as_reported(path), _errno(why))
        for path, why in record.get("unsent_outputs", [])[:_NAMED]
    )
    return JobExit(
        runner=_word(record["runner"], 20),
        exit_code=code,
        exit_signal=deadly,
        core_dumped=record.get("core_dumped") is True,
        started_at_s=_number(record["started_at_s"]),
        ended_at_s=_number(record["ended_at_s"]),
        user_cpu_s=_number(record["user_cpu_s"]),
        system_cpu_s=_number(record["system_cpu_s"]),
        max_rss_kib=int(_number(record["max_rss_kib"])),
        image_size_kib=int(_number(record.get("image_size_kib", 0))),
        disk_usage_kib=int(_number(record.get("disk_usage_kib", 0))),
        missing_outputs=missing,
        missing_count=_count(record, "missing", len(missing)),
        unsent_outputs=unsent,
        unsent_count=_count(record, "unsent", len(unsent)),
        phases_s={_word(k, 40): _number(v) for k, v in record.get("phases", {}).items()},
        guest={_word(k, 40): _word(v) for k, v in record.get("guest", {}).items()},
        entries=int(_number(record["outputs"]["entries"])),
    )


def _count(record: Mapping[str, Any], what: str, named: int) -> int:
    """How many outputs are missing, say, of which so many are ``named``.

    A guest's script of before it counted them names all.
    """
    return max(named, int(_number(record.get(f"{what}_count", named))))


def _check_int(name: str, value: object, least: int, most: int) -> None:
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise ValueError(f"its {name} is {value!r:.20}")


def _errno(value: Any) -> int:
    if value not in errno.errorcode:
        raise ValueError(f"{value!r:.20} is no errno")
    return int(value)


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"{value!r:.20} is not a number")
    if not math.isfinite(value) or not 0 <= value < 1e15:
        raise ValueError(f"{value!r:.20} is out of range")
    return float(value)
