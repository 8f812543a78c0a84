"""A job that takes longer than HTCondor waits to hear of it, or stands still for as long.

The guest's clock is set forward, as the job asks: by what HTCondor takes for the passing of
time (up to 20 minutes at once, ``MAX_TIME_SKIP``), and by as much as that of a machine that
was suspended jumps when it goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from vmcapsule.guest.script import joined
from vmcapsule.resources import resource

from .conftest import Outcome

pytestmark = pytest.mark.vm
#: The first is shorter than the lease of a startd, of 20 minutes; then two days.
STEPS_S = (1100, 1100, 200_000, 1100)
#: Started by the guest's root beside all else.
CLOCK = """
import glob as _glob, os as _os, time as _time
if _os.fork() == 0:
    while True:
        _time.sleep(0.1)
        for _asked in _glob.glob("/var/lib/vmcapsule/execute/dir_*/later"):
            with open(_asked) as _file:
                _step = _file.read()
            if _step.endswith("\\n"):
                _time.clock_settime(_time.CLOCK_REALTIME, _time.time() + int(_step))
                _os.remove(_asked)
"""
#: Before each step the daemons come round a few times: until they have nothing to do, however
#: slow the machine is (an idle second has a hundred ticks).
JOB = f"""\
began=$(date +%s)
rest() {{
    sleep 4
    for _ in $(seq 100); do
        read -r _ _ _ _ before _ </proc/stat
        sleep 1
        read -r _ _ _ _ after _ </proc/stat
        [ $((after - before)) -lt 90 ] || return
    done
}}
for step in {" ".join(map(str, STEPS_S))}; do
    rest
    echo $step >later
    for _ in $(seq 100); do [ ! -e later ] || sleep 0.2; done
done
rest
[ $(($(date +%s) - began)) -ge {sum(STEPS_S)} ] && echo days later
exit 3
"""


def test_a_job_may_take_its_time(run_job: Callable[..., Outcome], tmp_path: Path) -> None:
    script = joined(resource("guest/condor-init.py"))
    first = b"\nimport os\n"
    assert first in script
    changed = tmp_path / "init.py"
    changed.write_bytes(script.replace(first, first + CLOCK.encode(), 1))
    done = run_job(JOB, "", "--runner", "condor", INIT_SCRIPT_PATH=changed)
    assert (done.status, done.stderr.count("could not run")) == (3, 0), done.stderr
    assert done.read("out") == "days later\n"
