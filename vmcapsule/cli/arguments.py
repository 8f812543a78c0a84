"""The command line: what may be said, and which function does it."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from vmcapsule import __version__
from vmcapsule.errors import UsageError

MIB = 1 << 20
DESCRIPTION = """\
Run vanilla HTCondor jobs inside virtual machines, without a change to the job.

  vmcapsule tarball build     once: make the HTCondor that runs in the VM
  vmcapsule template build    once: make the VM that capsules are made from
  vmcapsule run job.sub       run each job of a submit file in a VM, here
"""

EPILOG = """\
Exit status: 'run' exits with the job's own, or 128 + the signal that killed it.
When vmcapsule itself fails: 64 usage, 65 job or ad refused, 66 input missing,
67 template, 68 disk damaged, 69 program missing or failed, 70 vmcapsule's own
fault, 71 system error, 72 job too large for a capsule, 73 no room, 74 outputs
not delivered, 75 guest timed out, 76 guest failed, 78 configuration.

Configuration is HTCondor's: VM_CAPSULE_... in condor_config, or
_CONDOR_VM_CAPSULE_... in the environment; see docs/configuration.md.
"""

RUN = """\
Run every job of a submit file (or one job ad) in a virtual machine of its own
on this machine, one after the other, and put the outputs where HTCondor would.
Neither HTCondor nor a pool is needed.  The exit status is the job's, or 128 +
the signal that killed it; with several jobs, the first that is not 0.
"""

TRANSLATE = """\
Read a job ad on standard input, make its capsule under
VM_CAPSULE_SCRATCH_DIR_PREFIX and print the ad of the job that runs it, as the
template VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE names has it.  Takes a plain ad,
the output of 'condor_q -long JOB', or what a JobRouter sends its TRANSLATE_JOB
hook.  A job of the route 'slot' is packed where it runs: no capsule is made.
One made by hand stays until 'vmcapsule cleanup' removes it.

  condor_q -long 11.0 | vmcapsule translate > routed.ad
"""

FINALIZE = """\
Read the source ad, a line of dashes and the routed ad on standard input, as a
JobRouter sends them to its JOB_FINALIZE hook; deliver the outputs from the
returned capsule and print the exit attributes.  The capsule stays.  When the
outputs cannot be delivered, ExitCode and ExitReason say so, and the exit status
is 0 all the same: a JobRouter loses the job of a hook that fails.

  (cat source.ad; echo ------; cat routed.ad) | vmcapsule finalize
"""

UPDATE = """\
Read the routed ad on standard input, as a JobRouter sends it to its
UPDATE_JOB_INFO hook at every poll.  Of a held one it prints that the hold was
seen, and puts the hold into the user's log: the routed job then leaves the
queue, and its source can be released.

  vmcapsule update < routed.ad
"""

GC = """\
Remove from VM_CAPSULE_SCRATCH_DIR_PREFIX the capsules that nobody owns any
more: no process is at work on them, and no job in the queue needs them.  Prints
one line for each.  Outputs that were not delivered are kept for 'vmcapsule
extract'.  Root sees to everybody's, with the rights of each one's owner, and
puts into the hooks' logs what the jobs' owners could not write there.
"""

EXTRACT = """\
Deliver the outputs of a capsule that has run to where its job wants them: a
capsule's folder, or the id of a job whose outputs are still in the scratch
folder.  What was delivered before may have been changed since, and is not
written over: of outputs that were left over those alone are delivered, and of a
delivered capsule none, unless --again asks for all of them once more.  The
capsule stays until 'vmcapsule gc' removes it.

  vmcapsule extract 11.0
"""

CLEANUP = """\
Read the routed ad on standard input, as a JobRouter sends it to its JOB_CLEANUP
hook, and remove the capsule.  One whose guest reported and whose outputs were
not delivered is kept; 'vmcapsule extract' delivers them.  When its user's hold
ended the job, that is put into the user's log.

  vmcapsule cleanup < routed.ad
"""

CONFIG = """\
Print the configuration that makes this installation a plugin of the JobRouter,
with its hooks, route and limits, for a file in the access point's config.d.

  vmcapsule config > /etc/condor/config.d/60-vmcapsule

