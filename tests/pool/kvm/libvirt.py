"""libvirt on an execute point of a pool: what a machine's administrator and systemd do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Dict, Iterator, List, Optional

from tests.pool.pool import Pool

#: What systemd starts, in this order.
DAEMONS = ("virtlogd", "libvirtd")
#: Closed by Debian; docs/routes.md has an administrator open it.
QEMU_HOME = "/var/lib/libvirt/qemu"
#: HTCondor looks whether it is there, and libvirt who may use it.
_KVM = "/dev/kvm"
_READY_S = 60


class Libvirt:
    """libvirt's daemons in ``pool``, in the foreground: they are not HTCondor's children,
    and outlive its restarts."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._entered: Dict[str, subprocess.Popen[bytes]] = {}

    def prepare(self) -> None:
        """What docs/routes.md asks for, and a device for KVM, which need not work.

        It is as udev makes it, whatever this machine's is: of one that is root's alone libvirt
        thinks at each start that it is new, and asks QEMU again what it can.
        """
        self._pool.run("root", ["chmod", "o+x", QEMU_HOME])
        # Where the machine has one, that is mounted here.
        self._pool.run("root", ["umount", _KVM], check=False)
        self._pool.run("root", ["rm", "-f", _KVM])
        self._pool.run("root", ["mknod", "-m", "660", _KVM, "c", "10", "232"])
        self._pool.run("root", ["chgrp", "kvm", _KVM])

    def start(self) -> None:
        """Start what does not run, and return when libvirt answers."""
        for name in DAEMONS:
            if self.pid(name) is None:
                self._reap(name)
                self._enter(name)
        self._pool.until(self._answers, _READY_S, f"libvirt to answer: {self.said()}")

    def stop(self, *names: str, sig: signal.Signals = signal.SIGTERM) -> None:
        """End these daemons, or all; machines go on."""
        for name in reversed(names or DAEMONS):
            pid = self.pid(name)
            if pid is not None:
                os.kill(pid, sig)
            self._pool.until(lambda name=name: self.pid(name) is None, 30, f"{name}'s end")  # type: ignore[misc]
            self._reap(name)

    def pid(self, name: str) -> Optional[int]:
        """The process number of a daemon on the host, None when it does not run."""
        for pid, argv in sorted(self._pool.space.processes().items()):
            if argv and Path(argv[0]).name == name:
                return pid
        return None

    def domains(self) -> List[str]:
        """The names of all machines that libvirt knows."""
        printed = self._pool.run("root", ["virsh", "list", "--all", "--name"]).stdout
        return printed.decode().split()

    def said(self) -> str:
        """The last that the daemons had to say."""
        texts = [self._log(name).read_text(errors="replace") for name in self._entered]
        return " / ".join("".join(texts).splitlines()[-5:])

    def _answers(self) -> bool:
        return self._pool.run("root", ["virsh", "version"], check=False).returncode == 0

    def _enter(self, name: str) -> None:
        argv = self._pool.space.entering("root", "/", [f"/usr/sbin/{name}"])
        with self._log(name).open("ab") as log:
            self._entered[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _reap(self, name: str) -> None:
        entered = self._entered.pop(name, None)
        if entered is not None:
            entered.wait(timeout=30)

    def _log(self, name: str) -> Path:
        return self._pool.space.folder / f"{name}.log"


@contextlib.contextmanager
def running_libvirt(pool: Pool) -> Iterator[Libvirt]:
    """libvirt on the execute point of ``pool``, whose root has it, as long as this lasts."""
    daemons = Libvirt(pool)
    daemons.prepare()
    daemons.start()
    try:
        yield daemons
    finally:
        daemons.stop()
