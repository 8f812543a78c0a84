"""A job that takes longer than HTCondor waits to hear of it.

The guest's clock is set forward, as the job asks, by no more at once than HTCondor takes for
the passing of time (``MAX_TIME_SKIP``, 20 minutes).
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from vmcapsule.guest.script import joined
from vmcapsule.resources import resource

from .conftest import Outcome

pytestmark = pytest.mark.vm
STEP_S = 1100
#: All in all longer than the lease, and shorter than a daemon may be silent (an hour).
STEPS = 2
#: Started by the guest's root beside all else.
CLOCK = f"""
import glob as _glob, os as _os, time as _time
if _os.fork() == 0:
    while True:
        _time.sleep(0.1)
        for _asked in _glob.glob("/var/lib/vmcapsule/execute/dir_*/later"):
            _time.clock_settime(_time.CLOCK_REALTIME, _time.time() + {STEP_S})
            _os.remove(_asked)
"""
#: Between two steps the daemons come round a few times.
JOB = f"""\
began=$(date +%s)
for step in $(seq {STEPS}); do
    touch later
    for _ in $(seq 100); do [ ! -e later ] || sleep 0.2; done
    sleep 8
done
[ $(($(date +%s) - began)) -ge {STEPS * STEP_S} ] && echo half an hour later
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
    assert done.read("out") == "half an hour later\n"
