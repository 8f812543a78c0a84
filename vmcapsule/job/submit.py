"""Submit files to job ads, by ``condor_submit``'s own translation (``-dump``).

No schedd is needed.  ``condor_submit`` is the system's, else the one in the HTCondor
tarball that guests are given.
"""

from __future__ import annotations

import difflib
import os
import pwd
import re
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, Optional

from vmcapsule.atomic import publish
from vmcapsule.classad.ads import Ad, quote, split_many
from vmcapsule.errors import SubmitError, ToolError, one_line
from vmcapsule.params import machine_has_condor_config
from vmcapsule.process import Arg, run

SUBMIT_TIMEOUT_S = 120.0
_LOADER = "ld-linux-x86-64.so.2"
#: A queue statement, or a command that is no attribute of any job ad.
_SUBMIT_LINE = re.compile(
    r"^[ \t]*(?:queue\b(?![ \t]*=)|(?:executable|universe)[ \t]*=)",
    re.IGNORECASE | re.MULTILINE,
)
_DAG_LINE = re.compile(r"^[ \t]*JOB[ \t]+\w\S*[ \t]+[^=\s]", re.IGNORECASE | re.MULTILINE)
#: A schedd makes the jobs of such a submit file when there is room; here is no schedd.
_ALL_AT_ONCE = ("-append", "max_materialize =", "-append", "max_idle =")
_UNUSED = re.compile(r"the line '(.*?)' was unused by condor_submit", re.DOTALL)
_ERROR = re.compile(r"^\s*ERROR\b", re.MULTILINE)
_COMMANDS_TEXT = """
    accounting_group accounting_group_user allowed_execute_duration allowed_job_duration
    arguments batch_id batch_name checkpoint_exit_code concurrency_limits container_image
    core_size cron_day_of_month cron_day_of_week cron_hour cron_minute cron_month
    deferral_prep_time deferral_time deferral_window description docker_image
    encrypt_execute_directory encrypt_input_files encrypt_output_files environment error
    executable getenv gpus_minimum_memory hold hold_kill_sig image_size initialdir input
    job_ad_information_attrs job_lease_duration job_machine_attrs job_max_vacate_time
    keep_claim_idle kill_sig kill_sig_timeout leave_in_queue log log_xml max_idle
    max_job_retirement_time max_materialize max_retries max_transfer_input_mb
    max_transfer_output_mb next_job_start_delay nice_user noop_job notification notify_user
    on_exit_hold on_exit_hold_reason on_exit_hold_subcode on_exit_remove output
    output_destination periodic_hold periodic_hold_reason periodic_hold_subcode
    periodic_release periodic_remove periodic_vacate preserve_relative_paths priority
    project_name public_input_files queue rank remove_kill_sig request_cpus request_disk
    request_gpus request_memory require_gpus requirements retry_request_memory retry_until
    run_as_owner scitokens_file send_credential shell should_transfer_files
    skip_if_dataflow stack_size stream_error stream_input stream_output
    submit_event_notes submit_event_user_notes success_exit_code transfer_checkpoint_files
    transfer_error transfer_executable transfer_input transfer_input_files transfer_output
    transfer_output_files transfer_output_remaps transfer_plugins universe
    use_oauth_services use_scitokens use_x509userproxy want_graceful_removal want_io_proxy
    when_to_transfer_output x509userproxy
"""
#: Commands for jobs of the vanilla universe, to find what a misspelt one was to be; the last
#: is one where an access point's configuration says so.
COMMANDS = (*_COMMANDS_TEXT.split(), "wantjobrouter")


def is_submit_file(text: str) -> bool:
    """Does this text look like a submit description, not like a job ad?"""
    return not text.lstrip().startswith("[") and _SUBMIT_LINE.search(text) is not None


def is_dag(text: str) -> bool:
    """Does this text look like DAGMan's description of a DAG?"""
    return _DAG_LINE.search(text) is not None


def ads_from_submit(file: Path, *, tarball: Optional[Path], cache: Path) -> tuple[Ad, ...]:
    """Return the ad of each job that a submit file queues, in order.

    Relative names in the file are relative to the current folder, as for
    ``condor_submit``.  ``tarball`` is the HTCondor tarball to take ``condor_submit`` from
    where the machine has none; it is unpacked once, below ``cache``.  Owner is the
    caller; the first cluster is 1.

    Raises `SubmitError` for what condor_submit does not accept or does not know and for
    a file that queues no job, `ToolError` where there is no condor_submit.
    """
    program = condor_submit_command(tarball, cache)
    command = [*program, *_ALL_AT_ONCE, "-dump", "-", _argument(file)]
    result = run(command, timeout_s=SUBMIT_TIMEOUT_S, env=_environment(), check=False)
    messages = result.stderr.decode(errors="surrogateescape")
    if result.returncode != 0:
        raise SubmitError(f"{file}: condor_submit: {_complaint(messages)}", "correct the file")
    _check_unused(file, messages)
    ads = split_many(result.stdout.decode(errors="surrogateescape"))
    if not ads:
        raise SubmitError(f"{file}: no job is queued", "end it with 'queue'")
    owner = quote(_login_name())
    return tuple(ad.with_({"Owner": owner}) for ad in ads)


