#!/usr/bin/python3 -IS
"""In the pool: runs the hook of its own name and writes down what that used.

Nothing of this program's own start is counted.  One line of JSON a call, appended with
one write: several hooks run at once.
"""

import json
import os
import re
import subprocess
import sys
import time

HOOKS = "/opt/vmcapsule/hooks"
LOG = "/var/tmp/bench-hooks"


def job_of(text: bytes) -> str:
    """The source job's id, out of what the JobRouter sends."""
    routed = re.search(rb'^RoutedFromJobId = "([\d.]+)"', text, re.MULTILINE)
    if routed:
        return routed.group(1).decode()
    ids = (re.search(rb"^%s = (\d+)" % key, text, re.M) for key in (b"ClusterId", b"ProcId"))
    return ".".join(found.group(1).decode() for found in ids if found)


def main() -> int:
    """Pass input, output and exit status through."""
    name = sys.argv[0].rpartition("/")[2]
    text = sys.stdin.buffer.read()
    started_s = time.perf_counter()
    process = subprocess.Popen([f"{HOOKS}/{name}"], stdin=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(text)
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    record = {
        "hook": name,
        "job": job_of(text),
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.perf_counter() - started_s,
        "status": process.returncode,
    }
    fd = os.open(LOG, os.O_WRONLY | os.O_APPEND)
    os.write(fd, json.dumps(record).encode() + b"\n")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
