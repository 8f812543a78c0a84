"""What a person or a program is told: results, progress, one line a log event."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator

from vmcapsule.config import Config, check_cache, check_scratch, load_config
from vmcapsule.errors import SYSTEM_ERROR, UsageError, escaped, one_line

if TYPE_CHECKING:  # a hook has no time to import what only a type is needed of
    from vmcapsule.guest.exit_record import JobExit
    from vmcapsule.local.run import RunResult

#: Far above any ad that condor_q prints; stops a mistaken 'vmcapsule translate < disk'.
STDIN_BYTES_MAX = 64 << 20


def configuration() -> Config:
    """Read the configuration, with its warnings on standard error.

    Raises `ConfigError`, also where others could meddle with what is in scratch or cache.
    """
    config = load_config()
    for warning in config.warnings:
        print(f"vmcapsule: warning: {warning}", file=sys.stderr)
    check_scratch(config.scratch_dir_prefix)
    check_cache(config.cache)
    return config


def read_stdin() -> str:
    """All of standard input, which are ads; a person at a terminal is told so."""
    if sys.stdin.isatty():
        print("vmcapsule: reading ads from the terminal; end with Ctrl-D", file=sys.stderr)
    data = sys.stdin.buffer.read(STDIN_BYTES_MAX + 1)
    if len(data) > STDIN_BYTES_MAX:
        raise UsageError("standard input is too large to be an ad", "give it a job ad")
    return data.decode(errors="surrogateescape")


def describe_exit(job_exit: JobExit) -> str:
    """``exit code 3`` or ``killed by signal 9``."""
    if job_exit.exit_signal is not None:
        core = " (core dumped)" if job_exit.core_dumped else ""
        return f"killed by signal {job_exit.exit_signal}{core}"
    return f"exit code {job_exit.exit_code}"


def result_lines(result: RunResult) -> list[str]:
    """A finished job for people: how it ended, what came back, where the time went."""
    lines = [f"job {result.job_id}: {describe_exit(result.exit)}"]
    lines += output_lines(result.outputs)
    version = result.exit.guest.get("condor_version", "")
    runner = f"HTCondor {version}" if result.exit.runner == "condor" else "the direct runner"
    lines.append(
        f"  ran under {runner} in a VM ({result.accelerator}), "
        f"CPU {result.exit.user_cpu_s + result.exit.system_cpu_s:.1f} s, "
        f"memory {result.exit.max_rss_kib // 1024} MiB"
    )
    lines += [f"  {name:<22}{seconds:8.2f} s" for name, seconds in result.phases_s.items()]
    if result.capsule:
        lines.append(f"  capsule kept: {result.capsule}")
    return lines


def output_lines(paths: Iterable[str]) -> list[str]:
    """What was delivered, a line each; the guest chose the names."""
    return [f"  {escaped(path)}" for path in paths]


def result_record(result: RunResult) -> dict[str, Any]:
    """A finished job for programs (``run --json``)."""
    return {
        "job_id": result.job_id,
        "exit_code": result.exit.exit_code,
        "exit_signal": result.exit.exit_signal,
        "core_dumped": result.exit.core_dumped,
        "runner": result.exit.runner,
        "accelerator": result.accelerator,
        "started_at_s": result.exit.started_at_s,
        "ended_at_s": result.exit.ended_at_s,
        "user_cpu_s": result.exit.user_cpu_s,
        "system_cpu_s": result.exit.system_cpu_s,
        "max_rss_kib": result.exit.max_rss_kib,
        "outputs": list(result.outputs),
        "phases_s": dict(result.phases_s),
        "guest": dict(result.exit.guest),
        "capsule": os.fspath(result.capsule) if result.capsule else None,
        "error": None,
    }


def failure_record(job_id: str, error: Exception) -> dict[str, Any]:
    """A job that vmcapsule could not run, for programs."""
    return {
        "job_id": job_id,
        "exit_code": None,
        "exit_signal": None,
        "error": {
            "kind": type(error).__name__,
            "status": getattr(error, "exit_status", SYSTEM_ERROR),
            "message": one_line(str(error)),
        },
    }


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done: a spinner on a terminal, else a line for each step."""
    if not sys.stderr.isatty():
        yield lambda step: print(f"{title}: {step}", file=sys.stderr, flush=True)
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(title) as status:
        started = time.monotonic()

        def show(step: str) -> None:
            status.update(f"{title}: {step} ({time.monotonic() - started:.0f} s)")

        yield show


def printable(data: Any) -> str:
    """JSON for people's eyes; lone surrogates and control characters stay escaped."""
    return json.dumps(data, indent=1, sort_keys=False)
