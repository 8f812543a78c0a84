"""A source ad as a frozen `SourceJob`: read once here, nobody past this reads it by string.

The meaning of each attribute is that of HTCondor's shadow and starter
(``condor_utils/{condor_arglist,env,file_transfer,submit_utils}.cpp``).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Callable, Optional, TypeVar

from vmcapsule.classad.ads import Ad
from vmcapsule.errors import AdError
from vmcapsule.job import text as job_text
from vmcapsule.job.attributes import belongs_to_source, is_accounting
from vmcapsule.job.policy import Logs, Policy, read_logs, read_policy
from vmcapsule.job.refusals import refuse
from vmcapsule.named import NamedTuple

#: HTCondor's JOB_DEFAULT_REQUESTMEMORY and JOB_DEFAULT_REQUESTDISK for an empty job.
DEFAULT_MEMORY_MIB = 128
DEFAULT_DISK_KIB = 1 << 20
#: No machine has more; a larger number is a mistake that must not reach an allocation.
_CPUS_MAX = 1 << 16
_MEMORY_MIB_MAX = 1 << 30
_DISK_KIB_MAX = 1 << 50

_Parsed = TypeVar("_Parsed")


class SourceJob(NamedTuple):
    """One vanilla job of the user's.

    ``executable``, ``stdin``, ``stdout``, ``stderr`` and ``transfer_input`` are paths as
    the ad has them, relative ones to ``iwd``; the streams are None for none and
    /dev/null.  ``transfer_output`` is None for "new or changed files" and () for none.
    ``output_remaps`` holds (name in the sandbox, path), the first of equals wins.
    ``success_status`` is None for a job that cannot fail, else the wait status (as
    ``wait(2)`` gives it) without which only its streams and ``failure_outputs`` come back.
    ``environment`` holds (name, value); ``#CoNdOrScRaTcHdIr#`` is not expanded yet.
    ``require_kvm`` is what the job asks for: hardware isolation of its guest, or no run.
    ``attributes`` are all of the ad's as they were read, (name, expression): for ads that
    are made from it, and not to be interpreted.
    """

    job_id: str
    global_job_id: Optional[str]
    owner: Optional[str]
    iwd: Path
    executable: str
    transfer_executable: bool
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    stdin: Optional[str]
    stdout: Optional[str]
    stderr: Optional[str]
    transfer_input: tuple[str, ...]
    input_limit_mib: Optional[int]
    preserve_relative_paths: bool
    transfer_output: Optional[tuple[str, ...]]
    output_remaps: tuple[tuple[str, str], ...]
    success_status: Optional[int]
    failure_outputs: tuple[str, ...]
    request_cpus: int
    request_memory_mib: int
    request_disk_kib: int
    require_kvm: bool
    job_starts: int
    policy: Policy
    logs: Logs
    attributes: tuple[tuple[str, str], ...]

    @property
    def custom(self) -> tuple[tuple[str, str], ...]:
        """Those of the attributes that are the user's own."""
        return tuple(item for item in self.attributes if not belongs_to_source(item[0]))

    @property
    def accounting(self) -> tuple[tuple[str, str], ...]:
        """Those that say who pays for the job, and how much of what it may use."""
        return tuple(item for item in self.attributes if is_accounting(item[0]))

    def expr(self, name: str) -> Optional[str]:
        """The text of an attribute, for another ad; None where there is none."""
        return Ad(self.attributes).expr(name)

    def text(self, name: str) -> Optional[str]:
        """The string that an attribute is, for another ad; None where there is none."""
        return Ad(self.attributes).string(name)

    def long_form(self) -> str:
        """The ad as text, of which `read_job` makes this job again."""
        return Ad(self.attributes).long_form()


def read_job(ad: Ad, check: Callable[[Ad], None] = refuse) -> SourceJob:
    """Read a source ad; ``check`` refuses what is not to be had for its job.

    Raises `JobRefused` for what a capsule cannot honour and `AdError` for an ad that
    lacks what every job has, or has it in a form that HTCondor would not take either.
    """
    check(ad)
    transfer_executable = ad.boolean("TransferExecutable")
    return SourceJob(
        job_id=id_of(ad),
        global_job_id=ad.string("GlobalJobId"),
        owner=ad.string("Owner") or None,
        iwd=_iwd(ad),
        executable=_required(ad, "Cmd"),
        transfer_executable=True if transfer_executable is None else transfer_executable,
        arguments=_arguments(ad),
        environment=_environment(ad),
        stdin=_stream(ad, "In"),
        stdout=_stream(ad, "Out"),
        stderr=_stream(ad, "Err"),
        transfer_input=job_text.split_list(ad.string("TransferInput") or ""),
        input_limit_mib=_limit(ad, "MaxTransferInputMB"),
        preserve_relative_paths=bool(ad.boolean("PreserveRelativePaths")),
        transfer_output=_transfer_output(ad),
        output_remaps=_parse(ad, "TransferOutputRemaps", job_text.remaps) or (),
        success_status=_success_status(ad),
        failure_outputs=job_text.split_list(ad.string("FailureFiles") or ""),
        request_cpus=_amount(ad, "RequestCpus", 1, _CPUS_MAX),
        request_memory_mib=_memory_mib(ad),
        request_disk_kib=_amount(ad, "RequestDisk", DEFAULT_DISK_KIB, _DISK_KIB_MAX),
        require_kvm=bool(ad.boolean("VmCapsuleRequireKVM")),
        job_starts=ad.integer("NumJobStarts") or 0,
        policy=read_policy(ad),
        logs=read_logs(ad),
        attributes=ad.attributes,
    )


