"""The whole run, from the job record to the exit record."""

import os
import signal
import time

from init.ads import core_name, machine_ad, parse_ad, sandbox_ad
from init.choose import listed_outputs
from init.condor import Condor
from init.contract import (
    EXIT_RECORD,
    JOB_AD,
    LOCALTIME,
    MACHINE_AD,
    RECORD_DIR,
    RUN_AD,
    SANDBOX_AD,
)
from init.direct import Direct
from init.exit_record import NO_OUTPUTS, new_report, record_bytes
from init.files import read_text, remove_tree, to_bytes, usage_kib, write_file
from init.login import choose_login
from init.pack import remove_results, save_outputs
from init.processes import kill_below, kill_user, limit
from init.record import read_job
from init.report import MESSAGE_CHARS_MAX
from init.unpack import Unpacker
from init.work_disk import MS_BIND, check_room, mount, mount_work_disk

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, List, Optional, Set

    from init.record import Job
    from init.report import Log

EXIT_RECORD_NEW = RECORD_DIR + "/exit.new"

#: LimitNOFILE of HTCondor's unit for systemd: so many files a job may have open natively.
OPEN_FILES_MAX = 32768


def set_zone(data_dir: str, zone: "Optional[str]", etc: str = "/etc") -> None:
    """Give the machine the host's time zone, by content: it may have no zones of its own."""
    path = os.path.join(data_dir, LOCALTIME)
    if not os.path.isfile(path):
        return
    for name in ("localtime", "timezone"):
        if os.path.lexists(os.path.join(etc, name)):
            os.unlink(os.path.join(etc, name))
    with open(path, "rb") as stream:
        write_file(os.path.join(etc, "localtime"), stream.read())
    if zone:
        write_file(os.path.join(etc, "timezone"), to_bytes(zone + "\n"))