With --execute, the one for execute points, which advertise whether capsules can
run there.  Nothing of vmcapsule needs to be installed there but one file:

  vmcapsule config --execute --program /usr/local/libexec/vmcapsule-execute.pyz
"""

INSPECT = """\
List what is on a capsule's data disk: the files of its vfat partition, the
inputs and outputs packed in them, and the guest's exit record and log.
"""

TEMPLATE_BUILD = """\
Make the folder condor_vm_capsule/ under VM_CAPSULE_TEMPLATE from Debian
packages: a .vmx, system.vmdk, data.vmdk (vfat), and kernel and initrd beside
them.  The HTCondor of 'vmcapsule tarball build' goes in, where there is one:
jobs start sooner then.  Takes a minute or two and about 1 GB for a while.
Nothing is mounted on this machine.
"""

TEMPLATE_CHECK = """\
Say whether capsules can be made from the template under VM_CAPSULE_TEMPLATE,
ours or one made by hand: looks at its files and disks, then boots a copy and
asks the guest.  Exits with 67 when something would not work.
"""

TEMPLATE_PUBLISH = """\
Put a copy of the template under VM_CAPSULE_TEMPLATE into a folder, from which
execute points fetch it: by its path, or by the URL of a web server that serves
it (VM_CAPSULE_TEMPLATE_STORE).  Templates that are there already stay, so that
jobs which were routed for one still find it.

  vmcapsule template publish /srv/www/vmcapsule
