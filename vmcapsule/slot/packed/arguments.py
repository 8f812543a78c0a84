"""How a job's stand-in is called: the machine's settings, and the job's command."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path
from typing import Mapping, Sequence

from vmcapsule.errors import ExecFailed, UsageError
from vmcapsule.slot import starter
from vmcapsule.slot.ending import say
from vmcapsule.slot.packed import routed, run, telling
from vmcapsule.slot.packed.carry import Settings
from vmcapsule.slot.packed.found import Found, find
from vmcapsule.slot.packed.share import room_in

#: Where QEMU and what else is started here are looked for, whatever the job says.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: By which a job asks for hardware isolation; the routed ad says so in our arguments.
_REQUIRE_KVM = "VmCapsuleRequireKVM"
#: With what a shell ends where it cannot start a program.
_NOT_FOUND, _NOT_STARTED = 127, 126


def packed(arguments: Sequence[str]) -> int:
    """Run the job that an execute point's job wrapper was given; return its exit code.

    That of a program that cannot be started is a shell's, as behind other wrappers: nothing
    holds the job here, and as a failure of the wrapper's it would be tried for ever.
    """
    args, command = parsed(of_wrapper(), arguments)
    environment = _kept(args.environment) if args.environment else _given()
    _part_from_the_jobs()
    found = find(Path.cwd(), command, environment)
    settings = _settings(args)
    if starter.is_true(found.job_ad, _REQUIRE_KVM):
        settings = settings._replace(require_kvm=True)
    try:
        done = run.run(found, routed.any_template_here(found.machine_ad), settings)
    except ExecFailed as error:
        say(f"vmcapsule: {error.message}", sys.stderr)
        return _NOT_FOUND if error.number == errno.ENOENT else _NOT_STARTED
    telling.ran(*done, starter.read_slot(found.here, environment))
    return run.end(done.job_exit)


def of_route(arguments: Sequence[str]) -> int:
    """Run the job whose place we have in its routed ad; return its exit code."""
    here, given = Path.cwd(), _given()
    _part_from_the_jobs()
    told = starter.read_slot(here, given)
    try:
        args, command = parsed(of_routed_ad(), arguments)
        settings = _settings(args)
        found = _found(here, command, given, settings)
        template = routed.template_here(found.machine_ad, args.template_like)
        if args.executable:
            found = as_executable(found)
        done = run.run(found, template, settings)
    except Exception as error:
        telling.failed(error, told)
        raise
    telling.ended(*done, told)
    return run.end(done.job_exit)


def _found(
    here: Path, command: Sequence[str], given: Mapping[str, str], settings: Settings
) -> Found:
    """What a starter would have left for the source itself."""
    overhead_mib = settings.memory_overhead_mib
    source = routed.source_ad(starter.ad_text(here, given, ".job.ad"), overhead_mib)
    found = find(here, command, given)
    environment = routed.environment(source, given, found.cpus)
    room = room_in(found.room, overhead_mib)
    told = {"Memory": room.memory_mib, "Disk": room.disk_kib}
    # The routed ad asks for more of chirp than the job may have, for us.
    proxy = found.chirp
    if proxy is not None:
        proxy = proxy._replace(delayed_only=not routed.wants_updates(source))
    return found._replace(
        chirp=proxy,
        environment=tuple(environment.items()),
        room=room,
        job_ad=source,
        machine_ad=routed.with_(found.machine_ad, told),
    )


def as_executable(found: Found) -> Found:
    """As a starter treats what was transferred as a job's executable: it can be started, and
    is no output by itself, whatever the job does to it."""
    (found.here / found.executable).chmod(0o755)
    is_listed = routed.has(found.job_ad, "TransferOutput")
    return found._replace(omit=() if is_listed else (found.executable,))


def _given() -> dict[str, str]:
    """The environment before Python added to it, as it does for programs (PEP 538)."""
    return _environment(Path("/proc/self/environ"))


def _kept(file: Path) -> dict[str, str]:
    """The environment before a shell changed it, in a file that the job is not to see."""
    try:
        return _environment(file)
    finally:
        file.unlink()


def _environment(file: Path) -> dict[str, str]:
    entries = os.fsdecode(file.read_bytes()).split("\0")
    return dict(entry.partition("=")[::2] for entry in entries if entry)


def _part_from_the_jobs() -> None:
    """Nothing of the job's environment is for QEMU."""
    os.environ.clear()
    os.environ["PATH"] = _PATH


def _settings(args: argparse.Namespace) -> Settings:
    return Settings(args.network, args.require_kvm, args.timeout, args.memory_overhead_mib)


def parsed(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, Sequence[str]]:
    """What is for us, and behind the first ``--`` the job's command, word for word."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    try:
        if not arguments[at + 1 :]:
            parser.error("there is no command")
        return parser.parse_args(arguments[:at]), arguments[at + 1 :]
    except SystemExit:  # what calls us is of another version, say: that is no job's end
        raise UsageError(
            f"{parser.description} says '{' '.join(arguments)}'",
            "write it and the program of the execute point with the same vmcapsule",
        ) from None


def of_wrapper() -> argparse.ArgumentParser:
    """What ``templates/job-wrapper.sh`` says."""
    made = _parser("packed", "the job wrapper")
    made.add_argument("--environment", type=Path, metavar="FILE")
    return made


def of_routed_ad() -> argparse.ArgumentParser:
    """What `vmcapsule.router.slot` puts into the routed ad."""
    made = _parser("routed", "the routed ad")
    made.add_argument("--template-like", required=True)
    made.add_argument("--executable", action="store_true")
    return made


def _parser(name: str, says: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"vmcapsule {name}", description=says)
    made.add_argument("--network", action="store_true")
    made.add_argument("--require-kvm", action="store_true")
    made.add_argument("--timeout", type=float)
    made.add_argument("--memory-overhead-mib", type=int, default=256)
    return made
