"""The exit record: what the host is told of how the job ended, so that it can be read."""

import json
import os
import sys

from init.contract import EXIT_RECORD_BYTES_MAX, FORMAT, NAME_CHARS_MAX, NAMED_MAX

MYPY = False
if MYPY:
    from typing import Any, Dict, List

NO_OUTPUTS = {"entries": 0, "packs": 0, "bytes": 0}


def new_report(phases: "Dict[str, float]") -> "Dict[str, Any]":
    """The record of a job of which nothing is known yet."""
    none = "runner exit_code exit_signal started_at_s ended_at_s failure condor_ad"
    report: Dict[str, Any] = dict.fromkeys(none.split())
    report.update(format=FORMAT, state="failed", core_dumped=False)
    report.update(user_cpu_s=0.0, system_cpu_s=0.0, max_rss_kib=0)
    report.update(image_size_kib=0, disk_usage_kib=0, outputs=NO_OUTPUTS, phases=phases)
    tell_lacking(report, [], {})
    machine = {"kernel": os.uname()[2], "python": sys.version.split()[0]}
    report["guest"] = dict(machine, condor_version="")
    return report


def tell_lacking(
    report: "Dict[str, Any]", missing: "List[str]", unsent: "Dict[str, int]"
) -> None:
    """Put the first few of the outputs that do not come into the record, and how many."""
    report["missing_outputs"] = [name[:NAME_CHARS_MAX] for name in missing[:NAMED_MAX]]
    report["missing_count"] = len(missing)
    first = sorted(unsent.items())[:NAMED_MAX]
    report["unsent_outputs"] = [[name[:NAME_CHARS_MAX], why] for name, why in first]
    report["unsent_count"] = len(unsent)


def record_bytes(report: "Dict[str, Any]") -> bytes:
    """The record as it is written.  All in it is bounded but the ad, which may be as long as
    the job's environment and is left out then."""
    data = json.dumps(report).encode("ascii")
    if len(data) > EXIT_RECORD_BYTES_MAX:
        data = json.dumps(dict(report, condor_ad=None)).encode("ascii")
    return data
