"""What keeps a guest, and a QEMU that a guest took over, from the machine it runs on.

QEMU's own sandbox filters its system calls.  A network leads through ``pasta``, which
starts QEMU in user and network namespaces of their own: the loopback addresses that a guest
can reach there, by whatever QEMU's user network makes of them, are the namespace's, where
nobody listens.
"""

from __future__ import annotations

import os
from pathlib import Path

from vmcapsule import process
from vmcapsule.errors import ToolError

#: QEMU asks the kernel to refuse what it never needs: obsolete system calls, more rights,
#: other programs, other priorities.  A QEMU that was built without it ends at once, and
#: is not used: what nobody notices to be missing protects nobody.
SANDBOX = (
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
)
PASTA = "pasta"
TUN = Path("/dev/net/tun")
_CHECK_TIMEOUT_S = 15
_SAID_CHARS = 300
#: What pasta makes the host's resolver of, which may well be on the host's loopback.
_RESOLVER = "169.254.1.1"
#: QEMU asks the name server that this file names; its own copy names `_RESOLVER`.
_WITH_RESOLVER = """\
own=$(mktemp) && echo "nameserver $0" >"$own" && "$1" -o bind "$own" /etc/resolv.conf
rm -f "$own"
shift
exec "$@"
"""

#: The kernel kills a program when the process that started it is gone.
_DIES_WITH_PARENT = ("--pdeathsig", "KILL")
#: It has to be asked for that, and of a process that was gone before it says nothing.
_UNLESS_ORPHANED = 'test "$PPID" = "$0" && exec "$@"'
#: In its namespaces QEMU would be root, and could change them.
_WITHOUT_RIGHTS = ("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")


def tied(argv: list[str]) -> list[str]:
    """``argv`` as a program that ends with the process that starts it, however that ends.

    Also where it ends in the moment in which the program is started, as a process does that
    is told to stop then: nobody would know of the program, and none end it.  Raises
    `ToolError` where what it takes is not installed.
    """
    ask = (process.find("setpriv"), *_DIES_WITH_PARENT, "--")
    return [*ask, "/bin/sh", "-c", _UNLESS_ORPHANED, str(os.getpid()), *argv]


def confined(argv: list[str], *, network: bool) -> list[str]:
    """``argv`` as a program that dies with its parent, in a network of its own if ``network``.

    Raises `ToolError` where a program for that is not installed.
    """
    if not network:
        return tied(argv)
    inside = [
        *(process.find("unshare"), "--mount", "--"),
        *("/bin/sh", "-c", _WITH_RESOLVER, _RESOLVER, process.find("mount")),
        *(process.find("setpriv"), *_DIES_WITH_PARENT, *_WITHOUT_RIGHTS, "--"),
        *argv,
    ]
    return tied([*_pasta(), *inside])


def _pasta() -> list[str]:
    # It would have root be somebody else, who may not read root's files.
    as_root = ["--runas", "0:0", "--netns-only"] if os.geteuid() == 0 else []
    return [
        process.find(PASTA), "--foreground", "--quiet", *as_root, "--config-net",
        # By default it connects the loopbacks: the gateway's address means the host's, and
        # ports that anybody listens to on one side are listened to on the other.
        "--no-map-gw", "--dns-forward", _RESOLVER,
        "-t", "none", "-u", "none", "-T", "none", "-U", "none", "--",
    ]  # fmt: skip


def check_network() -> None:
    """Raise `ToolError`, saying what lacks, where no guest can have a network."""
    command = confined([process.find("true")], network=True)
    # pasta finds that out too late: what it has started by then waits for it for ever.
    if not os.access(TUN, os.R_OK | os.W_OK):
        raise ToolError(
            f"no guest can have a network here: this user may not use {TUN}",
            "open it to all users, as udev does by default",
        )
    done = process.run(command, timeout_s=_CHECK_TIMEOUT_S, check=False)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").splitlines()
        # Where nobody keeps a log, it says so of every line.
        said = [line for line in lines if not line.endswith("bytes to syslog")]
        raise ToolError(
            f"no guest can have a network here: pasta says: {' '.join(said)[-_SAID_CHARS:]}",
            "it needs a default route, unprivileged user namespaces, and /dev/net/tun open "
            "to all users",
        )