def id_of(ad: Ad) -> str:
    """``cluster.proc`` of a job; 0 for what an ad that never was in a queue lacks."""
    return f"{ad.integer('ClusterId') or 0}.{ad.integer('ProcId') or 0}"


def _required(ad: Ad, name: str) -> str:
    value = ad.string(name)
    if not value:
        raise AdError(
            f"the job ad has no {name}", "give a whole job ad, as condor_q -long prints it"
        )
    return value


def _iwd(ad: Ad) -> Path:
    iwd = Path(_required(ad, "Iwd"))
    if not iwd.is_absolute():
        raise AdError(f"Iwd = {iwd}: is not an absolute path", "submit with condor_submit")
    return iwd


def _parse(ad: Ad, name: str, parse: Callable[[str], _Parsed]) -> Optional[_Parsed]:
    text = ad.string(name)
    if text is None:
        return None
    try:
        return parse(job_text.expand_match_macros(text))
    except ValueError as error:
        raise AdError(f"{ad.shown(name)}: {error}", f"correct {name}") from error


def _arguments(ad: Ad) -> tuple[str, ...]:
    """V2 wins over V1, also when it is empty."""
    words = _parse(ad, "Arguments", job_text.split_v2)
    if words is None:
        words = _parse(ad, "Args", job_text.split_v1)
    return words or ()


def _environment(ad: Ad) -> tuple[tuple[str, str], ...]:
    """V2 wins over V1, also when it is empty."""
    variables = _parse(ad, "Environment", job_text.environment_v2)
    if variables is None:
        delimiter = ad.string("EnvDelim") or ""
        variables = _parse(ad, "Env", lambda text: job_text.environment_v1(text, delimiter))
    return tuple((variables or {}).items())


def _stream(ad: Ad, name: str) -> Optional[str]:
    value = ad.string(name)
    return None if value in ("", "/dev/null") else value


def _transfer_output(ad: Ad) -> Optional[tuple[str, ...]]:
    text = ad.string("TransferOutput")
    return None if text is None else job_text.split_list(text)


def _success_status(ad: Ad) -> Optional[int]:
    """Read as ``computeDesiredExitStatus`` does (``condor_starter.V6.1/starter_util.cpp``).

    ``when_to_transfer_output = ON_SUCCESS`` changes nothing there: without a
    JobSuccessExitCode no job fails.
    """
    code, signal = ad.integer("JobSuccessExitCode"), ad.integer("JobSuccessExitSignal")
    if code is None and signal is None:
        return None
    return (signal or 0) if ad.boolean("JobSuccessExitBySignal") else (code or 0) << 8


def _limit(ad: Ad, name: str) -> Optional[int]:
    """A number below 0 stands for no limit."""
    value = ad.integer(name)
    return None if value is None or value < 0 else value


def _amount(ad: Ad, name: str, default: int, maximum: int) -> int:
    """A request, rounded up; undefined until the job has run once counts as the default."""
    value = ad.number(name)
    if value is None:
        return default
    if not 0 <= value <= maximum:
        raise AdError(
            f"{ad.shown(name)}: {value} is not between 0 and {maximum}",
            f"correct {name}",
        )
    return math.ceil(value) or default


def _memory_mib(ad: Ad) -> int:
    """The job's own wish, or for condor_submit's default at least what a slot would give.

    That default follows ImageSize, the size of the executable until the job has run; an
    execute point rounds it up to 128 MiB (``MODIFY_REQUEST_EXPR_REQUESTMEMORY``).
    """
    wish = _amount(ad, "RequestMemory", DEFAULT_MEMORY_MIB, _MEMORY_MIB_MAX)
    by_image_size = "imagesize" in (ad.expr("RequestMemory") or "").lower()
    return max(wish, DEFAULT_MEMORY_MIB) if by_image_size else wish