class Guest:
    """This run: where things are, whom the job runs as, and what will be reported."""

    def __init__(self, data_dir: str, work: str, whole_machine: bool, log: "Log") -> None:
        self.data_dir, self.work, self.log = data_dir, work, log
        self.whole_machine = whole_machine
        self.sandbox = ""
        self.phases: Dict[str, float] = {}
        self.report = new_report(self.phases)

    def timed(self, name: str, step: "Callable[[], Any]") -> "Any":
        """Note the seconds that a step takes, also when it fails."""
        start_s = time.monotonic()
        try:
            return step()
        finally:
            self.phases[name] = round(time.monotonic() - start_s, 3)

    def run(self) -> None:
        """Everything from the job record to the packed outputs."""
        job, report = read_job(self.data_dir), self.report
        remove_results(self.data_dir)
        given = self.names_on_disk()
        report["runner"] = job["runner"]
        report["guest"]["condor_version"] = job["condor_version"] or ""
        if self.whole_machine:
            set_zone(self.data_dir, job.get("time_zone"))
            limit("RLIMIT_NOFILE", OPEN_FILES_MAX, hard_too=True)
        self.log(
            f"runner {job['runner']}, executable {job['executable']!r}, user {job['user']!r}"
        )
        self.make_folders(job.get("work_disk_bytes") or 0)
        self.make_home(job)
        runner = Condor(job, self) if job["runner"] == "condor" else Direct(job, self)
        try:
            self.sandbox = runner.prepare()
            self.timed("unpack_input", self.unpack)
            check_room(job, self.sandbox)
            job_ad = read_text(os.path.join(self.data_dir, JOB_AD))
            before = runner.run(self.sandbox, job_ad, report)
        except BaseException:
            self.kill_job(runner.process)
            self.restore_disk(given)
            runner.save_logs()
            raise
        # From here on a signal is too late: the job has ended, and is to be reported.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.phases["job"] = round(report["duration_s"], 3)
        report["ended_at_s"] = time.time()
        report["started_at_s"] = max(0.0, report["ended_at_s"] - report.pop("duration_s"))
        ended = {name: report[name] for name in ("exit_code", "exit_signal")}
        self.log(f"the job ended: {ended}")
        self.kill_job(runner.process)
        self.restore_disk(given)
        report["disk_usage_kib"] = usage_kib(os.fsencode(self.sandbox))
        core = core_name(parse_ad(job_ad))
        if not (report["core_dumped"] and os.path.isfile(os.path.join(self.sandbox, core))):
            core = ""
        wanted = listed_outputs(job, report, core)
        self.timed("save_outputs", lambda: self.save(job, wanted, before))
        report["state"] = "exited"

    def save(
        self, job: "Job", wanted: "Optional[List[str]]", before: "Dict[bytes, Any]"
    ) -> None:
        save_outputs(
            job, wanted, self.data_dir, self.sandbox, self.login, before, self.report, self.log
        )

    def make_folders(self, work_disk_bytes: int) -> None:
        if os.path.isdir(self.work):
            remove_tree(self.work)  # a machine that was stopped half-way and started anew
        os.makedirs(self.work, 0o755)
        if self.whole_machine and work_disk_bytes:
            size_bytes = work_disk_bytes
            self.timed("work_disk", lambda: mount_work_disk(self.work, size_bytes, self.log))
        os.mkdir(os.path.join(self.work, "execute"), 0o755)

    def make_home(self, job: "Job") -> None:
        """Choose the job's login, and give it a home like its user's."""
        folder = "/home" if self.whole_machine else self.work
        home = os.path.join(folder, (job["user"] or "").replace("/", "") or "home")
        self.login = choose_login(job["user"], home)
        if self.login.pw_dir == home and not os.path.isdir(home):
            os.makedirs(home, 0o755)
            self.give(home)

    def write_ads(self, startd_ad: str, place: str) -> None:
        """Put ``.job.ad`` and ``.machine.ad`` into the sandbox, which the job sees at
        ``place``."""
        # Of two lines for an attribute the last one holds.
        ads = (SANDBOX_AD, RUN_AD)
        job_ad = "\n".join(read_text(os.path.join(self.data_dir, name)) for name in ads)
        slot_ad = read_text(os.path.join(self.data_dir, MACHINE_AD))
        files = {
            ".job.ad": sandbox_ad(job_ad, place),
            ".machine.ad": machine_ad(slot_ad, startd_ad),
        }
        for name, text in files.items():
            self.write_beside(name, text)

    def write_beside(self, name: str, text: str, mode: int = 0o644) -> None:
        """Put a file of a starter's into the sandbox, in place of what may have the name."""
        write_file(self.sandbox + ".new", to_bytes(text), mode)
        self.give(self.sandbox + ".new")
        os.rename(self.sandbox + ".new", os.path.join(self.sandbox, name))

    def see_at(self, place: str) -> None:
        """Have the sandbox at another place, too, which is its own from now on."""
        if place != self.sandbox:
            os.makedirs(place, 0o755, exist_ok=True)
            mount(self.sandbox, place, "", MS_BIND)
            self.sandbox = place

    def give(self, path: str) -> None:
        """Make the job's user the owner, where that is another one than this process's."""
        if os.geteuid() == 0:
            os.chown(path, self.login.pw_uid, self.login.pw_gid)

    def unpack(self) -> None:
        os.mkdir(self.sandbox, 0o700)
        unpacker = Unpacker(self.data_dir, self.sandbox, self.login)
        unpacker.run()
        self.give(self.sandbox)
        self.log(f"unpacked {unpacker.count} entries into {self.sandbox}")

    def kill_job(self, process: int) -> None:
        """Kill HTCondor first, or its starter would remove the sandbox; then the job."""
        if process:
            kill_below(process)
        if self.whole_machine and os.geteuid() == 0:
            kill_user(self.login.pw_uid)
        killed = kill_below(os.getpid())
        if killed:
            self.log(f"killed {killed} processes that the job left behind")

    def names_on_disk(self) -> "Dict[str, Set[str]]":
        folders = (self.data_dir, os.path.join(self.data_dir, RECORD_DIR))
        return {folder: set(os.listdir(folder)) for folder in folders}

    def restore_disk(self, given: "Dict[str, Set[str]]") -> None:
        """Remove what the job put on the data disk, which anybody may write to."""
        for folder, names in given.items():
            if not os.path.isdir(folder):
                os.mkdir(folder)
            for name in set(os.listdir(folder)) - names:
                self.log(f"removing {name!r} from the data disk: the job put it there")
                remove_tree(os.path.join(folder, name))

    def fail(self, stage: str, message: str, number: "Optional[int]" = None) -> None:
        message = " ".join(message.split())[:MESSAGE_CHARS_MAX]
        self.log(f"FAILED in {stage}: {message}")
        self.report["state"] = "failed"
        self.report["failure"] = {"stage": stage, "message": message, "errno": number}

    def write_record(self) -> None:
        """Write the exit record last of all: whoever finds it finds all the rest."""
        os.sync()
        new = os.path.join(self.data_dir, EXIT_RECORD_NEW)
        with open(new, "wb") as stream:
            stream.write(record_bytes(self.report))
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(new, os.path.join(self.data_dir, EXIT_RECORD))
        os.sync()

    def finish(self) -> None:
        """Write the exit record; where there is no room instead of the outputs."""
        try:
            self.write_record()
        except OSError as error:
            self.report["outputs"] = NO_OUTPUTS
            self.fail("save", f"cannot write the exit record beside the outputs: {error}")
            remove_results(self.data_dir)
            self.write_record()
        self.log("wrote the exit record")
