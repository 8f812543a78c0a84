"""Whatever a starter says, and a job's ad, its record and its folder: root is not fooled.

The whole program runs as root, as a starter starts it, under strace; a harmless program has
QEMU's name.  As root it is to open nothing but what Python and the system's own lists of
users need, to end nothing but the child that it made, and to start nothing as itself.  What
it makes as the job's owner is to write in the job's folder alone, and to be gone in the end.

A few examples here; tox's environment "dialogues" makes a thousand.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.returned import make_arrived
from tests.unit.slot.gahp.trace import Call, calls, first_of, strace
from tests.unit.users import NOBODY, give
from vmcapsule.capsule.record import RECORD
from vmcapsule.slot.program import PROGRAM, write_program

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be fooled as root"),
    pytest.mark.skipif(
        shutil.which("strace") is None,
        reason="strace is not installed (apt-get install strace)",
    ),
]
PYTHON = "/usr/bin/python3"
WAIT_S = 120
#: The same examples each time: one in a thousand random ones may be a matter of minutes.
FUZZ = settings(
    max_examples=settings().max_examples // 10,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
#: What only root may read, and nobody is to.
SECRET = "/etc/shadow"
#: Where root's own Python, its libraries and the lists of users are.
ROOTS_OWN = (
    *("/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/", "/proc/", "/sys/"),
    *("/etc/ld.so.", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/localtime"),
    *("/etc/locale.alias", "/etc/python3", "/etc/gnutls", "/dev/null", "/dev/urandom"),
    *("/root/.local/", "/etc/userdb", "/run/userdb", "/run/host", "/run/systemd/userdb"),
    *("/run/nscd/", "/var/run/nscd/", "/var/lib/sss/"),
)
#: What is on the way to those, and is gone through.
ON_THE_WAY = ("", "/", "/usr", "/lib", "/etc", "/run", "/proc")
#: What a stranger could put into the job's folder so as to be run: each says as whom.
TRAPS = (
    *("setpriv", "python3", "qemu-img", "qemu-system-x86_64", "condor_config_val", "env"),
    *("sitecustomize.py", "usercustomize.py", "encodings.py", "os.py", "subprocess.py"),
    *("vmcapsule.py", "zipimport.py"),
)


class Said(NamedTuple):
    """What a starter says, and what the job's owner has put into the job's folder."""

    lines: List[str]
    record: Dict[str, Any]
    links: Dict[str, str]
    qemu: str
    #: Does the starter wait for the machine's end before it goes?
    is_patient: bool


PATHS = st.sampled_from(
    [SECRET, "/root", "/etc", "../../canary", "..", ".", "", "/proc/1/environ", "x" * 5000,
     "canary\0", "/dev/zero", "-", "--help", "data.vmdk", "system.vmdk"]
)  # fmt: skip
VALUES = PATHS.map(json.dumps) | st.sampled_from(
    ["-1", "0", "99999999999999999999", "1e308", "undefined", "error", "{ 1 }", "[ a = 1 ]",
     '"\\', "strcat(\"a\", \"b\")", "512"]
)  # fmt: skip
ATTRIBUTES = st.builds(
    "{} = {}".format,
    st.sampled_from(
        ["JobVMType", "JobVMMemory", "JobVM_VCPUS", "VM_WORKING_DIR", "Iwd", "Cmd", "Out",
         "Err", "VMPARAM_VMware_Dir", "VMPARAM_VMware_VMX_File", "VMPARAM_vm_Disk", "Owner",
         "Environment", "ClaimId", "TransferInput"]
    ),
    VALUES,
)  # fmt: skip
COMMANDS = st.builds(
    "CONDOR_VM_{} {} {}".format,
    st.sampled_from(
        ["START", "STOP", "STATUS", "GETPID", "SUSPEND", "SOFT_SUSPEND", "RESUME", "CHECKPOINT"]
    ),
    st.integers(-1, 99),
    st.sampled_from(["0", "1", "2", "vmware", "kvm", "1 1", SECRET, "-1", ""]),
)
ANYTHING = (
    ATTRIBUTES
    | COMMANDS
    | st.sampled_from(
        ["CLASSAD", "CLASSAD_END", "RESULTS", "COMMANDS", "VERSION", "ASYNC_MODE_ON"]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
)
BEGUN = [
    *("COMMANDS", "SUPPORT_VMS", "CLASSAD", 'JobVMType = "vmware"', "JobVMMemory = 64"),
    *("CLASSAD_END", "CONDOR_VM_START 2 vmware", "RESULTS", "CONDOR_VM_GETPID 3 1", "RESULTS"),
]
RECORDS = st.dictionaries(
    st.sampled_from(["data_disk", "system_disk", "vmx", "kernel", "initrd", "cmdline", "format",
                     "memory_mib", "cpus", "work_bytes", "wanted_outputs", "data_bytes"]),
    PATHS | st.integers(-1, 1 << 70) | st.none(),
    max_size=3,
)  # fmt: skip
LINKS = st.dictionaries(
    st.sampled_from(["data.vmdk", "data-flat.vmdk", "returned", "wanted", "outgoing", RECORD,
                     ".machine.ad", ".job.ad", ".chirp.config", "console.log", "system.vmdk"]),
    st.sampled_from([SECRET, "../canary", "/", "/dev/zero", "/proc/self/mem", "nowhere"]),
    max_size=2,
)  # fmt: skip
TALKS = st.builds(
    Said,
    st.one_of(
        st.lists(ANYTHING, max_size=20),
        st.lists(ANYTHING, max_size=10).map(lambda more: [*BEGUN, *more]),
        st.lists(ATTRIBUTES, max_size=6).map(lambda ad: [*BEGUN[:5], *ad, *BEGUN[5:]]),
    ),
    RECORDS,
    LINKS,
    st.sampled_from(["exit 0", "exit 1", "exec sleep 600", "kill -9 $$"]),
    st.booleans(),
)


@pytest.fixture(scope="module")
def arrived() -> Iterator[Path]:
    """A folder to copy: ``job`` as file transfer has left it, ``bin``, and a ``canary``."""
    with tempfile.TemporaryDirectory(prefix="vmcapsule-root-", dir="/var/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        made = make_arrived(place / "making")
        made.folder.rename(place / "job")
        made.system_disk.exists()
        shutil.rmtree(place / "making")
        (place / "canary").mkdir(0o700)
        (place / "canary" / "secret").write_text("root's")
        (place / "bin").mkdir()
        write_program(place / "bin" / PROGRAM)
        yield place


class Scene:
    """One run: a copy of what arrived, and what came of it."""

    def __init__(self, arrived: Path, place: Path, said: Said) -> None:
        self.place, self.job = place, place / "job"
        subprocess.run(["cp", "-a", f"{arrived}/.", place], check=True)
        place.chmod(0o755)
        self._put_record(said)
        self._put_traps(place / "trapped")
        for name, target in said.links.items():
            path = self.job / name
            path.unlink(missing_ok=True)
            path.symlink_to(target)
        qemu = place / "bin" / "qemu-system-x86_64"
        qemu.write_text(f"#!/bin/sh\n{said.qemu}\n")
        qemu.chmod(0o755)
        give(self.job)
        self.job.chmod(0o700)
        (place / "trace").mkdir()

    def _put_record(self, said: Said) -> None:
        record = json.loads((self.job / RECORD).read_text())
        (self.job / RECORD).write_text(json.dumps({**record, **said.record}))

    def _put_traps(self, marks: Path) -> None:
        marks.mkdir()
        marks.chmod(0o1777)
        for name in TRAPS:
            trap = self.job / name
            if name.endswith(".py"):
                trap.write_text(f"open({str(marks / name)!r}, 'w')\n")
            else:
                trap.write_text(f"#!/bin/sh\n>{marks / name}\n")
                trap.chmod(0o755)

    def run(self, said: Said) -> None:
        """Say it, and wait until all that was started is gone."""
        env = {
            "PATH": f"{self.place}/bin:/usr/bin:/bin",
            "HOME": "/root",
            "VMGAHP_VMTYPE": "vmware",
            "VMGAHP_WORKING_DIR": str(self.job),
            "VMGAHP_USER_UID": str(NOBODY),
            "VMGAHP_USER_GID": str(NOBODY),
            "_CONDOR_VM_CAPSULE_HYPERVISOR": "qemu",
        }
        program = self.place / "bin" / PROGRAM
        data = "".join(f"{line}\r\n" for line in said.lines).encode(errors="replace")
        with subprocess.Popen(
            [*strace(self.place / "trace"), PYTHON, program, "-f", "-t", "-M", "3"],
            cwd=self.job, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        ) as traced:  # fmt: skip
            assert traced.stdin is not None
            # So that all of it goes in, whoever reads it, or does not.
            fcntl.fcntl(traced.stdin, fcntl.F_SETPIPE_SZ, 1 << 20)
            traced.stdin.write(data)
            traced.stdin.flush()
            if said.is_patient and said.qemu != "exec sleep 600":
                self._let_end(traced)
            # A starter that goes.  strace ends when all has ended that it traces.
            try:
                traced.communicate(timeout=WAIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(traced.pid, signal.SIGKILL)
                raise

    def _let_end(self, traced: subprocess.Popen[bytes]) -> None:
        try:
            traced.wait(2)
        except subprocess.TimeoutExpired:
            return

    def calls(self) -> Iterator[Call]:
        folder = self.place / "trace"
        return calls(folder, first_of(folder))


#: By what a file is written, made, removed or changed, and by which flags of open.
CHANGES = ("mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", "rename", "renameat", "renameat2",
           "link", "linkat", "symlink", "symlinkat", "truncate", "chmod", "fchmodat", "chown",
           "lchown", "fchownat", "mknod", "mknodat", "mount", "umount2", "chroot",
           "pivot_root")  # fmt: skip
WRITES = ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC")
KILLS = ("kill", "tkill", "tgkill", "pidfd_open", "pidfd_send_signal", "rt_sigqueueinfo")
#: By which it is seen whose a file is, without following a link.
LOOKS = ("lstat", "newfstatat")
NEVER = ("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd")


def check(scene: Scene, looked_at: str = "") -> None:
    """Assert of each system call that it is one that is to be.

    ``looked_at`` is where root may look whose it is.
    """
    found = list(scene.calls())
    pids = {call.pid for call in found}
    root = found[0].pid
    children = {
        int(call.result) for call in found if call.pid == root and "clone" in call.name
        or call.pid == root and call.name in ("fork", "vfork")
    }  # fmt: skip
    assert found[0].is_root and found[0].name == "execve"
    for call in found:
        assert call.name not in NEVER, call
        if call.is_root and looked_at in call.paths and call.name in LOOKS:
            continue
        if call.is_root:
            check_of_root(scene, call, is_first=call is found[0])
        else:
            check_of_owner(scene, call)
        # What its owner ends in a folder the kernel and the caller judge.
        if call.name in KILLS and (call.is_root or not looked_at):
            wanted = abs(call.number(0))
            allowed = {*children, root} if call.is_root else pids
            assert wanted in allowed or wanted == call.pid, call


def check_of_root(scene: Scene, call: Call, *, is_first: bool) -> None:
    """Root opens and names its own files alone, changes none, and runs one program."""
    own = (*ROOTS_OWN, f"{scene.place}/bin")
    if call.name == "execve":
        assert is_first, call
        return
    assert call.name != "bind", call
    opened = (call.opened,) if call.opened.startswith("/") else ()
    for path in (*call.paths, *opened):
        assert path in ON_THE_WAY or path.startswith(own), call
    assert call.name not in CHANGES, call
    if call.name in ("open", "openat", "creat"):
        is_nothing = "/dev/null" in call.arguments
        assert is_nothing or not any(flag in call.arguments for flag in WRITES), call


def check_of_owner(scene: Scene, call: Call) -> None:
    """The owner writes in the job's folder, and reads no secret of root's."""
    if not call.has_worked or call.name not in ("open", "openat", "creat"):
        return
    assert not call.opened.startswith((SECRET, f"{scene.place}/canary")), call
    if any(flag in call.arguments for flag in WRITES):
        allowed = (f"{scene.job}/", "/dev/null", "/dev/zero", "/proc/self/")
        assert call.opened.startswith(allowed), call


NOTHING = Said(BEGUN, {}, {}, "exit 0", True)


@FUZZ
@given(TALKS)
@example(NOTHING)
@example(NOTHING._replace(links={"data.vmdk": SECRET}, record={"system_disk": SECRET}))
@example(NOTHING._replace(links={"returned": "../canary", "outgoing": "/"}))
@example(NOTHING._replace(qemu="exec sleep 600", is_patient=False))
def test_root_is_not_fooled(arrived: Path, said: Said) -> None:
    with tempfile.TemporaryDirectory(prefix="vmcapsule-root-", dir="/var/tmp") as name:
        scene = Scene(arrived, Path(name), said)
        with subprocess.Popen(["sleep", "600"], cwd=scene.job) as roots_own:
            try:
                scene.run(said)
                assert roots_own.poll() is None
            finally:
                roots_own.kill()
        assert sorted(path.name for path in scene.place.iterdir()) == [
            "bin", "canary", "job", "trace", "trapped",
        ]  # fmt: skip
        assert (scene.place / "canary" / "secret").read_text() == "root's"
        assert [path.name for path in (scene.place / "canary").iterdir()] == ["secret"]
        assert list((scene.place / "trapped").iterdir()) == []
        check(scene)


@FUZZ
@given(
    st.sampled_from(["0", "1", "3", "4", "5", ""]),
    st.sampled_from(["vmware", "kvm", "../..", ""]),
    PATHS.filter(lambda path: "\0" not in path) | st.just("JOB"),
)
def test_root_ends_nothing_whatever_it_is_asked(
    arrived: Path, mode: str, vm_type: str, match: str
) -> None:
    """What is to be ended in a job's folder, the folder's owner ends.

    The test mode is the startd's own, and runs QEMU to ask its version.
    """
    with tempfile.TemporaryDirectory(prefix="vmcapsule-root-", dir="/var/tmp") as name:
        scene = Scene(arrived, Path(name), NOTHING)
        folder = str(scene.job) if match == "JOB" else match
        arguments = [
            "-f",
            "-M",
            "4" if mode == "0" else mode,
            "vmtype",
            vm_type,
            "match",
            folder,
        ]
        program = scene.place / "bin" / PROGRAM
        theirs: Optional[subprocess.Popen[bytes]] = None
        roots_own = subprocess.Popen(["sleep", "600"], cwd=scene.job)
        try:
            theirs = subprocess.Popen(
                ["sleep", "600"], cwd=scene.job, user=NOBODY, group=NOBODY
            )
            subprocess.run(
                [*strace(scene.place / "trace"), PYTHON, program, *arguments],
                cwd="/", env={"PATH": f"{scene.place}/bin:/usr/bin:/bin"}, timeout=WAIT_S,
                stdin=subprocess.DEVNULL, capture_output=True, check=False,
            )  # fmt: skip
            is_theirs = match == "JOB" and mode in ("0", "4") and vm_type != "kvm"
            assert [each.poll() for each in (theirs, roots_own)] == [
                -9 if is_theirs else None, None
            ]  # fmt: skip
        finally:
            for each in (theirs, roots_own):
                if each is not None:
                    each.kill()
                    each.wait()
        check(scene, looked_at=folder)
