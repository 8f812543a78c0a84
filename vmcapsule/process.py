"""The one place that starts programs: argument lists, a time limit, evidence on failure."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import IO, Mapping, Optional, Sequence, Union

from vmcapsule.errors import ToolError, one_line

Arg = Union[str, Path]

#: Debian's package for a program that is not in a package of its own name.
PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "condor_submit": "condor",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "pasta": "passt",
}
#: What helps where no package of Debian's has it.
REMEDIES = {
    "vmrun": "put VMware's own command on the PATH of HTCondor's daemons, or set "
    "VM_CAPSULE_HYPERVISOR = qemu",
}


def find(program: str) -> str:
    """Return the full path of ``program``; raise `ToolError` naming its Debian package,
    or what else helps."""
    path = shutil.which(program, path=_search_path())
    if path is None:
        package = PACKAGES.get(program, program)
        raise ToolError(
            f"the program '{program}' is not installed",
            REMEDIES.get(program, f"install it (on Debian: apt-get install {package})"),
        )
    return path


def _search_path() -> str:
    """PATH with the system folders added: an ordinary user's often lacks ``sbin``."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def run(
    argv: Sequence[Arg],
    *,
    timeout_s: float,
    cwd: Optional[Path] = None,
    env: Optional[Mapping[str, str]] = None,
    stdin: Union[str, bytes, None] = None,
    stdout: Optional[IO[bytes]] = None,
    check: bool = True,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return its result, output captured as bytes.

    With ``check``, a non-zero exit raises `ToolError` with the last of its output.
    ``stdout`` may be an open file that takes the output instead.  The program is killed
    when ``timeout_s`` seconds have passed, and `ToolError` raised.
    """
    command = [find(str(argv[0])), *(str(arg) for arg in argv[1:])]
    data = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        result = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            timeout=timeout_s,
            # Without input the program reads an empty one, never the caller's.
            input=data or b"",
            stdout=stdout if stdout is not None else subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(
            f"'{shlex.join(command)}' did not end within {timeout_s:g} s"
            + _evidence(error.stderr),
            "see whether the machine is overloaded, then try again",
        ) from error
    except OSError as error:
        raise ToolError(f"'{command[0]}' could not be started: {error.strerror}") from error
    if check and result.returncode != 0:
        raise ToolError(
            f"'{shlex.join(command)}' failed with status {result.returncode}"
            + _evidence(result.stderr or result.stdout)
        )
    return result


def _evidence(output: Optional[bytes]) -> str:
    text = one_line((output or b"").decode(errors="replace"))
    return f": {text}" if text else ""
