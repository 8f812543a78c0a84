"""The process that runs a gahp's machine: the slot's program, as the ad wants its machine.

It runs as the job's owner, in the job's folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Sequence

from vmcapsule.capsule.record import RETURNED, Capsule
from vmcapsule.slot import execute


def main(arguments: Sequence[str]) -> int:
    """Run the machine; return the job's exit code, or end as `vmcapsule.slot.execute` does.

    ``arguments``: an open file to say "ready" in, then the machine's memory in MiB and its
    processors, 0 where the ad does not say and the capsule's record does.
    """
    ready, memory_mib, cpus = (int(each) for each in arguments)
    # Whatever ends us from now on, file transfer finds what it is to bring.
    (Path.cwd() / RETURNED).mkdir(exist_ok=True)
    os.write(ready, b"\n")
    os.close(ready)

    def as_asked(made: Capsule) -> Capsule:
        return made._replace(memory_mib=memory_mib or made.memory_mib, cpus=cpus or made.cpus)

    return execute.main(as_asked)
