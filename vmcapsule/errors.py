"""The errors of vmcapsule: each kind has its exit status, hold code and a remedy.

Exit statuses are in the range of ``sysexits.h`` (64 to 78), so that few jobs have the same.
A hold code is the ``HoldReasonCode`` with which a job is held: HTCondor's own where one fits
(6 ``FailedToCreateProcess``, 12 ``TransferOutputError``, 13 ``TransferInputError``), else 26
(``SystemPolicy``), with the exit status as the subcode.

Text that a stranger may have written goes through `one_line` before anybody is shown it.
"""

from __future__ import annotations

HOLD_BY_USER = 1
HOLD_JOB_POLICY = 3
HOLD_EXEC = 6
HOLD_TRANSFER_OUTPUT = 12
HOLD_TRANSFER_INPUT = 13
HOLD_SYSTEM_POLICY = 26
HOLD_INPUT_LIMIT = 32

#: The exit status for an error of the operating system that nothing here explains better.
SYSTEM_ERROR = 71

#: Enough for two paths and a sentence.
LINE_CHARS_MAX = 1000
_GAP = " ... "


class VmCapsuleError(Exception):
    """What went wrong, with the offending value, and what to do about it.

    ``str()`` gives one line: the message, a semicolon, the remedy.
    """

    exit_status = 70
    hold_code = HOLD_SYSTEM_POLICY

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class SystemFailure(VmCapsuleError):
    """An error of the operating system that nothing here explains better."""

    exit_status = SYSTEM_ERROR


class InternalError(VmCapsuleError):
    """A fault of vmcapsule's own."""


def from_os(error: OSError) -> SystemFailure:
    """An error of the operating system, as one of ours."""
    where = f"'{error.filename}': " if error.filename else ""
    return SystemFailure(f"{where}{error.strerror or error}", "correct that")


def escaped(text: str) -> str:
    """``text`` with an escape for each character that is not printable.

    So nothing in it moves a terminal's cursor or begins another line.  Bytes that were not
    UTF-8 become escapes, too.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str, chars_max: int = LINE_CHARS_MAX) -> str:
    """Any text as one printable line of at most ``chars_max`` characters.

    It can stand in a message, a log or an ad, whoever wrote it.  Each run of blanks and line
    breaks becomes one blank, and the rest is `escaped`.  Of a text that is too long the
    beginning and the end stay: programs say at the end what is wrong.
    """
    # A text may have many mebibytes: only so much of it is looked at.
    if len(text) > 8 * chars_max:
        text = f"{text[: 4 * chars_max]} {_GAP} {text[-4 * chars_max :]}"
    line = escaped(" ".join(text.split()))
    if len(line) <= chars_max:
        return line
    head = (chars_max - len(_GAP)) // 3
    return line[:head].rstrip() + _GAP + line[head + len(_GAP) - chars_max :].lstrip()


class UsageError(VmCapsuleError):
    """The command line or a hook's standard input is malformed."""

    exit_status = 64


class CapsuleGone(UsageError):
    """A capsule was removed, by us or by somebody else."""

    def __init__(self, folder: object) -> None:
        super().__init__(
            f"the capsule '{folder}' is gone",
            "see in the hooks' logs, or in what 'vmcapsule gc' prints, who removed it",
        )


class AdError(VmCapsuleError):
    """A ClassAd that cannot be parsed, or lacks an attribute it must have."""

    exit_status = 65


class JobRefused(VmCapsuleError):
    """The job asks for something that a capsule cannot give; names the attribute."""

    exit_status = 65


class SubmitError(VmCapsuleError):
    """A submit description that condor_submit does not accept as it stands."""

    exit_status = 65


class InputError(VmCapsuleError):
    """An input of the job is missing or cannot be read."""

    exit_status = 66
    hold_code = HOLD_TRANSFER_INPUT


class InputLimit(InputError):
    """The job's inputs are more than its own limit allows."""

    hold_code = HOLD_INPUT_LIMIT


class TemplateError(VmCapsuleError):
    """The template VM is missing, incomplete or not usable."""

    exit_status = 67


class DiskError(VmCapsuleError):
    """A disk image, partition table or file system is damaged or of an unknown form."""

    exit_status = 68


class ToolError(VmCapsuleError):
    """A program that vmcapsule needs is missing or failed."""

    exit_status = 69


class SpaceError(VmCapsuleError):
    """The scratch disk or the data disk has too little room."""

    exit_status = 73


class TooLarge(VmCapsuleError):
    """The job is more than its data disk, its routed ad or any capsule can carry.

    Waiting does not help, as it may where there is too little room.
    """

    exit_status = 72


class DeliveryError(VmCapsuleError):
    """The job's outputs could not be put where they belong; the capsule is kept."""

    exit_status = 74
    hold_code = HOLD_TRANSFER_OUTPUT


class OutputMissing(DeliveryError):
    """An output that the job was to leave is not there; everything else was delivered."""


class OutputBlocked(DeliveryError):
    """An output could not be put in place; everything else was delivered."""


class GuestTimeout(VmCapsuleError):
    """The guest did not power off within the time limit."""

    exit_status = 75


class GuestError(VmCapsuleError):
    """The guest ended without a usable exit record, or its record says that it failed."""

    exit_status = 76


class ExecFailed(GuestError):
    """The guest's system did not start the job's program; ``number`` is the errno."""

    hold_code = HOLD_EXEC

    def __init__(self, message: str, remedy: str, number: int) -> None:
        super().__init__(message, remedy)
        self.number = number


class ConfigError(VmCapsuleError):
    """A configuration knob is missing or has a value that cannot be used."""

    exit_status = 78
