"""What each command of ``vmcapsule`` does with its arguments; each returns an exit status."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Optional

from vmcapsule.classad.ads import Ad, split_many
from vmcapsule.cli import report
from vmcapsule.config import Config
from vmcapsule.errors import (
    SYSTEM_ERROR,
    InputError,
    SubmitError,
    TemplateError,
    UsageError,
    VmCapsuleError,
    one_line,
)


def run(arguments: argparse.Namespace) -> int:
    """``vmcapsule run``: the jobs of a submit file, one after the other."""
    from vmcapsule.job.source import read_job
    from vmcapsule.local import run as runner
    from vmcapsule.template.tarball import tarball_of
    from vmcapsule.template.template import load

    config = report.configuration()
    ads = _job_ads(arguments.file, config)
    template = load(config.template)
    tarball = tarball_of(config) if arguments.runner == "condor" else None
    status = 0
    for number, ad in enumerate(ads):
        name = f"job {ad.expr('ClusterId') or 0}.{ad.expr('ProcId') or number}"
        try:
            with report.progress(name) as progress:
                result = runner.run_job(
                    read_job(ad),
                    template,
                    config,
                    tarball=tarball,
                    timeout_s=arguments.timeout or config.timeout_s,
                    keep=arguments.keep,
                    progress=progress,
                )
        except (VmCapsuleError, OSError) as error:
            # One job's failure is not the others'.
            status = status or _report_failure(name, error, arguments.json)
            continue
        if arguments.json:
            print(json.dumps(report.result_record(result)), flush=True)
        else:
            print("\n".join(report.result_lines(result)), flush=True)
        status = status or result.exit.status
    return status


def _report_failure(name: str, error: Exception, as_json: bool) -> int:
    """Say that a job could not be run; return the status for it."""
    print(f"vmcapsule: {name}: {one_line(str(error))}", file=sys.stderr)
    if as_json:
        print(json.dumps(report.failure_record(name.split()[-1], error)), flush=True)
    return error.exit_status if isinstance(error, VmCapsuleError) else SYSTEM_ERROR


def _job_ads(file: Path, config: Config) -> tuple[Ad, ...]:
    from vmcapsule.job.submit import ads_from_submit, is_dag, is_submit_file

    try:
        text = file.read_bytes().decode(errors="surrogateescape")
    except OSError as error:
        raise InputError(
            f"cannot read '{file}': {error.strerror}", "name a submit file or a job ad"
        ) from error
    if is_submit_file(text):
        return ads_from_submit(file, tarball=config.condor_tarball, cache=config.cache)
    if is_dag(text):
        raise SubmitError(
            f"'{file}' describes a DAG, which needs a queue",
            "submit it to a pool with condor_submit_dag, or run its nodes' submit files",
        )
    ads = split_many(text)
    if not ads:
        raise InputError(f"'{file}' holds no job", "name a submit file or a job ad")
    return ads


def config(arguments: argparse.Namespace) -> int:
    """``vmcapsule config``."""
    from vmcapsule.cli.snippet import router_snippet

    if arguments.execute or arguments.program or arguments.wrapper:
        return _config_execute(arguments)
    sys.stdout.write(router_snippet(report.configuration()))
    return 0


def _config_execute(arguments: argparse.Namespace) -> int:
    """``vmcapsule config --execute``: with ``--program`` that is written too."""
    from vmcapsule.atomic import write_file
    from vmcapsule.cli.snippet import execute_snippet, job_wrapper
    from vmcapsule.slot.program import PROGRAM_HOME, write_program
    from vmcapsule.template.template import load

    if not arguments.execute:
        raise UsageError("--program and --wrapper are for '--execute' only", "give both")
    program: Path = arguments.program or PROGRAM_HOME
    configured = report.configuration()
    if arguments.program:
        write_program(program, load(configured.template).kernel)
    home = _home(program)
    wrapper: Optional[Path] = arguments.wrapper
    if wrapper:
        write_file(wrapper, job_wrapper(configured, home).encode(), 0o755)
        wrapper = _home(wrapper)
    sys.stdout.write(execute_snippet(configured, home, wrapper))
    return 0


def _home(path: Path) -> Path:
    """Where a file is on execute points.  Without a folder it is only put down here, to be
    copied to the usual place there."""
    from vmcapsule.slot.program import PROGRAM_HOME

    return path if path.is_absolute() else PROGRAM_HOME.parent / path.name


def gc(arguments: argparse.Namespace) -> int:
    """``vmcapsule gc``: once, or again and again for as long as the caller lives."""
    from vmcapsule.router import event_log
    from vmcapsule.router.sweep import sweep

    def say(line: str) -> None:
        print(line, flush=True)

    parent = os.getppid()
    while True:
        config = report.configuration()
        for log in event_log.logs_of(config):
            event_log.collect(log, say)
        sweep(config.scratch_dir_prefix, arguments.min_age, say)
        if arguments.every is None:
            return 0
        time.sleep(arguments.every)
        # condor_master does not take a program along that is no daemon of HTCondor's.
        if os.getppid() != parent:
            return 0


def boot(arguments: argparse.Namespace) -> int:
    """``vmcapsule boot``."""
    from vmcapsule.capsule import delivery, states
    from vmcapsule.capsule.booting import boot_capsule
    from vmcapsule.capsule.record import load_capsule

    config = report.configuration()
    made = load_capsule(arguments.capsule)
    with report.progress(f"capsule {made.folder.name}") as progress, states.locked(made.folder):
        progress("booting")
        delivery.expect_all(made)
        kind = boot_capsule(
            made,
            cache=config.cache,
            timeout_s=arguments.timeout or config.timeout_s,
            alive=lambda: progress("running"),
        )
    print(f"the guest powered off ({kind}); its console: {made.console}")
    return 0


def extract(arguments: argparse.Namespace) -> int:
    """``vmcapsule extract``."""
    from vmcapsule.capsule import delivery, states
    from vmcapsule.capsule.record import load_capsule

    folder = _capsule_folder(arguments.capsule)
    made = load_capsule(folder)
    with states.locked(made.folder):
        if arguments.again:
            delivery.forget_left_over(made)
        elif made.state is states.State.DELIVERED:
            print(
                f"job {made.job_id}: its outputs were delivered before; nothing was written "
                "(--again delivers all of them once more)"
            )
            return 0
        job_exit, outputs = delivery.deliver_from(made, delivery.job_of(made))
    print(f"job {made.job_id}: {report.describe_exit(job_exit)}")
    for line in report.output_lines(outputs):
        print(line)
    return 0


def _capsule_folder(named: str) -> Path:
    """The folder of a capsule named by its path or by its job's id."""
    from vmcapsule.capsule import scratch, states
    from vmcapsule.capsule.states import State

    if not re.fullmatch(r"[0-9]+\.[0-9]+", named) or Path(named).exists():
        return Path(named)
    folder = report.configuration().scratch_dir_prefix
    found = [
        found.path
        for found in scratch.find(folder, named)
        if found.uid == os.getuid() and found.name.is_whole
    ]
    waiting = [path for path in found if states.state_of(path) is not State.DELIVERED] or found
    if len(waiting) == 1:
        return waiting[0]
    if waiting:
        raise UsageError(
            f"job {named} has {len(waiting)} capsules: {', '.join(map(str, waiting))}",
            "name the folder",
        )
    raise UsageError(
        f"there is no capsule of yours for job {named} in '{folder}'",
        "see 'condor_history' for how it ended; the scratch folder is "
        "VM_CAPSULE_SCRATCH_DIR_PREFIX",
    )


