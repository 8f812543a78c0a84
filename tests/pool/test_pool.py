"""The pool itself: it runs jobs, routes them, survives its daemons and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import pytest

from tests.pool import __main__ as command
from tests.pool import plugin, root
from tests.pool.daemons import PROGRAMS
from tests.pool.pool import HELD, JobId, Pool, PoolError
from tests.pool.space import Space, all_spaces
from vmcapsule.errors import ToolError, UsageError

pytestmark = pytest.mark.pool

SUBMIT = """\
executable = job.sh
output = out
error = err
log = log
{more}
queue
"""

#: A route whose translation is the job itself, to see the router work without us.  The hooks
#: are those that jobs name by the schedd's transform, so they stand in for ours.
PASS_HOOK = "#!/bin/sh\nsed -e '1,/^------$/d' -e '/^WantJobRouter /d'\n"
PASS_ROUTE = """\
CAPSULE_HOOK_TRANSLATE_JOB = /usr/local/libexec/pass
CAPSULE_HOOK_UPDATE_JOB_INFO =
CAPSULE_HOOK_JOB_FINALIZE =
CAPSULE_HOOK_JOB_CLEANUP =
CAPSULE_RUNNING_HOOK_JOB_FINALIZE =
CAPSULE_RUNNING_HOOK_JOB_CLEANUP =
JOB_ROUTER_ROUTE_NAMES = pass
JOB_ROUTER_ROUTE_pass @=end
  REQUIREMENTS JobUniverse == 5 && WantJobRouter is True
  UNIVERSE VANILLA
