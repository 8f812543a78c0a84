"""Runner "condor": the job is run by a personal HTCondor."""

import os
import pwd
import re
import select
import time

from init.ads import number, parse_ad
from init.choose import catalogue
from init.contract import CONDOR_CONFIG, CONDOR_LOG, LOG_BYTES_MAX, TARBALL
from init.files import read_text, remove_tree, to_bytes, to_text, write_file
from init.login import add_login, lookup
from init.processes import process_table, spawn
from init.report import Failure

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Tuple

    from init.record import Job
    from init.run import Guest

#: How long HTCondor may take from its start to the job's, emulated and swapping.
CONDOR_START_TIMEOUT_S = 900.0
#: A startd ends a job whose schedd it has not heard of for the time of a lease, at first for
#: 20 minutes (condor_startd.V6/claim.cpp).  Here is no schedd: so it is told that it renews
#: the lease by itself, a third of that from the start, for as long as there is a starter.
LEASE = [
    "StartdSendsAlives = true",
    "_condor_StartdHandlesAlives = true",
    "JobLeaseDuration = 1000000000",
]

FETCH_HOOK = """\
#!/bin/sh
# The startd's: prints the job's ad, the first time only.
test -e {base}/run/fetched && exit 0
cat > {base}/run/slot.ad
: > {base}/run/fetched
echo "fetch $PPID" > {base}/events
cat {base}/job.ad
"""
PREPARE_HOOK = """\
#!/bin/sh
# The starter's: the init script moves the sandbox in, then the job may start.
echo "prepare $PPID $PWD" > {base}/events
read -r answer < {base}/answers
"""
EXIT_HOOK = """\
#!/bin/sh
# The starter's: reports, then holds on until HTCondor is killed, so that the outputs stay.
# It runs as the job's user, who may have no process left to start: only builtins here.
read -r times < /proc/$PPID/stat
{{
    echo "exit $1 $times"
    while IFS= read -r line; do printf '%s\\n' "$line"; done
    echo "end of ad"
}} > {base}/events
read -r answer < {base}/answers
"""