"""

TARBALL_BUILD = """\
Repack Debian's HTCondor into one file that unpacks in / to /condor-<version>
and runs in any x86-64 Linux guest: VM_CAPSULE_CONDOR_TARBALL.
"""


class _Parser(argparse.ArgumentParser):
    """Ends with our own exit status for a malformed command line."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(UsageError.exit_status, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def parser() -> argparse.ArgumentParser:
    """Make the parser; what it returns has ``module`` and ``function`` beside the rest."""
    top = _Parser(
        prog="vmcapsule",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vmcapsule {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _add_hooks(commands)
    _add_capsule(commands)
    _add_images(commands)
    return top


def _add(commands: Any, name: str, function: str, text: str, summary: str) -> Any:
    parser = commands.add_parser(
        name,
        help=summary,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module, _, name = function.rpartition(".")
    parser.set_defaults(module=module or "commands", function=name)
    return parser


def _add_run(commands: Any) -> None:
    run = _add(commands, "run", "run", RUN, "run a submit file's jobs in VMs, here")
    run.add_argument("file", type=Path, metavar="FILE", help="submit file or job ad")
    run.add_argument(
        "--runner",
        choices=["condor", "direct"],
        default="condor",
        help="what starts the job in the guest: a personal HTCondor (default), or the "
        "guest's own script (faster; needs no HTCondor tarball)",
    )
    run.add_argument("--keep", action="store_true", help="keep the capsule afterwards")
    _add_timeout(run)
    run.add_argument("--json", action="store_true", help="print one JSON object a job")


def _add_timeout(parser: Any) -> None:
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="S",
        help="give up when the VM has not powered off after S seconds (default: "
        "VM_CAPSULE_TIMEOUT, or no limit once the guest is up)",
    )


def _seconds(text: str) -> float:
    value = float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds above 0")
    return value


def _seconds_or_none_at_all(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _folder(text: str) -> Path:
    if "://" in text:
        raise argparse.ArgumentTypeError(f"'{text}' is no folder; name the one served there")
    return Path(text)


def _mebibytes(text: str) -> int:
    number, unit = text.rstrip("iB"), text.rstrip("iB")[-1:].upper()
    scale = {"M": 1, "G": 1024, "T": 1024 * 1024}.get(unit)
    if scale is None or not number[:-1].isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write 512M or 8G")
    return int(number[:-1]) * scale


def _add_hooks(commands: Any) -> None:
    for name, text, summary in (
        ("translate", TRANSLATE, "job ad in, capsule and routed ad out"),
        ("update", UPDATE, "routed ad in, what changes in it out"),
        ("finalize", FINALIZE, "deliver the outputs of a returned capsule"),
        ("cleanup", CLEANUP, "remove a capsule that was delivered"),
    ):
        _add(commands, name, f"hook_commands.{name}", text, summary)
    gc = _add(commands, "gc", "gc", GC, "remove the capsules that nobody owns")
    gc.add_argument(
        "--every",
        type=_seconds,
        metavar="S",
        help="again every S seconds, until the process that started it ends",
    )
    gc.add_argument(
        "--min-age",
        type=_seconds_or_none_at_all,
        default=60.0,
        metavar="S",
        help="leave folders alone that changed in the last S seconds (default: 60)",
    )
    config = _add(commands, "config", "config", CONFIG, "print HTCondor's configuration")
    config.add_argument(
        "--execute", action="store_true", help="print the one for execute points"
    )
    config.add_argument(
        "--program",
        type=Path,
        metavar="FILE",
        help="with --execute: write the program that probes an execute point to FILE, "
        "which goes to the same place there (without a folder: to /usr/local/libexec)",
    )
    config.add_argument(
        "--wrapper",
        type=Path,
        metavar="FILE",
        help="with --execute: write the job wrapper to FILE, by which jobs that ask for it "
        "run in a machine without a JobRouter",
    )


def _add_capsule(commands: Any) -> None:
    boot = _add(
        commands,
        "boot",
        "boot",
        "Boot a capsule under QEMU and wait until it has powered itself off.",
        "boot a capsule by hand",
    )
    _add_timeout(boot)
    extract = _add(
        commands,
        "extract",
        "extract",
        EXTRACT,
        "deliver the outputs of a kept capsule",
    )
    inspect = _add(commands, "inspect", "inspect", INSPECT, "list what is on a data disk")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    for parser in (boot, inspect):
        parser.add_argument(
            "capsule", type=Path, metavar="CAPSULE", help="the capsule's folder"
        )
    extract.add_argument("capsule", metavar="CAPSULE", help="the capsule's folder, or a job id")
    extract.add_argument(
        "--again", action="store_true", help="deliver all outputs once more, over what is there"
    )


def _add_images(commands: Any) -> None:
    template = commands.add_parser("template", help="build, check or publish the template VM")
    actions = template.add_subparsers(metavar="ACTION", required=True)
    build = _add(
        actions, "build", "template_build", TEMPLATE_BUILD, "make it from Debian packages"
    )
    _add_suite(build)
    build.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a Debian package that jobs need in the guest (may be repeated)",
    )
    build.add_argument(
        "--data-size",
        type=_mebibytes,
        default=4096,
        metavar="SIZE",
        help="size of the data disk, which carries inputs and outputs (default: 4G; "
        "it takes room only as it is filled)",
    )
    build.add_argument(
        "--data-offset",
        type=int,
        default=MIB,
        metavar="BYTES",
        help="where the data partition starts (default: 1048576)",
    )
    build.add_argument(
        "--no-condor",
        dest="condor",
        action="store_false",
        help="leave HTCondor out, even where there is a tarball: jobs then bring it along",
    )
    build.add_argument(
        "--update",
        action="store_true",
        help="build again if what is there has another recipe or another HTCondor",
    )
    check = _add(actions, "check", "template_check", TEMPLATE_CHECK, "say whether it will work")
    check.add_argument(
        "--no-boot", dest="boot", action="store_false", help="look at the files only"
    )
    publish = _add(
        actions, "publish", "template_publish", TEMPLATE_PUBLISH, "let execute points fetch it"
    )
    publish.add_argument(
        "store", type=_folder, metavar="FOLDER", help="made where it is missing"
    )
    publish.add_argument(
        "--only", action="store_true", help="withdraw all other templates from there"
    )
    tarball = commands.add_parser("tarball", help="build the HTCondor for the guest")
    actions = tarball.add_subparsers(metavar="ACTION", required=True)
    _add_suite(
        _add(actions, "build", "tarball_build", TARBALL_BUILD, "repack Debian's HTCondor")
    )


def _add_suite(parser: Any) -> None:
    parser.add_argument(
        "--suite", default="trixie", help="the Debian release to take (default: trixie)"
    )
    parser.add_argument(
        "--force", action="store_true", help="build again even if it is there already"
    )
