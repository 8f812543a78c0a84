"""Runner "direct": the job is run from here."""

import os
import pwd
import signal
import time

from init.ads import core_name, number, parse_ad
from init.choose import catalogue, deep_catalogue
from init.contract import LINE_STDERR, LINE_STDOUT, SCRATCH_DIR_MARK
from init.files import to_bytes, write_file
from init.line import open_line, wait_with_line
from init.processes import limit, oom_score, spawn
from init.proxy import Proxy
from init.report import Failure
from init.shells import Shells
from init.usage import Usage

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from init.record import Job
    from init.run import Guest

#: The starter's JOB_DEFAULT for /proc/PID/oom_score_adj of jobs.
JOB_OOM_SCORE = 800
#: What who logs in to the slot works with: the first that is there.
SHELLS = ("/bin/bash", "/bin/sh")


def become(login: pwd.struct_passwd, scratch: str) -> None:
    if os.geteuid() == 0:
        os.initgroups(login.pw_name, login.pw_gid)
        os.setgid(login.pw_gid)
        os.setuid(login.pw_uid)
    os.setsid()
    os.umask(0o022)
    os.chdir(scratch)


def open_streams(job: "Job") -> None:
    """Put the job's files in place of 0, 1 and 2, as the job's user."""
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    fds = [os.open(to_bytes(job["stdin"] or "/dev/null"), os.O_RDONLY)]
    fds.append(os.open(to_bytes(job["stdout"] or "/dev/null"), write, 0o644))
    merged = job["stdout"] is not None and job["stderr"] == job["stdout"]
    error = to_bytes(job["stderr"] or "/dev/null")
    fds.append(fds[1] if merged else os.open(error, write, 0o644))
    # They may be 0 to 2 themselves where init gave none: first out of the way.
    for place, fd in enumerate([os.dup(fd) for fd in fds]):
        os.dup2(fd, place)


def limit_job(ad: "Dict[str, str]") -> None:
    """CoreSize as OsProc::StartJob takes it, StackSize as sysapi_set_resource_limits does."""
    limit("RLIMIT_CORE", number(ad, "CoreSize"), hard_too=True)
    limit("RLIMIT_STACK", number(ad, "StackSize") or -1, hard_too=False)


def keep_core(sandbox: str, pid: int, ad: "Dict[str, str]") -> None:
    for core in ("core", f"core.{pid}"):
        if os.path.isfile(os.path.join(sandbox, core)):
            os.rename(os.path.join(sandbox, core), os.path.join(sandbox, core_name(ad)))


class Direct:
    """Runs the job from here, in a sandbox as a starter would make it."""

    process = 0

    def __init__(self, job: "Job", guest: "Guest") -> None:
        self.job, self.guest = job, guest
        self.line = open_line() if guest.whole_machine else None
        self.proxy: Optional[Proxy] = None
        self.shells: Optional[Shells] = None
        self.usage: Optional[Usage] = None

    def prepare(self) -> str:
        """Return the folder to unpack the sandbox into."""
        return os.path.join(self.guest.work, "execute", f"dir_{os.getpid()}")

    def run(self, sandbox: str, job_ad: str, report: "Dict[str, Any]") -> "Dict[bytes, Any]":
        """Run the job to its end; return the catalogue from before it."""
        job, login = self.job, self.guest.login
        if self.guest.whole_machine and job.get("sandbox"):
            sandbox = job["sandbox"]
        self.guest.write_ads("", sandbox)
        self.offer_chirp(sandbox)
        self.guest.see_at(sandbox)
        look = deep_catalogue if job.get("all_changes") else catalogue
        before = look(os.fsencode(sandbox))
        program = os.path.join(sandbox, job["executable"])
        ad = parse_ad(job_ad)

        def setup(at_last: "Callable[[], None]") -> None:
            oom_score(JOB_OOM_SCORE)
            limit_job(ad)
            become(login, sandbox)
            at_last()

        def setup_job() -> None:
            # As every child of HTCondor's daemons finds it.
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            setup(lambda: open_streams(job))

        def start_shell(more: "List[str]", at_last: "Callable[[], None]", term: str) -> int:
            shell = [name for name in SHELLS if os.access(name, os.X_OK)][:1]
            if not shell:
                raise Failure("exec", "there is no shell in this machine")
            return spawn(shell + more, lambda: setup(at_last), {**environment, "TERM": term})

        start_s = time.monotonic()
        # As HTCondor 25 has it; in its slot a job was given all that it is to have.
        environment = {} if job.get("sandbox") else {"HOME": login.pw_dir}
        for name, value in job["environment"].items():
            environment[name] = value.replace(SCRATCH_DIR_MARK, sandbox)
        pid = spawn([program] + job["arguments"], setup_job, environment)
        if self.line is not None:
            self.shells = Shells(self.line, start_shell, login.pw_uid)
        self.guest.log(f"the job runs as {login.pw_name}, process {pid}")
        status, usage = self.wait(pid, sandbox)
        report["duration_s"] = time.monotonic() - start_s
        report["user_cpu_s"], report["system_cpu_s"] = usage.ru_utime, usage.ru_stime
        # What one process had at the most, or all of them as they were looked at.
        report["max_rss_kib"] = report["image_size_kib"] = usage.ru_maxrss
        if self.usage is not None:
            report["max_rss_kib"] = max(usage.ru_maxrss, self.usage.resident_kib)
            report["image_size_kib"] = max(report["max_rss_kib"], self.usage.image_kib)
        if os.WIFSIGNALED(status):
            report["exit_signal"] = os.WTERMSIG(status)
            report["core_dumped"] = os.WCOREDUMP(status)
        else:
            report["exit_code"] = os.WEXITSTATUS(status)
        if report["core_dumped"]:
            keep_core(sandbox, pid, ad)
        return before

    def offer_chirp(self, place: str) -> None:
        """A proxy like the starter's, which the line leads to; the job sees the sandbox at
        ``place``."""
        cookie, path = self.job.get("chirp_cookie"), self.job.get("chirp_config")
        if self.line is None or not (cookie and path):
            return
        self.proxy = Proxy(self.line)
        folder, name = os.path.split(path)
        if folder == place:
            # Of the starter's own mode.
            self.guest.write_beside(name, self.proxy.contact(cookie), 0o700)
        elif not os.path.lexists(path):
            # HTCondor 25 has it beside the job's folder.
            os.makedirs(folder, 0o755, exist_ok=True)
            write_file(path, to_bytes(self.proxy.contact(cookie)), 0o700)
            self.guest.give(path)

    def wait(self, pid: int, sandbox: str) -> "Tuple[int, Any]":
        """The job's wait status and what it used, once it has ended."""
        if self.line is None:
            return os.wait4(pid, 0)[1:]
        out, error = self.job["stdout"], self.job["stderr"]
        streams = {LINE_STDOUT: out, LINE_STDERR: error if error != out else None}
        paths = {kind: os.path.join(sandbox, name) for kind, name in streams.items() if name}
        self.usage = Usage(self.line, self.guest.login.pw_uid, sandbox)
        talkers = [one for one in (self.proxy, self.shells, self.usage) if one is not None]
        try:
            return wait_with_line(pid, self.line, paths, talkers)
        finally:
            if self.shells is not None:
                self.shells.close()

    def save_logs(self) -> None:
        """There are none but the guest's own."""
