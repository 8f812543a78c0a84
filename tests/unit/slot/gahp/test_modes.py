"""The vm-gahp as HTCondor calls it, whole, with a program of QEMU's name.

Where root runs the tests the job is another user's, as it is where HTCondor runs it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Iterator, Optional

import classad2
import pytest

from tests.unit.returned import EXITED, guest_writes, make_arrived, put_redo_log
from tests.unit.users import NOBODY, give, open_way
from vmcapsule import process
from vmcapsule.capsule.record import RECORD, RETURNED, UNREPORTED_SIGNAL, Capsule, save_capsule
from vmcapsule.errors import ToolError
from vmcapsule.slot.gahp.child import Child, Owner
from vmcapsule.slot.gahp.dialogue import Asked, State
from vmcapsule.slot.gahp.leftovers import end_all_in
from vmcapsule.slot.program import PROGRAM, write_program

#: Everybody may run it, which the tests' own Python need not let them.
PYTHON = "/usr/bin/python3"
AD = ['JobVMType = "vmware"', "JobVMMemory = 321", "JobVM_VCPUS = 1", 'ClaimId = "secret"']
STARTED = ["COMMANDS", "SUPPORT_VMS", "CLASSAD", *AD, "CLASSAD_END", "CONDOR_VM_START 2 vmware"]
KNOWN = [*STARTED, "RESULTS", "CONDOR_VM_GETPID 3 1", "RESULTS"]
WAIT_S = 60
TEST = ("-f", "-M", "0", "vmtype", "vmware")
KILL = ("-f", "-M", "4", "vmtype", "vmware", "match")
#: As whom a starter has the rest of a job ended.
AS_USER: dict[str, Any] = (
    {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
)


class Gahp:
    """A gahp and the starter's end of its pipes."""

    def __init__(
        self,
        program: Path,
        folder: Path,
        path: str,
        stderr: Optional[Path] = None,
        begun_by: tuple[str, ...] = (),
        vm_type: str = "vmware",
    ) -> None:
        env = {
            "PATH": f"{path}:/usr/bin:/bin",
            "VMGAHP_VMTYPE": vm_type,
            "VMGAHP_WORKING_DIR": str(folder),
            "VMGAHP_USER_UID": str(NOBODY),
            "VMGAHP_USER_GID": str(NOBODY),
        }
        self.program = program
        self.process = subprocess.Popen(
            [*begun_by, PYTHON, program, "-f", "-t", "-M", "3"],
            cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=stderr.open("w") if stderr else subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._out.readline().startswith("$VMGahpVersion")

    @property
    def _in(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def _out(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def say(self, *lines: str) -> list[str]:
        """Say lines, and read as many answers as a starter would."""
        answers = []
        in_ad = False
        for line in lines:
            self._in.write(line + "\r\n")
            self._in.flush()
            in_ad = line == "CLASSAD" or (in_ad and line != "CLASSAD_END")
            if not in_ad or line == "CLASSAD":
                answers.append(self._out.readline().rstrip("\n"))
            if line == "RESULTS":
                answers += [
                    self._out.readline().rstrip("\n") for _ in range(int(answers[-1][2:]))
                ]
        return answers

    def leave(self) -> None:
        """A starter that has gone says so by nothing else."""
        self._in.close()

    def end(self) -> tuple[int, str]:
        """How it ended, and what it had to say: it says little."""
        self.process.wait(WAIT_S)
        assert self.process.stderr is not None
        return self.process.returncode, self.process.stderr.read()


@pytest.fixture
def made(tmp_path: Path) -> Capsule:
    return make_arrived(tmp_path)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Gahp]]:
    gahps: list[Gahp] = []
    yield gahps
    for gahp in gahps:
        gahp.process.kill()
        gahp.process.wait(WAIT_S)


def start(made: Capsule, tmp_path: Path, qemu: str, started: list[Gahp], **more: Any) -> Gahp:
    program = with_qemu(made, tmp_path, qemu)
    started.append(Gahp(program, made.folder, str(program.parent), **more))
    return started[-1]


def with_qemu(made: Capsule, tmp_path: Path, qemu: str) -> Path:
    """The program, and beside it a QEMU that is a shell script."""
    (made.folder / RECORD).unlink()
    save_capsule(made, made.folder)
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "qemu-system-x86_64").write_text(f"#!/bin/sh\n{qemu}\n")
    (folder / "qemu-system-x86_64").chmod(0o755)
    give(made.folder)
    made.folder.chmod(0o700)
    open_way(folder)
    return write_program(folder / PROGRAM)


