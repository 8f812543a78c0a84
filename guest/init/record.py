"""The job record, checked."""

import json
import os
import re

from init.contract import FORMAT, JOB_RECORD
from init.files import plain_path, to_bytes
from init.report import Failure

MYPY = False
if MYPY:
    from typing import Any, Dict

    Job = Dict[str, Any]

JOB_TYPES = {
    "str": "runner executable",
    "str or null": "stdin stdout stderr user condor_version time_zone sandbox"
    " chirp_config chirp_cookie",
    "int or null": "success_status disk_kib work_disk_bytes",
    "list": "arguments omit",
    "list or null": "outputs failure_outputs",
    "bool or null": "all_changes",
    "dict": "environment",
}


def check_job(job: "Job") -> None:
    """Raise ValueError for a record that is not as the contract says."""
    if job.get("format") != FORMAT:
        raise ValueError(f"its format is {job.get('format')!r}, not {FORMAT}")
    for types, name in ((t, name) for t, names in JOB_TYPES.items() for name in names.split()):
        kind = "null" if job.get(name) is None else type(job[name]).__name__
        if kind not in types.split(" or "):
            raise ValueError(f"its {name!r} is {job.get(name)!r}, not of type {types}")
        values = job[name] if kind == "list" else [job[name]] if kind == "str" else []
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"its {name!r} holds {value!r}, not a string")
            to_bytes(value)
    for name, value in job["environment"].items():
        if not isinstance(value, str) or not name or "=" in name:
            raise ValueError(f"its environment has {name!r} = {value!r}")
        to_bytes(name + value)
    check_names(job)


def check_names(job: "Job") -> None:
    if job["runner"] not in ("condor", "direct"):
        raise ValueError("there is no runner {!r}".format(job["runner"]))
    if not job["executable"]:
        raise ValueError("it names no executable")
    for path in filter(None, (job["stdout"], job["stderr"])):
        plain_path(path)
    if job.get("sandbox"):
        if not job["sandbox"].startswith("/"):
            raise ValueError("its sandbox {!r} is no absolute path".format(job["sandbox"]))
        plain_path(job["sandbox"][1:])
    for path in (job["outputs"] or []) + (job.get("failure_outputs") or []):
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"its output {path!r} lies outside the sandbox")
    version = job["condor_version"] or ""
    known = re.fullmatch(r"[A-Za-z0-9][\w.+~-]{0,99}", version)
    if not known if job["runner"] == "condor" else version:
        raise ValueError("its condor_version is {!r}".format(job["condor_version"]))


def read_job(data_dir: str) -> "Job":
    path = os.path.join(data_dir, JOB_RECORD)
    try:
        with open(path, "rb") as stream:
            job: Job = json.loads(stream.read().decode("ascii"))
        if not isinstance(job, dict):
            raise ValueError("it is not an object")
        check_job(job)
        return job
    except (OSError, ValueError, RecursionError) as error:
        raise Failure("record", f"the job record {path} is not valid: {error}") from error