def inspect(arguments: argparse.Namespace) -> int:
    """``vmcapsule inspect``."""
    from vmcapsule.capsule.inspection import inspect as work
    from vmcapsule.capsule.inspection import lines

    config = report.configuration()
    found = work(arguments.capsule, config.disk_part_offset_bytes)
    print(report.printable(found) if arguments.json else "\n".join(lines(found)))
    return 0


def template_build(arguments: argparse.Namespace) -> int:
    """``vmcapsule template build``: nothing is done when it is there already."""
    from vmcapsule.images.template_build import build_template, is_current
    from vmcapsule.template.tarball import tarball_of
    from vmcapsule.template.template import FOLDER, load

    config = report.configuration()
    target = config.template / FOLDER
    condor = tarball_of(config) if arguments.condor and config.condor_tarball else None
    if target.exists() and not arguments.force:
        there = load(config.template)
        # One made by hand has no record, and is its maker's business.
        if not there.record or is_current(there, condor):
            print(f"the template is there already: {target} (--force builds it again)")
            return 0
        if not arguments.update:
            print(
                f"the template is there already: {target}, built from another recipe or with "
                "another HTCondor (--update builds it again)"
            )
            return 0
    with report.progress("template") as progress:
        template = build_template(
            config.template,
            suite=arguments.suite,
            packages=tuple(arguments.include),
            data_size_bytes=arguments.data_size << 20,
            data_offset_bytes=arguments.data_offset,
            mount_point=config.data_disk_mount_point,
            condor=condor,
            progress=progress,
        )
    inside = f"HTCondor {condor.version}" if condor else "no HTCondor, so jobs bring it along"
    print(f"the template is ready: {template.folder} ({inside})")
    return 0


def template_check(arguments: argparse.Namespace) -> int:
    """``vmcapsule template check``: exits with the status of a template error if it fails."""
    from vmcapsule.images.check import check_template

    config = report.configuration()
    with report.progress("template") as progress:
        findings = check_template(config, boot=arguments.boot, progress=progress)
    for finding in findings:
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        print(f"{finding.level:<8}{finding.text}{remedy}")
    errors = [finding for finding in findings if finding.level == "error"]
    print("this template will not work" if errors else "this template will work")
    return TemplateError.exit_status if errors else 0


def template_publish(arguments: argparse.Namespace) -> int:
    """``vmcapsule template publish``: what is there already is not copied again."""
    from vmcapsule.template.publish import add
    from vmcapsule.template.template import load

    config = report.configuration()
    with report.progress("template") as progress:
        made = add(load(config.template), arguments.store, progress, only=arguments.only)
    print(f"the template {made.likeness} is in {arguments.store}")
    return 0


def tarball_build(arguments: argparse.Namespace) -> int:
    """``vmcapsule tarball build``: into the cache, or where the knob says."""
    from vmcapsule.images.tarball import build_tarball

    config = report.configuration()
    if config.condor_tarball and config.condor_tarball.exists() and not arguments.force:
        print(
            f"the tarball is there already: {config.condor_tarball} (--force builds it again)"
        )
        return 0
    # In the cache its name says its version; where the knob says, the name is the user's.
    config.cache.mkdir(parents=True, exist_ok=True)
    chosen = config.condor_tarball
    target = chosen if chosen and chosen.parent != config.cache else config.cache
    with report.progress("tarball") as progress:
        built = build_tarball(target, suite=arguments.suite, progress=progress)
    print(f"the tarball is ready: {built.path} (HTCondor {built.version})")
    return 0
