"""What each command of ``vmcapsule`` does with its arguments; each returns an exit status."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Callable, Optional

from vmcapsule import report
from vmcapsule.ads import Ad, parse_ad, split_many
from vmcapsule.config import Config, load_config
from vmcapsule.errors import (
    SYSTEM_ERROR,
    InputError,
    TemplateError,
    UsageError,
    VmCapsuleError,
    one_line,
)

#: Far above any ad that condor_q prints; stops a mistaken 'vmcapsule translate < disk'.
STDIN_BYTES_MAX = 64 << 20


def _config() -> Config:
    config = load_config()
    for warning in config.warnings:
        print(f"vmcapsule: warning: {warning}", file=sys.stderr)
    return config


def _stdin() -> str:
    if sys.stdin.isatty():
        print("vmcapsule: reading ads from the terminal; end with Ctrl-D", file=sys.stderr)
    data = sys.stdin.buffer.read(STDIN_BYTES_MAX + 1)
    if len(data) > STDIN_BYTES_MAX:
        raise UsageError("standard input is too large to be an ad", "give it a job ad")
    return data.decode(errors="surrogateescape")


def run(arguments: argparse.Namespace) -> int:
    """``vmcapsule run``: the jobs of a submit file, one after the other."""
    from vmcapsule import run as runner
    from vmcapsule.job import read_job
    from vmcapsule.tarball import tarball_of
    from vmcapsule.template import load

    config = _config()
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
    from vmcapsule.submit import ads_from_submit, is_submit_file

    try:
        text = file.read_bytes().decode(errors="surrogateescape")
    except OSError as error:
        raise InputError(
            f"cannot read '{file}': {error.strerror}", "name a submit file or a job ad"
        ) from error
    if is_submit_file(text):
        return ads_from_submit(file, tarball=config.condor_tarball, cache=config.cache)
    ads = split_many(text)
    if not ads:
        raise InputError(f"'{file}' holds no job", "name a submit file or a job ad")
    return ads


def translate(arguments: argparse.Namespace) -> int:
    """``vmcapsule translate``: one routed ad on standard output, written last."""
    from vmcapsule import capsule
    from vmcapsule.translate import held_ad
    from vmcapsule.translate import translate as work

    config = _config()
    capsules: list[capsule.Capsule] = []

    def one(text: str) -> tuple[str, str, str]:
        try:
            ad, made = work(text, config)
        except VmCapsuleError as error:
            held = held_ad(text, error)
            if held is None:
                raise
            return held.long_form(), "?", f"held: {error}"
        capsules.append(made)
        return ad.long_form(), made.job_id or "?", f"translated into {made.folder}"

    try:
        return _hook(config.translate_log, one)
    except BaseException:
        # Nobody got the ad, so nobody will ever ask for the capsule.
        for made in capsules:
            capsule.remove(made)
        raise


def finalize(arguments: argparse.Namespace) -> int:
    """``vmcapsule finalize``: the exit attributes on standard output, written last.

    Exits with 0 whenever it has printed an ad, also one that says what went wrong: the
    JobRouter loses a job whose hook fails.
    """
    from vmcapsule.finalize import finalize as work
    from vmcapsule.finalize import undelivered

    config = _config()

    def one(text: str) -> tuple[str, str, str]:
        try:
            ad, job_exit, made = work(text)
        except VmCapsuleError as error:
            ad, job_id = undelivered(text, error)
            print(f"vmcapsule: {one_line(str(error))}", file=sys.stderr)
            return ad.long_form(), job_id, f"not delivered: {error}"
        event = f"delivered from {made.folder}: {report.describe_exit(job_exit)}"
        return ad.long_form(), made.job_id or "?", event

    return _hook(config.exit_log, one)


def cleanup(arguments: argparse.Namespace) -> int:
    """``vmcapsule cleanup``: prints nothing."""
    from vmcapsule.cleanup import cleanup as work

    def one(text: str) -> tuple[str, str, str]:
        job_id, event = work(text)
        return "", job_id, event

    return _hook(_config().exit_log, one)


def config(arguments: argparse.Namespace) -> int:
    """``vmcapsule config``."""
    from vmcapsule.snippet import router_snippet

    sys.stdout.write(router_snippet(_config()))
    return 0


def _hook(log: Optional[Path], work: Callable[[str], tuple[str, str, str]]) -> int:
    """Run a hook: ads in, an ad out, one line in its log."""
    try:
        output, job_id, event = work(_stdin())
    except VmCapsuleError as error:
        report.log_event(log, "?", f"failed: {error}")
        raise
    report.log_event(log, job_id, event)
    sys.stdout.flush()
    sys.stdout.buffer.write(output.encode(errors="surrogateescape"))
    sys.stdout.flush()
    return 0


def boot(arguments: argparse.Namespace) -> int:
    """``vmcapsule boot``."""
    from vmcapsule import capsule
    from vmcapsule.run import boot_capsule

    config = _config()
    made = capsule.load(arguments.capsule)
    with report.progress(f"capsule {made.folder.name}") as progress:
        progress("booting")
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
    from vmcapsule import capsule
    from vmcapsule.job import read_job
    from vmcapsule.run import deliver_from

    made = capsule.load(arguments.capsule)
    job = read_job(parse_ad(capsule.source_ad(made)))
    job_exit, outputs = deliver_from(made, job)
    print(f"job {job.job_id}: {report.describe_exit(job_exit)}")
    for line in report.output_lines(outputs):
        print(line)
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """``vmcapsule inspect``."""
    from vmcapsule.inspection import inspect as work
    from vmcapsule.inspection import lines

    config = _config()
    found = work(arguments.capsule, config.disk_part_offset_bytes)
    print(report.printable(found) if arguments.json else "\n".join(lines(found)))
    return 0


def template_build(arguments: argparse.Namespace) -> int:
    """``vmcapsule template build``: nothing is done when it is there already."""
    from vmcapsule.images.template_build import build_template
    from vmcapsule.template import FOLDER

    config = _config()
    target = config.template / FOLDER
    if target.exists() and not arguments.force:
        print(f"the template is there already: {target} (--force builds it again)")
        return 0
    with report.progress("template") as progress:
        template = build_template(
            config.template,
            suite=arguments.suite,
            packages=tuple(arguments.include),
            data_size_bytes=arguments.data_size << 20,
            data_offset_bytes=arguments.data_offset,
            mount_point=config.data_disk_mount_point,
            progress=progress,
        )
    print(f"the template is ready: {template.folder}")
    return 0


def template_check(arguments: argparse.Namespace) -> int:
    """``vmcapsule template check``: exits with the status of a template error if it fails."""
    from vmcapsule.images.check import check_template

    config = _config()
    with report.progress("template") as progress:
        findings = check_template(config, boot=arguments.boot, progress=progress)
    for finding in findings:
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        print(f"{finding.level:<8}{finding.text}{remedy}")
    errors = [finding for finding in findings if finding.level == "error"]
    print("this template will not work" if errors else "this template will work")
    return TemplateError.exit_status if errors else 0


def tarball_build(arguments: argparse.Namespace) -> int:
    """``vmcapsule tarball build``: into the cache, or where the knob says."""
    from vmcapsule.images.tarball import build_tarball

    config = _config()
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