@end
"""


def submit(pool: Pool, folder: str, script: str, more: str = "", user: str = "alice") -> JobId:
    job = {"job.sh": f"#!/bin/sh\n{script}\n"}
    return pool.submit(user, folder, SUBMIT.format(more=more), job)


@pytest.mark.representative
def test_a_jobs_output_and_exit_code_come_back(pool: Pool) -> None:
    job = submit(pool, "plain", "echo I am $(id -un); echo oops >&2; exit 7")
    ad = pool.wait(job)
    assert ad.integer("ExitCode") == 7
    assert pool.read("/home/alice/plain/out") == "I am alice\n"
    assert pool.read("/home/alice/plain/err") == "oops\n"
    assert "Normal termination (return value 7)" in pool.read("/home/alice/plain/log")


def test_a_job_has_folders_of_its_own(pool: Pool) -> None:
    # A starter needs a root that is a mount point to lay a private /tmp over the real one.
    job = submit(pool, "private", "pwd; touch /tmp/left-by-the-job made-by-the-job")
    pool.wait(job)
    assert pool.read("/home/alice/private/out").startswith("/var/lib/condor/execute/dir_")
    assert not pool.path("/tmp/left-by-the-job").exists()
    # It came back by file transfer: nothing is shared with the execute point.
    assert pool.path("/home/alice/private/made-by-the-job").exists()


def test_several_jobs_run_at_once(pool: Pool) -> None:
    # Each waits for the other, through files outside of both sandboxes.
    script = "touch /home/bob/met/$1; until [ -e /home/bob/met/$2 ]; do sleep 0.2; done"
    pool.space.make_folder("/home/bob/met", owner="bob")
    jobs = [
        submit(pool, f"meets{mine}", script, f"arguments = {mine} {other}", user="bob")
        for mine, other in ((1, 2), (2, 1))
    ]
    assert [pool.wait(job).integer("ExitCode") for job in jobs] == [0, 0]


def test_a_held_job_is_reported_at_once(pool: Pool) -> None:
    job = submit(pool, "held", "true", "transfer_input_files = no-such-file")
    with pytest.raises(PoolError, match=rf"job {job} is held.*no-such-file"):
        pool.wait(job)
    assert pool.wait(job, until={HELD}).integer("HoldReasonCode") == 13
    pool.run("alice", ["condor_rm", str(job)])
    assert pool.wait(job).integer("JobStatus") == 3


@pytest.fixture
def pass_route(pool: Pool) -> Iterator[None]:
    pool.put("/usr/local/libexec/pass", PASS_HOOK, mode=0o755)
    pool.configure("99-pass", PASS_ROUTE)
    pool.reconfigure()
    yield
    pool.unconfigure("99-pass")
    pool.reconfigure()


@pytest.mark.usefixtures("pass_route")
@pytest.mark.representative
def test_the_router_routes_a_job_and_reports_its_end(pool: Pool) -> None:
    job = submit(pool, "routed", "echo routed; exit 3", "+WantJobRouter = True")
    ad = pool.wait(job)
    (copy,) = pool.routed(job)
    assert copy.string("RouteName") == "pass"
    assert copy.integer("ExitCode") == ad.integer("ExitCode") == 3
    assert ad.string("RoutedToJobId") == f"{copy.value('ClusterId')}.{copy.value('ProcId')}"
    assert pool.read("/home/alice/routed/out") == "routed\n"
    log = pool.read("/home/alice/routed/log")
    assert re.findall(r"^\d{3}", log, re.MULTILINE)[-1] == "005"
    assert "(return value 3)" in log


@pytest.mark.usefixtures("pass_route")
@pytest.mark.representative
def test_no_job_for_the_router_slips_past_it(pool: Pool) -> None:
    # The negotiator is quicker than the router here: most would run as they are.
    jobs = [submit(pool, f"slips{n}", "true", "+WantJobRouter = True") for n in range(4)]
    for job in jobs:
        pool.wait(job)
        assert len(pool.routed(job)) == 1


@pytest.mark.representative
@pytest.mark.parametrize("daemon", PROGRAMS)
def test_a_killed_daemon_is_restarted(pool: Pool, daemon: str) -> None:
    before = pool.daemons.pid(daemon)
    pool.restart(daemon)
    assert pool.daemons.pid(daemon) != before
    job = submit(pool, f"after-{daemon}", "exit 5")
    assert pool.wait(job).integer("ExitCode") == 5


@pytest.mark.representative
def test_a_daemon_that_is_asked_to_end_is_restarted(pool: Pool) -> None:
    before = pool.daemons.pid("SCHEDD")
    pool.restart("SCHEDD", signal.SIGTERM)
    assert pool.daemons.pid("SCHEDD") != before


def test_a_command_that_takes_too_long_is_killed(pool: Pool) -> None:
    done = pool.run("bob", ["sleep", "1234"], timeout_s=0.5, check=False)
    assert done.returncode == 124
    assert not [argv for argv in pool.space.processes().values() if "1234" in argv]


def test_logs_name_the_daemons(pool: Pool) -> None:
    assert {"MasterLog", "SchedLog", "StartLog", "JobRouterLog"} <= set(pool.logs())
    assert "==> JobRouterLog <==" in pool.logs_text()


@pytest.mark.representative
def test_the_plugin_is_installed_as_an_admin_would(pool: Pool) -> None:
    hooks = sorted(pool.path(f"{plugin.HOME}/hooks").iterdir())
    assert hooks
    for path in [*hooks, *(folder for folder in hooks[0].parents if folder.name)][:-1]:
        assert path.stat().st_uid == 0
        assert not path.stat().st_mode & 0o022, path
    value = pool.run("alice", ["condor_config_val", "CAPSULE_HOOK_TRANSLATE_JOB"]).stdout
    assert value.decode() == f"{plugin.HOME}/hooks/translate\n"
    # It imports what it needs, and says itself that it was given nothing.
    hook = f"{plugin.HOME}/hooks/translate"
    done = pool.run("alice", [hook], check=False)
    assert done.returncode in range(64, 79), done.stderr
    assert b"Traceback" not in done.stderr
    # Every job's owner may make a capsule there.
    pool.run("bob", ["mkdir", f"{plugin.SCRATCH}/bobs"])
    pool.run("bob", ["rmdir", f"{plugin.SCRATCH}/bobs"])


def test_its_network_is_its_own(pool: Pool) -> None:
    links = pool.run("alice", ["ip", "-oneline", "link"]).stdout.decode().splitlines()
    assert [line.split(": ")[1] for line in links] == ["lo"]


def test_a_second_start_is_refused(pool: Pool) -> None:
    again = Pool(pool.suite, pool.space.name, pool.cache)
    with pytest.raises(UsageError, match="already running; end it with"):
        again.start()
    assert pool.is_ready()


def test_stop_leaves_nothing(pool: Pool) -> None:
    orphan = Space(pool.folder, f"died-{os.getpid()}")
    orphan.prepare()
    other = Pool(pool.suite, f"gone-{os.getpid()}", pool.cache)
    other.start(linger=True)
    # It has swept up after one that died with its owner.
    assert orphan.name not in left_over(pool)
    submit(other, "long", "sleep 4321")
    other.until(lambda: runs(other, "4321"), 60, "the job to run")
    inside = other.space.processes()
    init = other.space.running()
    folder = Path(f"/proc/{init.pid}/ns")
    kinds = ("mnt", "pid", "net", "ipc", "uts")
    namespaces = {str((folder / kind).readlink()) for kind in kinds}
    # While one is open nobody else's new namespace is given its number.
    kept_open = [(folder / kind).open("rb") for kind in kinds]
    assert not namespaces & {str(link.readlink()) for link in Path("/proc/self/ns").iterdir()}

    assert Pool(pool.suite, other.space.name, pool.cache).stop()

    assert not [pid for pid in inside if Path(f"/proc/{pid}").exists()]
    assert not users_of(namespaces)
    for file in kept_open:
        file.close()
    mounts = Path("/proc/self/mountinfo").read_text()
    assert not [line for line in mounts.splitlines() if other.space.name in line]
    assert not [name for name in namespaces if name in mounts]
    loops = subprocess.run(["losetup", "--all"], capture_output=True, text=True, check=True)
    assert str(other.space.folder) not in loops.stdout
    assert not other.space.folder.exists()
    assert not other.stop()


def runs(pool: Pool, word: str) -> bool:
    return any(word in argv for argv in pool.space.processes().values())


def users_of(namespaces: set[str]) -> list[str]:
    """The processes on this machine that are in one of the namespaces."""
    found = []
    for link in Path("/proc").glob("[0-9]*/ns/*"):
        try:
            if str(link.readlink()) in namespaces:
                found.append(str(link))
        except OSError:
            continue  # it has just ended
    return found


def test_a_pool_dies_with_the_process_that_started_it(pool: Pool) -> None:
    name = f"orphan-{os.getpid()}"
    program = (
        "import sys; from pathlib import Path; from tests.pool.pool import Pool\n"
        "Pool(sys.argv[1], sys.argv[2], Path(sys.argv[3])).start(with_plugin=False)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", program, pool.suite, name, str(pool.cache)]
    owner = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=plugin.CHECKOUT
    )
    assert owner.stdin and owner.stdout
    with owner.stdin, owner.stdout:
        assert owner.stdout.readline() == b"ready\n"
        orphan = Space(pool.folder, name)
        inside = orphan.processes()
        assert len(inside) > len(PROGRAMS)
        owner.kill()
        owner.wait()
    deadline_s = time.monotonic() + 30
    while [pid for pid in inside if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline_s, "the pool outlived its owner"
        time.sleep(0.1)
    # Its files remain, and whoever starts the next pool sweeps them up.
    assert name in left_over(pool)
    orphan.discard()


def left_over(pool: Pool) -> list[str]:
    """The names of pools whose files are there."""
    return [space.name for space in all_spaces(pool.folder)]


def test_a_stale_state_file_is_recognized(tmp_path: Path) -> None:
    space = Space(tmp_path, "old")
    space.folder.mkdir(parents=True)
    stat = Path("/proc/self/stat").read_text()
    (space.folder / "init.stat").write_text(stat)
    assert space.init() is not None
    # The same number, but of a process that began at another time.
    fields = stat.split()
    fields[21] = str(int(fields[21]) - 1)
    (space.folder / "init.stat").write_text(" ".join(fields))
    assert space.init() is None
    assert not space.stop()
    (space.folder / "init.stat").write_text("")
    assert space.init() is None


def test_not_being_root_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert command.main(["start"]) == UsageError.exit_status
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "needs root" in said
    assert not list(tmp_path.iterdir())


def test_a_missing_mmdebstrap_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolError, match="'mmdebstrap' is not installed; .*apt-get install"):
        root.build_root(tmp_path, "trixie")


#: In place of mmdebstrap, on a day when nothing can be had.
NO_MIRROR = "#!/bin/sh\necho 'E: no Release file today' >&2\nexit 25\n"


@pytest.mark.parametrize(("suite", "told"), [("unstable", "1 skipped"), ("trixie", "1 error")])
def test_only_a_moving_suite_may_be_missing(tmp_path: Path, suite: str, told: str) -> None:
    program = tmp_path / "bin/mmdebstrap"
    program.parent.mkdir()
    program.write_text(NO_MIRROR)
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(tmp_path),
        "VMCAPSULE_POOL_SUITE": suite,
    }
    one = f"{__file__}::{test_a_jobs_output_and_exit_code_come_back.__name__}"
    argv = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", one]
    done = subprocess.run(
        argv, cwd=plugin.CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    assert told in done.stdout.splitlines()[-1], done.stdout
    assert f"suite '{suite}' cannot be installed today" in done.stdout or suite == "trixie"
    assert "E: no Release file today" in done.stdout


def test_another_recipe_means_another_root(
    monkeypatch: pytest.MonkeyPatch, pool: Pool, tmp_path: Path
) -> None:
    assert root.is_current(pool.folder, pool.suite)
    assert not root.is_current(tmp_path, pool.suite)
    monkeypatch.setattr(root, "PACKAGES", {**root.PACKAGES, "tree": "usr/bin/tree"})
    assert not root.is_current(pool.folder, pool.suite)
    other = Pool(pool.suite, "other", pool.cache)
    with pytest.raises(UsageError, match="stop that pool"):
        other.start()