def owner_of(path: Path) -> int:
    return path.stat().st_uid


def test_it_ends_as_the_job_when_the_starter_knows_the_machine(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    gahp = start(made, tmp_path, 'echo "$@" >told', started)
    answers = gahp.say(*KNOWN)
    pid = answers[-1].split()[-1]
    assert answers[-4:-1] == ["2 0 1", "S", "S 1"] and int(pid) > 1
    status, said = gahp.end()
    assert status == 0, said
    assert "secret" not in said
    assert (made.folder / RETURNED / made.data_disk.name).is_file()
    if os.geteuid() == 0:
        assert {owner_of(path) for path in made.folder.rglob("*")} == {NOBODY}
    # As the ad wants its machine, whatever the record says.
    assert "-m 321" in (made.folder / "told").read_text()


def test_a_job_of_kvms_is_run_by_qemu_wherever_vmware_is(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    with_vmware(made, tmp_path, ":")
    gahp = start(made, tmp_path, "echo >told", started, vm_type="kvm")
    gahp.say(*(line.replace("vmware", "kvm") for line in KNOWN))
    status, said = gahp.end()
    assert status == 0, said
    assert (made.folder / "told").exists() and not (made.folder / "calls").exists()
    # A starter lets everybody into such a job's folder.
    new = [made.folder / RETURNED, made.folder / "console.log", made.folder / "told"]
    assert [path.stat().st_mode & 0o077 for path in new] == [0, 0, 0]


def test_what_is_left_of_a_kvm_job_is_told_by_a_name_and_is_nothing(tmp_path: Path) -> None:
    done = call(tmp_path, "-f", "-M", "4", "vmtype", "kvm", "match", "alice_pool_4.0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_guest_that_did_not_report_is_told_by_the_signal(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    gahp = start(made, tmp_path, "echo no memory >&2; exit 1", started)
    gahp.say(*KNOWN)
    status, said = gahp.end()
    assert status == -UNREPORTED_SIGNAL
    assert "no memory" in said
    assert "no memory" in (made.folder / RETURNED / "reason.txt").read_text()


def test_a_death_by_a_signal_is_the_jobs(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    guest_writes(made.data_disk, {**EXITED, "exit_code": None, "exit_signal": 11})
    gahp = start(made, tmp_path, "exit 0", started)
    gahp.say(*KNOWN)
    assert gahp.end()[0] == -11


def test_it_does_not_end_before_the_starter_knows_the_machine(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    gahp = start(made, tmp_path, "exit 1", started)
    assert gahp.say(*STARTED, "RESULTS")[-1] == "2 0 1"
    # Long enough for the machine's process to have ended: what it says last has come.
    assert gahp.process.stderr is not None
    while "QEMU ended" not in gahp.process.stderr.readline():
        assert gahp.process.poll() is None
    assert gahp.say("COMMANDS")[0].startswith("S ")
    gahp.say("CONDOR_VM_GETPID 3 1", "RESULTS")
    assert gahp.end()[0] == -UNREPORTED_SIGNAL


def living(made: Capsule) -> list[int]:
    """The processes that work in the job's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == made.folder:
                found.append(int(entry.name))
        except OSError:  # it has ended, or is not ours to ask
            continue
    return found


def wait_until_gone(made: Capsule) -> None:
    for _ in range(WAIT_S * 10):
        if not living(made):
            return
        subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError(living(made))


#: A machine that runs until it is told to go on.
WAIT_FOR_GO = "while ! test -e go; do sleep 0.1; done"
#: What a program says to its gahp as it begins.
SAYS_READY = "os.write(int(sys.argv[2]), b'x')"
#: A machine that runs until it is ended, and says that it is there.
ENDLESS = "echo >running; exec sleep 600"


def wait_for(path: Path) -> None:
    for _ in range(WAIT_S * 10):
        if path.exists():
            return
        subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError(f"no {path}")


@pytest.mark.parametrize("how", ["quit", "stop", "gone", "SIGTERM", "SIGKILL"])
def test_the_machine_ends_with_it_however_it_ends(
    made: Capsule, tmp_path: Path, started: list[Gahp], how: str
) -> None:
    gahp = start(made, tmp_path, ENDLESS, started)
    gahp.say(*KNOWN)
    wait_for(made.folder / "running")
    if how == "quit":
        assert gahp.say("QUIT") == ["S"]
    elif how == "stop":
        assert gahp.say("CONDOR_VM_STOP 9 1", "RESULTS") == ["S", "S 1", "9 0 NULL"]
        # The job's own time is up, and nothing is handed back of it.
        assert not (made.folder / RETURNED).exists()
    elif how == "gone":
        gahp.leave()
    if how == "stop":
        gahp.leave()
    elif how.startswith("SIG"):
        gahp.process.send_signal(signal.Signals[how])
    # What it has to say is not waited for: a machine that is left would keep that open.
    # Who kills it is not the starter: the run has not reported, and is repeated.
    ends = {"SIGKILL": -signal.SIGKILL, "SIGTERM": -UNREPORTED_SIGNAL}
    assert gahp.process.wait(WAIT_S) == ends.get(how, 0)
    wait_until_gone(made)
    if how == "SIGTERM":
        assert "from outside" in (made.folder / RETURNED / "reason.txt").read_text()


def test_a_program_that_is_replaced_meanwhile_is_no_end_of_the_jobs(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    gahp = start(made, tmp_path, f"echo >running; {WAIT_FOR_GO}; exit 1", started)
    gahp.say(*KNOWN)
    wait_for(made.folder / "running")
    # As 'cp' does it: into the file that runs.
    write_program(tmp_path / "new")
    gahp.program.write_bytes((tmp_path / "new").read_bytes())
    (made.folder / "go").touch()
    status, said = gahp.end()
    assert status == -UNREPORTED_SIGNAL, said


def test_a_machine_that_is_ready_late_runs_all_the_same(made: Capsule, tmp_path: Path) -> None:
    """The gahp has given up waiting then, or has gone."""
    program = with_qemu(made, tmp_path, "exit 0")
    reads, says = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [PYTHON, program, "machine", str(says), "0", "0", "0", "qemu"],
        cwd=made.folder, env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}, pass_fds=(says,),
        capture_output=True, text=True, timeout=WAIT_S, **AS_USER,
    )  # fmt: skip
    os.close(says)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "status"), [("", -UNREPORTED_SIGNAL), (SAYS_READY, 7)], ids=["not-ready", "ready"]
)
def test_what_ends_before_it_is_ready_is_not_the_job(
    tmp_path: Path, text: str, status: int
) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"import os, sys\n{text}\nsys.exit(7)\n")
    child = Child(Owner(), str(program))
    child.start(Asked())
    for _ in range(WAIT_S * 10):
        if child.state is State.ENDED:
            break
        subprocess.run(["sleep", "0.1"], check=True)
    assert child.status == status
    # Its number is nobody else's as long as the starter may watch it.
    assert Path(f"/proc/{child.pid}").exists()


def test_what_the_machines_process_has_open_may_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any process of the job's owner can open it, and so is not waited for."""
    monkeypatch.setattr("vmcapsule.slot.gahp.child.READY_TIMEOUT_S", 0.1)
    program, keeper = tmp_path / "program.py", tmp_path / "keeper"
    program.write_text(
        "import os, pathlib, sys, time\n"
        "number = os.fork()\n"
        f"if number == 0:\n    time.sleep({WAIT_S})\n    os._exit(0)\n"
        f"pathlib.Path({str(keeper)!r}).write_text(str(number))\n"
        "sys.exit(7)\n"
    )
    child = Child(Owner(), str(program))
    child.start(Asked())
    wait_for(keeper)
    while child.state is not State.ENDED:
        subprocess.run(["sleep", "0.1"], check=True)
    assert child.status == -UNREPORTED_SIGNAL
    number = int(keeper.read_text())
    assert state_of(number) == "S", "it was waited for"
    os.kill(number, signal.SIGKILL)


def test_a_gahp_of_whose_children_nobody_wants_to_hear_ends_as_the_job(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    begun_by = ("env", "--ignore-signal=CHLD")
    gahp = start(made, tmp_path, "exit 0", started, begun_by=begun_by)
    gahp.say(*KNOWN)
    status, said = gahp.end()
    assert status == 0, said


def test_a_gahp_that_cannot_be_heard_ends_as_the_job(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    gahp = start(made, tmp_path, "exit 0", started, stderr=Path("/dev/full"))
    gahp.say(*KNOWN)
    assert gahp.process.wait(WAIT_S) == 0


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for_state(pid: int, state: str) -> None:
    for _ in range(WAIT_S * 10):
        if state_of(pid) == state:
            return
        subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError(f"process {pid} is not {state} but {state_of(pid)}")


def test_a_suspended_machine_stands_still_with_what_runs_it(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    gahp = start(made, tmp_path, ENDLESS, started)
    pid = int(gahp.say(*KNOWN)[-1].split()[-1])
    wait_for(made.folder / "running")
    (qemu,) = [each for each in living(made) if each not in (pid, gahp.process.pid)]
    assert gahp.say("CONDOR_VM_SOFT_SUSPEND 5 1", "RESULTS")[-1] == "5 0 NULL"
    for each in (pid, qemu):
        wait_for_state(each, "T")
    assert gahp.say("CONDOR_VM_RESUME 6 1", "RESULTS")[-1] == "6 0 NULL"
    for each in (pid, qemu):
        wait_for_state(each, "S")
    gahp.say("CONDOR_VM_SUSPEND 7 1", "CONDOR_VM_STOP 8 1")
    wait_until_only(gahp, made)


#: A machine's process that takes its time to stand still, and says when it goes on.
SLOW_TO_PAUSE = """\
import os, pathlib, signal, sys, time

def pause(number, frame):
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGSTOP)
    pathlib.Path({went_on!r}).touch()

signal.signal(signal.SIGTSTP, pause)
os.write(int(sys.argv[2]), b"x")
while True:
    time.sleep(0.1)
"""


def test_a_machine_that_is_to_go_on_at_once_does(tmp_path: Path) -> None:
    """It would be told so before it stands still, and be so for ever."""
    program, went_on = tmp_path / "program.py", tmp_path / "went-on"
    program.write_text(SLOW_TO_PAUSE.format(went_on=str(went_on)))
    child = Child(Owner(), str(program))
    child.start(Asked())
    child.pause()
    child.go_on()
    try:
        wait_for(went_on)
        assert child.state is State.RUNNING
    finally:
        child.stop()


def wait_until_only(gahp: Gahp, made: Capsule) -> None:
    for _ in range(WAIT_S * 10):
        if living(made) == [gahp.process.pid]:
            return
        subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError(living(made))


VMRUN = """\
#!/bin/sh
echo "$*" >>calls
case $3 in
start) echo "$4" >running ;;
list) printf 'Total running VMs: 1\\n%s\\n' "$(cat running)" ;;
stop) env >environment; : >running ;;
esac
"""


def with_vmware(made: Capsule, tmp_path: Path, end: str) -> Capsule:
    """A capsule for a machine that VMware runs, by a stand-in for its command."""
    vmx = made.folder / "capsule.vmx"
    vmx.write_text('memsize = "64"\n')
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "vmrun").write_text(VMRUN.replace("list)", f"list) {end};"))
    (folder / "vmrun").chmod(0o755)
    return made._replace(vmx=vmx)


def test_vmware_runs_the_machine_where_it_is(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    made = with_vmware(made, tmp_path, ": >running")
    gahp = start(made, tmp_path, "exit 1", started)
    gahp.say(*KNOWN)
    status, said = gahp.end()
    assert status == 0, said
    vmx = made.folder / "capsule.vmx"
    assert (made.folder / "calls").read_text().startswith(f"-T ws start {vmx} nogui\n")
    # As the ad wants it, in steps of four MiB.
    assert 'memsize = "324"' in vmx.read_text()
    assert (made.folder / RETURNED / "isolation").read_text() == "vmware"


def test_what_vmware_writes_over_a_snapshot_is_read(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    log = put_redo_log(made, made.folder / "vmwares")
    made = with_vmware(made, tmp_path, ": >running")
    vmrun = tmp_path / "bin" / "vmrun"
    taken = f"snapshot) mv vmwares/{log.name} . ;;\nlist)"
    vmrun.write_text(vmrun.read_text().replace("list)", taken, 1))
    gahp = start(made, tmp_path, "exit 1", started)
    at = KNOWN.index("CLASSAD_END")
    gahp.say(*KNOWN[:at], "VMPARAM_VMware_SnapshotDisk = TRUE", *KNOWN[at:])
    status, said = gahp.end()
    assert status == 0, said
    vmx = made.folder / "capsule.vmx"
    first = (made.folder / "calls").read_text().split("\n")[0]
    assert first == f"-T ws snapshot {vmx} vmcapsule"
    # What goes back is one disk, whatever it was written in.
    back = {path.name for path in (made.folder / RETURNED).iterdir()}
    assert back == {"data.vmdk", "isolation", "handed-back"}


#: Who is asked decides the answer: a user may have a configuration of their own.
ASKED = "#!/bin/sh\ntest $(id -u) = 0 && echo player || echo ws\n"


def with_condor(tmp_path: Path, text: str) -> None:
    (tmp_path / "bin/condor_config_val").write_text(text)
    (tmp_path / "bin/condor_config_val").chmod(0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="only where root's gahp runs jobs of others")
def test_the_jobs_user_does_not_choose_the_hypervisor(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    made = with_vmware(made, tmp_path, ": >running")
    with_condor(tmp_path, ASKED)
    gahp = start(made, tmp_path, "exit 1", started)
    gahp.say(*KNOWN)
    status, said = gahp.end()
    assert status == 0, said
    assert (made.folder / "calls").read_text().startswith("-T player start")


def test_where_htcondor_does_not_say_what_runs_machines_the_guest_did_not_report(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    made = with_vmware(made, tmp_path, ": >running")
    with_condor(tmp_path, "#!/bin/sh\necho no configuration >&2; exit 1\n")
    gahp = start(made, tmp_path, "exit 1", started)
    gahp.say(*KNOWN)
    assert gahp.end()[0] == -UNREPORTED_SIGNAL
    assert "no configuration" in (made.folder / RETURNED / "reason.txt").read_text()


def test_vmware_has_the_time_that_it_takes_to_switch_a_machine_off(
    made: Capsule, tmp_path: Path, started: list[Gahp]
) -> None:
    made = with_vmware(made, tmp_path, ":")
    vmrun = tmp_path / "bin/vmrun"
    vmrun.write_text(vmrun.read_text().replace("stop)", "stop) sleep 6;"))
    gahp = start(made, tmp_path, "exit 1", started)
    gahp.say(*KNOWN)
    wait_for(made.folder / "running")
    gahp.leave()
    assert gahp.process.wait(WAIT_S) == 0
    assert (made.folder / "running").read_text() == ""


AS_ROOT = pytest.param(
    "killed, root calls", marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
)


@pytest.mark.parametrize("how", ["stop", "killed", AS_ROOT])
def test_no_machine_of_vmwares_is_left(
    made: Capsule, tmp_path: Path, started: list[Gahp], how: str
) -> None:
    made = with_vmware(made, tmp_path, ":")
    gahp = start(made, tmp_path, "exit 1", started)
    gahp.say(*KNOWN)
    wait_for(made.folder / "running")
    vmx = made.folder / "capsule.vmx"
    if how == "stop":
        gahp.say("CONDOR_VM_STOP 9 1")
    else:
        gahp.process.kill()
        wait_until_gone(made)
        # A starter calls this one then, as the owner, or the startd.
        subprocess.run(
            [PYTHON, gahp.program, *KILL, made.folder],
            cwd=made.folder, env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "SECRET": "s"},
            check=True, timeout=WAIT_S, **({} if "root" in how else AS_USER),
        )  # fmt: skip
    assert (made.folder / "calls").read_text().endswith(f"-T ws stop {vmx} hard\n")
    if how.endswith("calls"):
        # It was done as the owner, who could read root's environment there.
        assert owner_of(made.folder / "environment") == NOBODY
        assert "SECRET" not in (made.folder / "environment").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is to become somebody else")
@pytest.mark.parametrize("given", ["", "0", "-1", "x", "4294967295"])
def test_root_runs_no_job_of_nobody(tmp_path: Path, given: str) -> None:
    done = call(tmp_path, "-f", "-M", "3", VMGAHP_VMTYPE="vmware", VMGAHP_USER_UID=given)
    assert done.returncode == 64
    assert "whose job" in done.stderr and done.stdout == ""


def call(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", write_program(tmp_path / PROGRAM), *arguments],
        env={"PATH": "/usr/bin:/bin", **env}, cwd=tmp_path,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_S,
    )  # fmt: skip


def fake_qemu(tmp_path: Path, machine: str) -> str:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "qemu-system-x86_64").write_text(
        "#!/bin/sh\n"
        'case "$*" in *--version*) echo "QEMU emulator version 10.0.2";;\n'
        f'*) echo "{machine} a machine";; esac\n'
    )
    (folder / "qemu-system-x86_64").chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_a_startd_is_told_what_it_needs(tmp_path: Path) -> None:
    path = fake_qemu(tmp_path, "pc-q35-7.2")
    done = call(tmp_path, "-f", "-t", "-M", "0", "vmtype", "vmware", PATH=path)
    assert done.returncode == 0, done.stderr
    told = dict(line.split(" = ") for line in done.stdout.splitlines())
    assert told["VM_Type"] == '"vmware"' and int(told["VM_Memory"]) > 0
    assert told["VMCapsuleHypervisor"] == '"qemu 10.0.2"'
    assert told["VM_Networking"] == "false" and "VM_GAHP_VERSION" in told


def test_a_startd_is_told_of_machines_for_kvms_jobs(tmp_path: Path) -> None:
    path = fake_qemu(tmp_path, "pc-q35-7.2")
    env = {"PATH": path, "_CONDOR_VM_CAPSULE_HYPERVISOR": "ws"}
    done = call(tmp_path, "-f", "-t", "-M", "0", "vmtype", "kvm", **env)
    told = dict(line.split(" = ") for line in done.stdout.splitlines())
    # VMware runs none of those.
    assert (told["VM_Type"], told["VMCapsuleHypervisor"]) == ('"kvm"', '"qemu 10.0.2"')


def with_setpriv_alone(folder: Path) -> str:
    (folder / "setpriv").symlink_to(process.find("setpriv"))
    return str(folder)


@pytest.mark.parametrize("machine", ["pc-i440fx-2.0", None])
def test_a_startd_is_told_nothing_where_no_machine_runs(
    tmp_path: Path, machine: Optional[str]
) -> None:
    path = fake_qemu(tmp_path, machine) if machine else with_setpriv_alone(tmp_path)
    done = call(tmp_path, "-f", "-M", "0", "vmtype", "vmware", PATH=path)
    assert_refused(done, "qemu")


def assert_refused(done: subprocess.CompletedProcess[str], word: str) -> None:
    """A startd logs what it was told, and does without VMs for want of a VM_Type."""
    assert done.returncode == 0, done.stderr
    name, equals, reason = done.stdout.partition(" = ")
    assert (name, equals) == ("VMCapsuleReason", " = ")
    assert word in classad2.ExprTree(reason.strip()).eval()


@pytest.mark.parametrize(
    ("vm_type", "knob", "word"),
    [("xen", "qemu", "'xen'"), ("vmware", "vbox", "VM_CAPSULE_HYPERVISOR = vbox")],
)
def test_a_startd_is_told_what_is_wrong_with_its_configuration(
    tmp_path: Path, vm_type: str, knob: str, word: str
) -> None:
    env = {"_CONDOR_VM_CAPSULE_HYPERVISOR": knob}
    assert_refused(call(tmp_path, "-f", "-M", "0", "vmtype", vm_type, **env), word)


def test_a_machine_that_cannot_be_started_has_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And HTCondor is answered: an error takes the VM universe out of service."""

    def missing(program: str) -> str:
        raise ToolError(f"the program '{program}' is not installed")

    monkeypatch.setattr(process, "find", missing)
    child = Child(Owner(), str(tmp_path))
    child.start(Asked())
    assert (child.status, child.state, child.pid) == (-UNREPORTED_SIGNAL, State.ENDED, 0)
    child.stop()
    assert not child.was_stopped


def test_vmware_that_is_not_here_is_no_package_to_install(tmp_path: Path) -> None:
    done = call(tmp_path, *TEST, _CONDOR_VM_CAPSULE_HYPERVISOR="ws")
    assert_refused(done, "VM_CAPSULE_HYPERVISOR = qemu")
    assert "apt-get" not in done.stdout


@pytest.mark.parametrize(
    "arguments",
    ["-M", "-M 1", "-M 3", "-M 4 vmtype vmware", "-M 4 vmtype"],
)
def test_what_htcondor_does_not_ask_is_refused(tmp_path: Path, arguments: str) -> None:
    done = call(tmp_path, *arguments.split())
    assert done.returncode == 64 and done.stdout == ""
    assert done.stderr.startswith("vmcapsule-vm-gahp: ") and done.stderr.count("\n") == 1


def test_what_is_left_in_a_folder_is_ended_and_nothing_else(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("here", "here/below", "here2")]
    for folder in folders:
        folder.mkdir()
        folder.chmod(0o777)
    open_way(tmp_path / "here")
    tmp_path.chmod(0o755)
    program = write_program(tmp_path / PROGRAM)
    running = [subprocess.Popen(["sleep", "600"], cwd=folder, **AS_USER) for folder in folders]
    try:
        done = subprocess.run(
            [PYTHON, program, "-f", "-M", "4", "vmtype", "vmware", "match", folders[0]],
            cwd="/", capture_output=True, text=True, timeout=WAIT_S, check=False, **AS_USER,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"killed process {running[0].pid}," in done.stderr
        assert running[0].wait(WAIT_S) == -9
        assert [each.poll() for each in running[1:]] == [None, None]
    finally:
        for each in running:
            each.kill()
            each.wait()


def test_who_has_the_rest_ended_is_spared(tmp_path: Path) -> None:
    """A starter works in the job's folder, and is the job's user where it is not root."""
    folder = tmp_path / "here"
    folder.mkdir()
    folder.chmod(0o777)
    open_way(folder)
    tmp_path.chmod(0o755)
    command = [PYTHON, str(write_program(tmp_path / PROGRAM)), *KILL, str(folder)]
    # Above it is one more of the kind.
    starter = f"import subprocess; print(subprocess.call({command})); print('lives')"
    above = f"import subprocess; subprocess.call([{PYTHON!r}, '-c', {starter!r}]); print('too')"
    done = subprocess.run(
        [PYTHON, "-c", above], cwd=folder,
        capture_output=True, text=True, timeout=WAIT_S, check=False, **AS_USER,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "0\nlives\ntoo\n"), done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may end what is not its own")
def test_root_ends_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"], cwd=tmp_path) as running:
        assert end_all_in(tmp_path) == []
        assert running.poll() is None
        running.kill()
