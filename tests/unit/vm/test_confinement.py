"""What a guest, and a QEMU that a guest took over, can reach of the machine it runs on."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.own_host import OUTSIDE, reason_against, run_there
from vmcapsule import process
from vmcapsule.errors import ToolError
from vmcapsule.vm import confinement

WHY_NOT = reason_against()
needs_network = pytest.mark.skipif(bool(WHY_NOT), reason=f"no network for a guest: {WHY_NOT}")


@needs_network
def test_whatever_a_card_sends_reaches_others_and_not_the_hosts_loopback(
    tmp_path: Path,
) -> None:
    stay = run_there([sys.executable, "-m", "tests.unit.vm.card"], tmp_path)
    assert stay.status == 0, stay.stderr
    assert (OUTSIDE, "udp", OUTSIDE) in stay.visitors
    assert (OUTSIDE, "tcp", "") in stay.visitors
    assert {address for address, _, _ in stay.visitors} == {OUTSIDE}
    # The host's resolver is on its loopback, and is asked for names all the same.
    assert stay.stdout.split() == [socket.inet_aton(OUTSIDE).hex()]


def test_pasta_is_not_started_where_it_would_leave_a_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pasta").write_text(f"#!/bin/sh\ntouch {tmp_path}/started; exit 1\n")
    (tmp_path / "pasta").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "tun").touch()
    monkeypatch.setattr(confinement, "TUN", tmp_path / "tun")
    with pytest.raises(ToolError, match="no guest can have a network here"):
        confinement.check_network()
    assert (tmp_path / "started").exists()
    (tmp_path / "started").unlink()
    monkeypatch.setattr(confinement, "TUN", tmp_path / "none")
    with pytest.raises(ToolError, match="may not use .*/none"):
        confinement.check_network()
    assert not (tmp_path / "started").exists()


#: Starts a program that is tied to it, and is killed as it does.
_STARTS = """
import os, subprocess, sys
from vmcapsule.vm.confinement import tied
subprocess.Popen(tied(sys.argv[1:]))
os.kill(os.getpid(), 9)
"""


def test_what_is_tied_to_a_process_is_not_begun_when_that_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A QEMU that nobody knows of would run for ever."""
    setpriv, go = process.find("setpriv"), tmp_path / "go"
    slow = tmp_path / "setpriv"
    slow.write_text(
        f'#!/bin/sh\nwhile ! test -e {go}; do sleep 0.1; done\nexec {setpriv} "$@"\n'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with subprocess.Popen(
        [sys.executable, "-c", _STARTS, "echo", "it runs"], stdout=subprocess.PIPE
    ) as gone:
        assert gone.wait() == -9
        go.touch()
        assert gone.stdout is not None
        # Whatever was started has this open, so that it has ended, too.
        assert gone.stdout.read() == b""


def test_what_is_tied_is_given_its_arguments_as_they_are() -> None:
    words = ["", "a  b", "$0", "'\"\\", "-c", "*"]
    script = "import sys; print(sys.argv[1:])"
    done = subprocess.run(
        confinement.tied([sys.executable, "-c", script, *words]), capture_output=True, text=True
    )
    assert done.stdout == f"{words}\n"
