"""What a job may ask for that a capsule cannot honour: one table, read from the top.

Where HTCondor's own file transfer and starter work for the job, a part of it holds.

Each row is `Refusal`: attributes, when one of them matters, why, and the remedy.  A job
is refused rather than run wrongly; what is in no row is honoured, or does not matter.
The attributes are those of ``condor_utils/submit_utils.cpp`` and of the starter.
"""

from __future__ import annotations

import re
from typing import Callable, Iterable, Iterator

from vmcapsule.classad.ads import Ad
from vmcapsule.errors import JobRefused
from vmcapsule.job import text as job_text
from vmcapsule.named import NamedTuple

#: Given the ad and an attribute's name: is this what the row refuses?
Predicate = Callable[[Ad, str], bool]

VANILLA = 5
#: condor_submit takes a resource's name as it is: request_fpgas becomes Requestfpgas.
#: A RequestedBy or a Requestor is the user's own.
_RESOURCE = r"(?i:request)(?!(?:ed|er|or)(?![a-z]))[A-Za-z]"
_NULL_FILES = ("", "/dev/null")


class Refusal(NamedTuple):
    """Refuse a job when ``applies`` holds for one of ``attributes``."""

    attributes: tuple[str, ...]
    applies: Predicate
    why: str
    remedy: str


def refuse(ad: Ad) -> None:
    """Raise `JobRefused`, naming the attribute, for the first row that applies."""
    _refuse(ad, (*TABLE, *_custom_resources(ad)))


def refuse_in_slot(ad: Ad) -> None:
    """The same for a job that is packed in its slot."""
    _refuse(ad, (row for row in TABLE if row.attributes[0] in IN_SLOT))


def _refuse(ad: Ad, rows: Iterable[Refusal]) -> None:
    for row in rows:
        for name in row.attributes:
            if row.applies(ad, name):
                raise JobRefused(f"{ad.shown(name)}: {row.why}", row.remedy)


def _is_set(ad: Ad, name: str) -> bool:
    """Neither undefined nor an empty string."""
    return ad.value(name) not in (None, "")


def _is_true(ad: Ad, name: str) -> bool:
    return bool(ad.boolean(name))


def _is_positive(ad: Ad, name: str) -> bool:
    """Anything but a number that is not above 0 (a text asks for something, too)."""
    value = ad.value(name)
    return value is not None and not (isinstance(value, (int, float)) and value <= 0)


def _is_word(*words: str) -> Predicate:
    return lambda ad, name: (ad.string(name) or "").strip().upper() in words


def _has_url(ad: Ad, name: str) -> bool:
    return any(job_text.is_url(item) for item in job_text.split_list(ad.string(name) or ""))


def _has_url_target(ad: Ad, name: str) -> bool:
    return any(job_text.is_url(path) for _, path in job_text.remaps(ad.string(name) or ""))


def _leaves_the_sandbox(ad: Ad, name: str) -> bool:
    paths = job_text.split_list(ad.string(name) or "")
    return any(path.startswith("/") or ".." in path.split("/") for path in paths)


def _names_a_remote_file(stream: str) -> Predicate:
    """``transfer_input = false`` and its like: the file is the execute machine's own."""

    def applies(ad: Ad, name: str) -> bool:
        return ad.boolean(name) is False and ad.string(stream) not in (None, *_NULL_FILES)

    return applies


def _has_match_macro(ad: Ad, name: str) -> bool:
    return job_text.has_match_macro(ad.expr(name) or "")


def _has_any_match_macro(ad: Ad, name: str) -> bool:
    return "$$(" in (ad.expr(name) or "")


def _is_other_universe(ad: Ad, name: str) -> bool:
    return ad.integer(name) not in (None, VANILLA)


def _is_limit(ad: Ad, name: str) -> bool:
    """A number below 0 stands for no limit."""
    value = ad.value(name)
    return value is not None and not (isinstance(value, (int, float)) and value < 0)


def _names_a_program_of_the_path(ad: Ad, name: str) -> bool:
    """A program that is transferred is in the sandbox, whatever its path was."""
    relative = not (ad.string("Cmd") or "/").startswith("/")
    return bool(ad.boolean(name)) and relative and ad.boolean("TransferExecutable") is False


def _asks_for_many(ad: Ad, name: str) -> bool:
    return (ad.integer(name) or 1) > 1


def _custom_resources(ad: Ad) -> Iterator[Refusal]:
    """``RequestFoo`` for every machine resource that the pool's administrator defined."""
    ordinary = {"requestcpus", "requestmemory", "requestdisk", "requestgpus"}
    for name in ad.names:
        lower = name.lower()
        after = name[len("request") :]
        if not lower.startswith("request") or lower in ordinary:
            continue
        if not re.match(_RESOURCE, name):
            continue
        if isinstance(ad.value(name), (int, float)):
            yield Refusal(
                (name,),
                _is_positive,
                f"the guest has no resource '{after}'",
                f"take request_{after.lower()} out of the submit file",
            )


