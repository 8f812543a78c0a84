"""VMware's machines, through a stand-in for its command that notes what it is asked.

It answers as "Using vmrun to Control Virtual Machines" has it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vmcapsule.errors import GuestError, GuestTimeout, ToolError
from vmcapsule.vm import vmrun

#: A machine's state is a file; it powers off by itself when it was listed so often.
STAND_IN = """\
#!/bin/sh
echo "$*" >>"$STATE/calls"
shift 2
case $1 in
list)
    if [ -e "$STATE/running" ] && [ ! -e "$STATE/paused" ]; then
        echo x >>"$STATE/listed"
        [ "$(wc -l <"$STATE/listed")" -le "$LISTED" ] || rm "$STATE/running"
    fi
    if [ -e "$STATE/running" ]; then
        printf 'Total running VMs: 2\\n/elsewhere/other.vmx\\n%s\\n' "$(cat "$STATE/running")"
    else
        printf 'Total running VMs: 1\\n/elsewhere/other.vmx\\n'
    fi ;;
start) [ ! -e "$STATE/broken" ] || { echo "Error: The operation was canceled"; exit 255; }
    echo "$2" >"$STATE/running" ;;
stop) rm "$STATE/running" ;;
pause) touch "$STATE/paused" ;;
unpause) rm "$STATE/paused" ;;
esac
"""


@pytest.fixture
def vmx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "vmrun").write_text(STAND_IN)
    (folder / "vmrun").chmod(0o755)
    for name in ("capsule.vmx", "data.vmdk"):
        (tmp_path / name).touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("STATE", str(tmp_path))
    monkeypatch.setenv("LISTED", "2")
    monkeypatch.setattr(vmrun, "POLL_S", 0.01)
    return tmp_path / "capsule.vmx"


def run(vmx: Path, timeout_s: float | None = None) -> None:
    folder = vmx.parent
    vmrun.run(
        "player",
        vmx,
        data_disk=[folder / "data.vmdk"],
        console=folder / "console.log",
        timeout_s=timeout_s,
    )


def calls(vmx: Path) -> list[str]:
    return (vmx.parent / "calls").read_text().splitlines()


def test_a_machine_is_started_and_watched_until_it_has_powered_off(vmx: Path) -> None:
    run(vmx)
    listed = "-T player list"
    assert calls(vmx) == [f"-T player start {vmx} nogui", *[listed] * 4]


def test_one_that_does_not_power_off_in_time_is_switched_off(
    vmx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTED", "1000000")
    with pytest.raises(GuestTimeout):
        run(vmx, timeout_s=0.1)
    assert calls(vmx)[-1] == f"-T player stop {vmx} hard"
    assert not (vmx.parent / "running").exists()


def test_a_panic_is_told(vmx: Path) -> None:
    (vmx.parent / "console.log").write_text("Kernel panic - not syncing: VFS\n")
    with pytest.raises(GuestError, match="VFS"):
        run(vmx)


def test_what_vmware_says_of_a_failure_is_told(vmx: Path) -> None:
    (vmx.parent / "broken").touch()
    with pytest.raises(ToolError, match="The operation was canceled"):
        run(vmx)
    assert calls(vmx)[-1] == "-T player list"


def test_the_machine_of_another_file_is_none_of_ours(vmx: Path) -> None:
    vmrun.stop("ws", vmx)
    assert calls(vmx) == ["-T ws list"]
    assert not vmrun.is_running("ws", vmx)


def test_it_pauses_as_we_are_stopped_and_goes_on(vmx: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vmcapsule.vm import vmrun\n"
        "folder = Path(sys.argv[1]).parent\n"
        "vmrun.run('ws', Path(sys.argv[1]), data_disk=[], console=folder / 'c')\n"
    )
    env = {**os.environ, "LISTED": "3"}
    ours = subprocess.Popen([sys.executable, "-c", code, str(vmx)], env=env)
    state = Path(f"/proc/{ours.pid}/stat")
    try:
        wait_for(lambda: (vmx.parent / "running").exists())
        # It asks for the first time when it is ready to be stopped.
        wait_for(lambda: "-T ws list" in calls(vmx))
        ours.send_signal(signal.SIGTSTP)
        wait_for(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
        assert f"-T ws pause {vmx}" in calls(vmx)
        ours.send_signal(signal.SIGCONT)
        assert ours.wait(60) == 0
    finally:
        ours.kill()
        ours.wait()
    assert f"-T ws unpause {vmx}" in calls(vmx)


def wait_for(seen: object) -> None:
    assert callable(seen)
    for _ in range(600):
        if seen():
            return
        subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError(seen)