def _argument(file: Path) -> Path:
    return file if not str(file).startswith("-") else Path.cwd() / file


def _environment() -> dict[str, str]:
    """Ours; where HTCondor is not configured, it shall look no further than that."""
    if machine_has_condor_config():
        return dict(os.environ)
    # Without a network there is no address for it to find; it talks to nobody anyway.
    alone = {"CONDOR_CONFIG": "ONLY_ENV", "_CONDOR_NETWORK_INTERFACE": "127.0.0.1"}
    return {**alone, **os.environ, "CONDOR_CONFIG": "ONLY_ENV"}


def _login_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid{os.geteuid()}"


def _complaint(messages: str) -> str:
    """Return condor_submit's errors without the warnings that come before them."""
    match = _ERROR.search(messages)
    text = messages[match.start() :] if match else messages
    return one_line(text) or "it failed and does not say why"


def _check_unused(file: Path, messages: str) -> None:
    """Refuse lines that condor_submit passed over, unless they are commands of its own.

    Those it leaves unused where another command makes them meaningless.
    """
    lines = [" ".join(line.split()) for line in _UNUSED.findall(messages)]
    unknown = [line for line in lines if _command(line) not in COMMANDS]
    if not unknown:
        return
    near = difflib.get_close_matches(_command(unknown[0]), COMMANDS, 1)
    raise SubmitError(
        f"{file}: condor_submit knows no command '{_command(unknown[0])}' and no use for it"
        f" (the line '{unknown[0]}'{_and_more(len(unknown) - 1)})",
        f"did you mean '{near[0]}'?" if near else "take the line out",
    )


def _and_more(count: int) -> str:
    return f" and {count} more" if count else ""


def _command(line: str) -> str:
    return line.partition("=")[0].strip().lower()


def condor_submit_command(tarball: Optional[Path], cache: Path) -> tuple[Arg, ...]:
    """Return the start of an argument list that runs condor_submit."""
    installed = shutil.which("condor_submit")
    if installed:
        return (installed,)
    if tarball is None or not tarball.is_file():
        where = f", and no tarball '{tarball}' to take it from" if tarball else ""
        raise ToolError(
            f"there is no condor_submit to read submit files with{where}",
            "run 'vmcapsule tarball build', correct VM_CAPSULE_CONDOR_TARBALL, or install "
            "HTCondor (on Debian: condor)",
        )
    home = _unpacked(tarball, cache)
    lib = home / "lib"
    return (lib / _LOADER, "--library-path", lib, home / "bin" / "condor_submit")


def _unpacked(tarball: Path, cache: Path) -> Path:
    """Return the folder with ``bin/condor_submit`` and ``lib/`` of a tarball; unpack once."""
    status = tarball.stat()
    name = f"condor_submit-{tarball.name}-{status.st_size}-{status.st_mtime_ns}"
    home = cache / name
    try:
        if home.is_dir():
            return home
        cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=cache))
    except OSError as error:
        raise ToolError(
            f"cannot unpack condor_submit below '{cache}': {error.strerror}",
            "set VM_CAPSULE_CACHE_DIR to a folder that you can write to",
        ) from error
    try:
        _unpack(tarball, aside)
        aside.chmod(0o755)
        _publish(aside, home)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return home


def _publish(aside: Path, home: Path) -> None:
    try:
        publish(aside, home)
    except OSError:
        # Another process was faster; what it unpacked is the same.
        if not home.is_dir():
            raise


def _unpack(tarball: Path, aside: Path) -> None:
    (aside / "lib").mkdir()
    (aside / "bin").mkdir()
    try:
        with tarfile.open(tarball) as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts[1:]
                wanted = len(parts) == 2 and (
                    parts[0] == "lib" or parts == ("bin", "condor_submit")
                )
                if wanted:
                    _unpack_member(archive, member, aside.joinpath(*parts))
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ToolError(
            f"cannot unpack condor_submit from '{tarball}': {error}",
            "build the tarball again with 'vmcapsule tarball build --force'",
        ) from error
    for file in (aside / "lib" / _LOADER, aside / "bin" / "condor_submit"):
        if not file.exists():
            raise ToolError(
                f"the HTCondor tarball '{tarball}' has no {file.name}",
                "run 'vmcapsule tarball build', or install HTCondor (on Debian: condor)",
            )


def _unpack_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.issym():
        if "/" not in member.linkname:
            target.symlink_to(member.linkname)
        return
    source: Optional[IO[bytes]] = archive.extractfile(member)
    if source is None:
        return
    with source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    target.chmod(0o755)