_USE_INPUT_FILES = "transfer the file with the job (transfer_input_files)"
_NO_STREAMS = "take stream_input, stream_output and stream_error out of the submit file"
_NO_URLS = "fetch or send it from within the job, or name a file of the access point"
_NO_CREDENTIALS = "take the credential out of the submit file, or do not route this job"
_NO_CONTAINER = "run the program itself, or do not route this job"
_NO_CHECKPOINT = "take the checkpoint commands out of the submit file, or do not route this job"
_NOT_ROUTED = "take it out of the submit file, or do not route this job"

TABLE: tuple[Refusal, ...] = (
    Refusal(
        ("JobUniverse",),
        _is_other_universe,
        "only jobs of the vanilla universe (5) run in a capsule",
        "use 'universe = vanilla'",
    ),
    Refusal(
        ("WantDocker", "WantContainer", "WantSIF", "WantSandboxImage", "WantDockerImage"),
        _is_true,
        "a container cannot be started in the guest",
        _NO_CONTAINER,
    ),
    Refusal(
        ("ContainerImage", "DockerImage", "SingularityImage"),
        _is_set,
        "a container cannot be started in the guest",
        _NO_CONTAINER,
    ),
    Refusal(
        ("StreamIn", "StreamOut", "StreamErr"),
        _is_true,
        "the guest has no connection to stream over while the job runs",
        _NO_STREAMS,
    ),
    Refusal(
        ("TransferIn",),
        _names_a_remote_file("In"),
        "the guest has no files of the execute machine",
        "take 'transfer_input = false' out of the submit file",
    ),
    Refusal(
        ("TransferOut",),
        _names_a_remote_file("Out"),
        "what the guest keeps is thrown away with it",
        "take 'transfer_output = false' out of the submit file",
    ),
    Refusal(
        ("TransferErr",),
        _names_a_remote_file("Err"),
        "what the guest keeps is thrown away with it",
        "take 'transfer_error = false' out of the submit file",
    ),
    Refusal(
        ("ShouldTransferFiles",),
        _is_word("NO"),
        "the guest shares no file system with the access point",
        "use 'should_transfer_files = YES'",
    ),
    Refusal(
        ("WhenToTransferOutput",),
        _is_word("ON_EXIT_OR_EVICT", "ALWAYS"),
        "an evicted guest cannot hand over what it has",
        "use 'when_to_transfer_output = ON_EXIT'",
    ),
    Refusal(
        ("TransferInput", "In", "Cmd", "PublicInputFiles"),
        _has_url,
        "URLs are not fetched into the guest",
        _NO_URLS,
    ),
    Refusal(
        ("PublicInputFiles",),
        _is_set,
        "public input files are served by HTCondor's own web server",
        _USE_INPUT_FILES,
    ),
    Refusal(
        ("TransferOutputRemaps", "SUBMIT_TransferOutputRemaps"),
        _has_url_target,
        "outputs are not sent to URLs from the guest",
        _NO_URLS,
    ),
    Refusal(
        ("TransferOutput", "FailureFiles"),
        _leaves_the_sandbox,
        "outputs are taken from the job's own folder only",
        "let the job write there and name a relative path",
    ),
    Refusal(
        ("OutputDestination",), _is_set, "outputs are not sent to URLs from the guest", _NO_URLS
    ),
    Refusal(
        ("OutputDirectory",),
        _is_set,
        "outputs go to the job's own folder",
        "name their places in transfer_output_remaps",
    ),
    Refusal(
        ("TransferInputRemaps",),
        _is_set,
        "inputs keep their names",
        "rename the file, or let the job do it",
    ),
    Refusal(
        ("CommonInputFiles", "CommonInputCatalogs", "TransferTheseCatalogs"),
        _is_set,
        "guests share no files",
        _USE_INPUT_FILES,
    ),
    Refusal(
        ("MaxTransferOutputMB",),
        _is_limit,
        "how much comes back is not limited",
        _NOT_ROUTED,
    ),
    Refusal(
        ("LimitDirectoryAccess",),
        _is_set,
        "all files of the job's owner are within reach",
        _NOT_ROUTED,
    ),
    Refusal(
        ("TransferPlugins",),
        _is_set,
        "file transfer plugins of the job's own do not run in the guest",
        _NOT_ROUTED,
    ),
    Refusal(
        ("Args", "Arguments", "Env", "Environment"),
        _has_match_macro,
        "$$() stands for an attribute of the machine matched, and the guest is not known yet",
        "write the value itself",
    ),
    Refusal(
        ("Cmd", "In", "Out", "Err", "TransferInput", "TransferOutput", "TransferOutputRemaps"),
        _has_any_match_macro,
        "$$() stands for an attribute of the machine matched, and the guest is not known yet",
        "write the value itself",
    ),
    Refusal(
        ("RequestGPUs",),
        _is_positive,
        "the guest has no GPUs",
        "take request_gpus out of the submit file, or do not route this job",
    ),
    Refusal(
        ("x509userproxy", "OAuthServicesNeeded", "ScitokensFile"),
        _is_set,
        "a credential is never written to a disk image",
        _NO_CREDENTIALS,
    ),
    Refusal(
        ("SendCredential",),
        _is_true,
        "a credential is never written to a disk image",
        _NO_CREDENTIALS,
    ),
    Refusal(
        ("WantIOProxy", "WantRemoteUpdates", "WantDelayedUpdates"),
        _is_true,
        "chirp needs a live connection to the access point",
        "take it out of the submit file",
    ),
    Refusal(
        (
            "SuccessCheckpointExitCode",
            "SuccessCheckpointExitSignal",
            "CheckpointExitCode",
            "TransferCheckpoint",
            "CheckpointDestination",
        ),
        _is_set,
        "checkpoints of the job's own are not carried out of the guest",
        _NO_CHECKPOINT,
    ),
    Refusal(
        ("SuccessCheckpointExitBySignal", "WantFTOnCheckpoint"),
        _is_true,
        "checkpoints of the job's own are not carried out of the guest",
        _NO_CHECKPOINT,
    ),
    Refusal(
        ("WantCheckpointSignal",),
        _is_true,
        "no signal reaches the job in its guest",
        _NO_CHECKPOINT,
    ),
    Refusal(
        (
            "DeferralTime",
            "CronMinute",
            "CronHour",
            "CronDayOfMonth",
            "CronMonth",
            "CronDayOfWeek",
        ),
        _is_set,
        "a job cannot be started at a set time in the guest",
        _NOT_ROUTED,
    ),
    Refusal(
        ("EncryptInputFiles", "EncryptOutputFiles"),
        _is_set,
        "the data disk is not encrypted",
        _NOT_ROUTED,
    ),
    Refusal(
        ("EncryptExecuteDirectory",), _is_true, "the data disk is not encrypted", _NOT_ROUTED
    ),
    Refusal(
        ("SkipIfDataflow",),
        _is_true,
        "whether outputs are newer than inputs is not looked at",
        "take skip_if_dataflow out of the submit file",
    ),
    Refusal(("IsNoopJob",), _is_true, "a job that is not to run needs no capsule", _NOT_ROUTED),
    Refusal(
        ("InteractiveJob",), _is_true, "nobody can log in to the guest", "submit without -i"
    ),
    Refusal(
        ("PreCmd", "PostCmd", "ToolDaemonCmd"),
        _is_set,
        "programs beside the job do not run in the guest",
        "start it from the job itself",
    ),
    Refusal(
        ("RequestedChroot",),
        _is_set,
        "the folders of the execute machine are not in the guest",
        _NOT_ROUTED,
    ),
    Refusal(
        ("RemoteIwd",),
        _is_set,
        "a job in the guest begins in its own folder",
        "let the job change its folder itself, and take remote_initialdir out",
    ),
    Refusal(
        ("SuspendJobAtExec",),
        _is_true,
        "nobody could let a job go on that is stopped as it starts",
        _NOT_ROUTED,
    ),
    Refusal(
        ("PreserveRelativeExecutable",),
        _names_a_program_of_the_path,
        "a program of the guest's is named by its full path",
        "give the executable's full path",
    ),
    Refusal(("ManifestDesired",), _is_true, "no manifest is made in the guest", _NOT_ROUTED),
    Refusal(("ManifestDir",), _is_set, "no manifest is made in the guest", _NOT_ROUTED),
    Refusal(
        ("JobStarterLog", "JobStarterDebug", "StarterUserLog"),
        _is_set,
        "a log of the guest's starter does not come back",
        _NOT_ROUTED,
    ),
    Refusal(
        ("StarterWaitForDebug", "ShadowWaitForDebug", "StarterShouldExitBroken"),
        _is_true,
        "HTCondor itself cannot be tested in a guest",
        _NOT_ROUTED,
    ),
    Refusal(
        ("WantExecutionVisaFromStarter", "UseParrot"),
        _is_true,
        "the starter does not do that in a guest",
        _NOT_ROUTED,
    ),
    Refusal(
        ("PrimaryUnixGroup",),
        _is_set,
        "the groups of the access point are not in the guest",
        "take primary_unix_group out of the submit file",
    ),
    Refusal(("WantParallelScheduling",), _is_true, "a capsule is one machine", _NOT_ROUTED),
    Refusal(("MaxHosts",), _asks_for_many, "a capsule is one machine", _NOT_ROUTED),
)

_IN_SLOT_TEXT = """
    JobUniverse WantDocker ContainerImage ShouldTransferFiles RequestGPUs
    x509userproxy SendCredential InteractiveJob PreCmd
    RequestedChroot RemoteIwd SuspendJobAtExec PreserveRelativeExecutable
    WantExecutionVisaFromStarter PrimaryUnixGroup WantParallelScheduling MaxHosts
"""
#: The first attributes of the rows that hold for jobs that are packed in their slots.
IN_SLOT = frozenset(_IN_SLOT_TEXT.split())