class Condor:
    """Runs the job under a personal HTCondor: a master and a startd that fetches it."""

    def __init__(self, job: "Job", guest: "Guest") -> None:
        self.job, self.guest, self.log = job, guest, guest.log
        self.base = os.path.join(guest.work, "condor")
        self.home = f"/condor-{job['condor_version']}"
        self.tarball = os.path.join(guest.data_dir, TARBALL)
        self.process = self.tar = 0
        self.events = self.answers = -1
        self.buffer = b""
        self.lines: List[str] = []

    def prepare(self) -> str:
        """Begin to unpack a tarball; return the folder to unpack the sandbox into.

        Where none was sent the machine has the HTCondor that is meant; one that was sent is
        another, whatever the version says.
        """
        if os.path.isfile(self.tarball):
            if os.path.lexists(self.home):
                remove_tree(self.home)
            # -o: owned by root, whoever packed it; GNU's and busybox's tar know it.
            # A shell, to find tar where this machine has it.
            argv = ["/bin/sh", "-c", 'exec tar -x -o -f "$1" -C /', "sh", self.tarball]
            self.tar = spawn(argv, lambda: None, dict(os.environ), "unpack_condor")
        elif not os.path.isdir(self.home):
            message = f"there is neither an HTCondor tarball {self.tarball} nor {self.home}"
            raise Failure("unpack_condor", message)
        return os.path.join(self.guest.work, "sandbox")

    def run(self, sandbox: str, job_ad: str, report: "Dict[str, Any]") -> "Dict[bytes, Any]":
        """Run the job to its end; ``sandbox`` becomes the scratch folder's content."""
        self.guest.timed("unpack_condor", self.wait_tar)
        starter, scratch = self.guest.timed(
            "start_condor", lambda: self.start_job(sandbox, job_ad)
        )
        before = catalogue(os.fsencode(scratch))
        cpu_before = process_table().get(starter, [])
        start_s = time.monotonic()
        os.write(self.answers, b"go\n")
        self.log(f"the job starts in {scratch}")
        _, reason, times = self.wait_event("exit ")
        report["duration_s"] = time.monotonic() - start_s
        self.wait_event("end of ad")
        if reason != "exit":
            raise self.not_run()
        self.read_exit(report, times, cpu_before)
        return before

    def wait_tar(self) -> None:
        status = os.waitpid(self.tar, 0)[1] if self.tar else 0
        if status:
            message = f"tar could not unpack the HTCondor tarball (wait status {status})"
            raise Failure("unpack_condor", message)
        if not os.path.isdir(self.home):
            message = f"the HTCondor tarball has no folder {self.home}"
            raise Failure("unpack_condor", message)

    def start_job(self, sandbox: str, job_ad: str) -> "Tuple[int, str]":
        """Start HTCondor until it is about to start the job: (starter, scratch folder)."""
        self.make_folders()
        self.write_config(job_ad)
        self.start_master()
        _, starter, scratch = self.wait_event("prepare ", CONDOR_START_TIMEOUT_S)
        for name in os.listdir(os.fsencode(sandbox)):
            inner = os.path.join(os.fsencode(sandbox), name)
            os.rename(inner, os.path.join(os.fsencode(scratch), name))
        self.guest.sandbox = scratch
        self.guest.write_ads(read_text(self.base + "/run/slot.ad"), scratch)
        return int(starter), scratch

    def make_folders(self) -> None:
        if lookup("condor") is None:
            add_login("condor", self.base, 300)
        condor = pwd.getpwnam("condor")
        os.makedirs(self.base + "/hooks")
        for name in ("log", "spool", "lock", "run"):
            os.mkdir(os.path.join(self.base, name))
            os.chown(os.path.join(self.base, name), condor.pw_uid, condor.pw_gid)
        os.chown(self.guest.work + "/execute", condor.pw_uid, condor.pw_gid)
        self.events = self.pipe("events")
        self.answers = self.pipe("answers")

    def pipe(self, name: str) -> int:
        """Make a FIFO; open both ways, so that no end ever waits for the other."""
        path = os.path.join(self.base, name)
        os.mkfifo(path)
        os.chmod(path, 0o666)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def write_config(self, job_ad: str) -> None:
        """Write the configuration, the hooks and the job's ad as the startd fetches it."""
        name = self.guest.login.pw_name
        given = read_text(os.path.join(self.guest.data_dir, CONDOR_CONFIG))
        ours = f"VMCAPSULE_WORK = {self.guest.work}\nVMCAPSULE_USER = {name}\n"
        write_file(self.base + "/config", to_bytes(ours + given))
        # Of two lines for an attribute the last one holds.  This starter has no shadow.
        kept = [line for line in job_ad.split("\n") if not line.lower().startswith("want")]
        kept += [f'Owner = "{name}"', f'OsUser = "{name}"', f'User = "{name}@capsule"']
        kept += [*LEASE, ""]
        fallback = ['MyType = "Job"', "ClusterId = 1", "ProcId = 0"]
        write_file(self.base + "/job.ad", to_bytes("\n".join(fallback + kept)))
        hooks = {"fetch": FETCH_HOOK, "prepare": PREPARE_HOOK, "exit": EXIT_HOOK}
        for hook, text in hooks.items():
            path = os.path.join(self.base, "hooks", hook)
            write_file(path, text.format(base=self.base).encode("ascii"), 0o755)

    def start_master(self) -> None:
        def setup() -> None:
            os.setsid()
            os.chdir("/")
            os.umask(0o022)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            output = os.open(self.base + "/log/output", os.O_WRONLY | os.O_CREAT, 0o644)
            os.dup2(output, 1)
            os.dup2(output, 2)

        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "CONDOR_CONFIG": self.base + "/config",
        }
        argv = [self.home + "/sbin/condor_master", "-f"]
        self.process = spawn(argv, setup, environment, "start_condor")
        self.log(f"condor_master is process {self.process}")

    def wait_event(self, wanted: str, timeout_s: float = float("inf")) -> "List[str]":
        """Wait for a hook's report that begins with ``wanted``; keep lines before it.

        Meanwhile mind that HTCondor still runs, ever more seldom.
        """
        start_s = time.monotonic()
        poller = select.poll()
        poller.register(self.events, select.POLLIN)
        pause_s = 0.1
        self.lines = []
        while True:
            while b"\n" in self.buffer:
                data, _, self.buffer = self.buffer.partition(b"\n")
                line = to_text(data)
                if line.startswith(wanted):
                    self.log("HTCondor: " + line[:60])
                    return line.split(" ", 2)
                self.lines.append(line)
            if poller.poll(int(pause_s * 1000)):
                self.buffer += os.read(self.events, 65536)
                continue
            pause_s = min(2 * pause_s, 5.0)
            self.check(wanted)
            if time.monotonic() - start_s > timeout_s:
                message = f"HTCondor did not start the job within {timeout_s} s"
                raise Failure("start_condor", message + self.complaint())

    def check(self, wanted: str) -> None:
        """Raise Failure when the master, the startd or the starter has gone."""
        stage = "start_condor" if wanted == "prepare " else "job"
        if os.waitpid(self.process, os.WNOHANG)[0]:
            self.process = 0
            raise Failure(stage, "condor_master has ended" + self.complaint())
        gone = r"\b(STARTD|condor_startd)\b.*\b(died|exited)\b"
        if re.search(gone, self.logged("MasterLog")):
            raise Failure(stage, "condor_startd has ended" + self.complaint())
        if re.search(r"Starter pid \d+ (exited|died)", self.logged("StartLog")):
            if wanted == "exit ":
                raise self.not_run()
            raise Failure(stage, "HTCondor could not run the job" + self.complaint())

    def logged(self, name: str) -> str:
        return read_text(os.path.join(self.base, "log", name), 128 << 10)

    def not_run(self) -> Failure:
        """Why the starter did not run the job; OsProc::StartJob logs the errno."""
        names = sorted(os.listdir(self.base + "/log"))
        log = "".join(self.logged(name) for name in names if name.startswith("StarterLog"))
        said = re.findall(r"Create_Process\(.*\) failed: (.*\(errno=(\d+): '.*'\))$", log, re.M)
        if not said:
            return Failure("exec", "HTCondor could not run the job" + self.complaint())
        why, number = said[-1]
        return Failure("exec", f"'{self.job['executable']}': {why}", int(number))

    def complaint(self) -> str:
        """What HTCondor's logs say went wrong, as the end of a sentence."""
        trouble = {"StarterLog": r"[Ff]ailed|[Cc]annot|ERROR", "StartLog": r"\bERROR\b"}
        trouble["MasterLog"] = trouble["StartLog"]
        for daemon, pattern in trouble.items():
            for name in sorted(os.listdir(self.base + "/log")):
                text = self.logged(name).rpartition("Starting a VANILLA")[2]
                for line in text.split("\n") if name.startswith(daemon) else []:
                    if re.search(pattern, line) and not name.endswith(".testing"):
                        return ": " + re.sub(r"^[\d/]+ [\d:.]+ (\(pid:\d+\) )?", "", line)
        return ""

    def read_exit(self, report: "Dict[str, Any]", times: str, cpu_before: "List[str]") -> None:
        """Take over what the exit ad says, and the starter's count of CPU time.

        The ad's own CPU times are samples, zero for short jobs.  What the starter has
        waited for (cutime and cstime in /proc/PID/stat) is the job and the prepare hook.
        """
        report["condor_ad"] = "\n".join(self.lines)
        ad = parse_ad(report["condor_ad"])
        if ad.get("ExitBySignal", "").lower() == "true":
            report["exit_signal"] = int(ad["ExitSignal"])
        elif "ExitCode" in ad:
            report["exit_code"] = int(ad["ExitCode"])
        else:
            raise Failure("job", "HTCondor's exit ad has no ExitCode" + self.complaint())
        report["core_dumped"] = ad.get("JobCoreDumped", "").lower() == "true"
        report["max_rss_kib"] = int(number(ad, "ResidentSetSize"))
        report["image_size_kib"] = max(int(number(ad, "ImageSize")), report["max_rss_kib"])
        told_s = number(ad, "JobDuration")  # by the wall clock, which may be set
        if 0 < told_s < report["duration_s"]:
            report["duration_s"] = told_s
        after = times.rpartition(")")[2].split()
        names = (("user_cpu_s", "RemoteUserCpu", 13), ("system_cpu_s", "RemoteSysCpu", 14))
        for name, attribute, field in names:
            waited = int(after[field]) - int(cpu_before[field] if cpu_before else 0)
            report[name] = max(number(ad, attribute), waited / os.sysconf("SC_CLK_TCK"))

    def save_logs(self) -> None:
        """Put the tails of HTCondor's logs on the data disk, in one file."""
        folder = os.path.join(self.base, "log")
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        parts = [
            f"==> {name}\n{self.logged(name)}\n"
            for name in names
            if os.path.isfile(os.path.join(folder, name))
        ]
        data = "".join(parts).encode("utf-8", "replace")[:LOG_BYTES_MAX]
        try:
            write_file(os.path.join(self.guest.data_dir, CONDOR_LOG), data)
        except OSError as error:
            self.log(f"cannot keep HTCondor's logs: {error}")
