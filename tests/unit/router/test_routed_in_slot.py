"""The ad of a job that is packed in its slot: the source's own, and what stands in for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Optional

import classad2
import pytest

from tests.unit.returned import small_template
from vmcapsule.classad.ads import Ad, parse_ad, split_translate
from vmcapsule.config import load_config
from vmcapsule.errors import AdError, ConfigError, JobRefused, TooLarge
from vmcapsule.job.text import split_v1, split_v2
from vmcapsule.router.finalize import finalize
from vmcapsule.router.translate import translate
from vmcapsule.slot.packed.arguments import of_routed_ad, parsed
from vmcapsule.slot.packed.routed import source_ad, wants_updates
from vmcapsule.template.likeness import likeness
from vmcapsule.template.template import load

RECORDED = (
    Path(__file__).resolve().parents[2] / "fixtures" / "jobrouter-23.9.6" / "translate.stdin"
)


@pytest.fixture
def knobs(tmp_path: Path) -> dict[str, str]:
    return {**small_template(tmp_path), "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": "slot"}


def routed(knobs: dict[str, str], extra: str = "", **more: str) -> Ad:
    """Of a job that a real router has sent, with lines that go before its own."""
    own = parse_ad(extra)
    source = split_translate(RECORDED.read_text())[1].without(own.names)
    text = source.long_form() + extra
    param = {**knobs, **{f"VM_CAPSULE_{name}": value for name, value in more.items()}}
    done = translate(text, load_config(param))
    assert done.capsule is None and done.job_id == "11.0"
    return done.ad


def test_the_source_is_run_by_the_program_of_its_machine(knobs: dict[str, str]) -> None:
    extra = 'Cmd = "/home/alice/the job.sh"\nArguments = "1 \'two  words\' $$(Memory)"\n'
    ad = routed(knobs, extra + 'TransferInput = "a,http://b/c"\n')
    assert ad.string("Cmd") == "$$(VMCapsuleProgram)"
    assert ad.boolean("TransferExecutable") is False
    words = split_v2(ad.string("Arguments") or "")
    assert words[0] == "routed"
    args, command = parsed(of_routed_ad(), words[1:])
    assert command == ("./the job.sh", "1", "two  words", "$$(Memory)")
    assert args.executable and not (args.network or args.require_kvm or args.timeout)
    assert args.template_like == likeness(load(Path(knobs["VM_CAPSULE_TEMPLATE"])))
    assert ad.string("TransferInput") == "/home/alice/the job.sh,a,http://b/c"


def test_arguments_of_the_older_syntax_stay_in_it(knobs: dict[str, str]) -> None:
    older = 'Cmd = "/home/alice/job.sh"\nArgs = "it\'s \\"one\\" $$(X)"\n'
    recorded = split_translate(RECORDED.read_text())[1].without(["Arguments", "Args", "Cmd"])
    done = translate(recorded.long_form() + older, load_config(knobs))
    words = split_v1(done.ad.string("Args") or "")
    assert "Arguments" not in done.ad
    assert words[words.index("--") :] == ("--", "./job.sh", "it's", '"one"', "$$(X)")


def test_what_the_older_syntax_cannot_say_is_refused(knobs: dict[str, str]) -> None:
    recorded = split_translate(RECORDED.read_text())[1].without(["Arguments", "Cmd"])
    text = recorded.long_form() + 'Args = "1"\nCmd = "/home/alice/the job"\n'
    with pytest.raises(AdError, match="'/home/alice/the job' has a blank or a quote"):
        translate(text, load_config(knobs))


def test_a_program_of_the_machine_is_named_and_not_sent(knobs: dict[str, str]) -> None:
    ad = routed(knobs, 'Cmd = "/bin/date"\nTransferExecutable = false\nTransferInput = "a"\n')
    args, command = parsed(of_routed_ad(), split_v2(ad.string("Arguments") or "")[1:])
    assert command[0] == "/bin/date" and not args.executable
    assert ad.string("TransferInput") == "a"


def test_a_program_is_fetched_where_it_says(knobs: dict[str, str]) -> None:
    ad = routed(knobs, 'Cmd = "http://h/x/prog"\nTransferInput = "a"\n')
    _, command = parsed(of_routed_ad(), split_v2(ad.string("Arguments") or "")[1:])
    assert (command[0], ad.string("TransferInput")) == ("./prog", "http://h/x/prog,a")


def test_a_program_that_no_list_can_hold_is_refused(knobs: dict[str, str]) -> None:
    with pytest.raises(AdError, match="'/x/a,b' has a comma"):
        routed(knobs, 'Cmd = "/x/a,b"\n')


def test_nothing_of_the_jobs_environment_is_for_our_program(knobs: dict[str, str]) -> None:
    ad = routed(knobs, 'Environment = "LD_PRELOAD=/x PATH=/y"\n')
    assert ad.string("Environment") == ""
    assert ad.string("VmCapsuleSource_Environment") == "LD_PRELOAD=/x PATH=/y"
    ad = routed(knobs, 'Environment = undefined\nEnv = "A=1"\n')
    assert ad.string("Environment") == ""
    assert parse_ad(source_ad(ad.long_form(), 256)).string("Env") == "A=1"


@pytest.mark.parametrize("own", ["", "WantIOProxy = true\n", "WantRemoteUpdates = false\n"])
def test_we_may_tell_the_queue_and_the_job_no_more_than_it_asked_for(
    knobs: dict[str, str], own: str
) -> None:
    ad = routed(knobs, own)
    assert ad.boolean("WantRemoteUpdates") is True
    # The starter has it so for files: nothing of ours needs them.
    assert ad.boolean("WantIOProxy") is (True if "IOProxy" in own else None)
    source = source_ad(ad.long_form(), 256)
    assert wants_updates(source) is ("IOProxy" in own)


def test_what_the_administrator_configured_is_told(knobs: dict[str, str]) -> None:
    more = {"NETWORK": "true", "REQUIRE_KVM": "true", "TIMEOUT": "3600"}
    ad = routed(knobs, **more, MEMORY_OVERHEAD_MIB="100")
    args, _ = parsed(of_routed_ad(), split_v2(ad.string("Arguments") or "")[1:])
    assert (args.network, args.require_kvm, args.timeout) == (True, True, 3600)
    assert args.memory_overhead_mib == 100
    required = ad.expr("Requirements") or ""
    assert "TARGET.VMCapsuleNetwork =?= true" in required
    assert "TARGET.VMCapsuleKVM =?= true" in required


@pytest.mark.parametrize(("kvm", "rank"), [("true", 1.0), ("undefined", 0.0)])
def test_machines_where_kvm_works_come_first(
    knobs: dict[str, str], kvm: str, rank: float
) -> None:
    ad = classad2.parseOne(routed(knobs).long_form(), classad2.ParserType.Old)
    machine = classad2.ClassAd(f"[VMCapsuleKVM = {kvm}]")
    assert ad.lookup("Rank").eval(ad, machine) == rank


@pytest.mark.parametrize(
    ("asked", "memory"),
    [
        ("RequestMemory = 100", "(100) + 384"),
        ("RequestMemory = 64 * (NumJobStarts + 1)", "(64 * (NumJobStarts + 1)) + 384"),
        # What our program used is no measure of the job.
        ("ImageSize = 300000\nRequestMemory = ImageSize / 1024", "(292) + 384"),
    ],
)
def test_the_machine_needs_more_than_its_job(
    knobs: dict[str, str], asked: str, memory: str
) -> None:
    ad = routed(knobs, asked)
    assert ad.expr("RequestMemory") == memory
    assert ad.expr("RequestDisk") == "(51200) * 3 + 65536"


def test_what_the_job_says_of_its_end_and_its_files_stays(knobs: dict[str, str]) -> None:
    lines = """\
OnExitHold = ExitCode == 3
OnExitRemove = ExitCode == 0 || NumJobCompletions > 2
JobMaxRetries = 2
TransferOutput = "a,b"
TransferOutputRemaps = "a=b"
WhenToTransferOutput = "ON_SUCCESS"
OutputDestination = "file:///x"
StreamOut = true
CheckpointExitCode = 85
MaxTransferOutputMB = 5
DeferralTime = 12
KillSig = "SIGUSR1"
Mine = 7
AccountingGroup = "physics"
"""
    ad = routed(knobs, lines)
    assert {name: ad.expr(name) for name in parse_ad(lines).names} == {
        name: parse_ad(lines).expr(name) for name in parse_ad(lines).names
    }


LIFE = """\
GlobalJobId = "x#11.0#1"
JobStatus = 1
UserLog = "log"
WantJobRouter = true
NumJobStarts = 2
NumShadowStarts = 5
LastRemoteHost = "x"
PeriodicHold = true
PeriodicRemove = true
LeaveJobInQueue = true
DAGManJobId = 5
ChirpVmCapsuleUnreported = 7
TransferringInput = true
HoldReason = "x"
"""


def test_the_life_of_the_source_is_its_own(knobs: dict[str, str]) -> None:
    ad = routed(knobs, LIFE)
    gone = "GlobalJobId JobStatus UserLog WantJobRouter NumShadowStarts LastRemoteHost"
    gone += " DAGManJobId ChirpVmCapsuleUnreported TransferringInput HoldReason ClusterId"
    assert [name for name in gone.split() if name in ad] == []
    assert ad.integer("NumJobStarts") == 2
    assert ad.boolean("LeaveJobInQueue") is False
    assert not _holds(ad)


def _holds(ad: Ad, **told: object) -> Optional[str]:
    """Why it is held with what was ``told`` of it; None: it is not."""
    now = classad2.ClassAd("[" + "; ".join(f"{n} = {t}" for n, t in ad.attributes) + "]")
    for name, value in {"JobStatus": 1, "EnteredCurrentStatus": 0, **told}.items():
        now[name] = value
    return str(now.eval("PeriodicHoldReason")) if now.eval("PeriodicHold") is True else None


def test_a_guest_that_does_not_report_is_run_thrice_and_then_held(
    knobs: dict[str, str],
) -> None:
    ad = routed(knobs)
    told: dict[str, object] = {"ChirpVmCapsuleReason": "m: it died"}
    assert _holds(ad, ChirpVmCapsuleUnreported=2, **told) is None
    # The third run may be on its way to the end.
    assert _holds(ad, ChirpVmCapsuleUnreported=3, JobStatus=2, **told) is None
    reason = _holds(ad, ChirpVmCapsuleUnreported=3, **told)
    assert reason == (
        "vmcapsule: the guest did not report in 3 runs; the last was on m: it died"
    )


def test_a_program_that_the_guest_does_not_start_is_a_hold(knobs: dict[str, str]) -> None:
    told: dict[str, object] = {
        "ChirpVmCapsuleUnreported": 1,
        "ChirpVmCapsuleHoldReasonCode": 6,
        "ChirpVmCapsuleHoldReason": "vmcapsule: no such program",
    }
    assert _holds(routed(knobs), **told) == "vmcapsule: no such program"


MACHINE = """\
HasVMCapsule = true
HasFileTransfer = true
Machine = "m1"
Arch = "X86_64"
OpSys = "LINUX"
Memory = 500
Disk = 1000000
Cpus = 1
VMCapsuleTemplates = "{like}"
"""


@pytest.mark.parametrize(
    ("requirements", "machine", "matches"),
    [
        ("true", "", True),
        ("TARGET.Memory >= RequestMemory", "", True),
        ("TARGET.Memory >= RequestMemory", "Memory = 400", False),
        ('TARGET.Machine == "m2"', "", False),
        # By which the quick-start guide has a job only routed.
        ("(false) && (TARGET.Cpus >= 1)", "", True),
        ("true", 'VMCapsuleTemplates = "0123"', False),
        ("true", "VMCapsuleTemplates = undefined", False),
        ("true", "HasVMCapsule = false", False),
    ],
)
def test_it_runs_where_its_source_may_and_its_template_is(
    knobs: dict[str, str], requirements: str, machine: str, matches: bool
) -> None:
    ad = routed(knobs, f"RequestMemory = 64\nRequirements = {requirements}\n")
    like = likeness(load(Path(knobs["VM_CAPSULE_TEMPLATE"])))
    there = parse_ad(MACHINE.format(like=like)).with_(dict(parse_ad(machine).attributes))
    job = classad2.parseOne(ad.long_form(), classad2.ParserType.Old)
    slot = classad2.parseOne(there.long_form(), classad2.ParserType.Old)
    required = classad2.ExprTree(ad.expr("Requirements"))
    assert required.eval(job, slot) is matches


@pytest.mark.parametrize(
    "line",
    [
        "WantDocker = true",
        "WantContainer = true",
        "RequestGPUs = 1",
        'PreCmd = "x"',
        'ShouldTransferFiles = "NO"',
        'x509userproxy = "/x"',
        "JobUniverse = 7",
        "InteractiveJob = true",
    ],
)
def test_what_no_guest_can_give_is_refused(knobs: dict[str, str], line: str) -> None:
    with pytest.raises(JobRefused, match=line.split(" ")[0]):
        routed(knobs, line)


def test_nothing_is_written(knobs: dict[str, str]) -> None:
    scratch = Path(knobs["VM_CAPSULE_SCRATCH_DIR_PREFIX"])
    shutil.rmtree(scratch, ignore_errors=True)
    routed(knobs)
    assert not scratch.exists()


def test_an_ad_that_the_router_would_cut_is_told(knobs: dict[str, str]) -> None:
    route, source = RECORDED.read_text().split("------\n")
    long_line = f'Mine = "{"x" * 20000}"\n'
    with pytest.raises(TooLarge, match="PIPE_BUFFER_MAX = 10240"):
        translate(f"{route}------\n{source}{long_line}", load_config(knobs))


def test_a_route_of_another_universe_is_told(knobs: dict[str, str]) -> None:
    _, source = RECORDED.read_text().split("------\n")
    with pytest.raises(ConfigError, match="TargetUniverse = 13"):
        translate(f'[ Name = "x"; TargetUniverse = 13 ]\n------\n{source}', load_config(knobs))


@pytest.mark.parametrize(
    ("said", "isolation"), [("tcg", '"tcg"'), ("kvm", '"kvm"'), ("x", None)]
)
def test_the_source_is_told_what_its_guest_measured(
    knobs: dict[str, str], said: str, isolation: Optional[str]
) -> None:
    ended = """\
ExitBySignal = true
ChirpVmCapsuleCoreDumped = 1
RemoteUserCpu = 99.0
ChirpVmCapsuleUserCpu = 0.500000
ChirpVmCapsuleSysCpu = 0.250000
ChirpVmCapsuleResidentSetSize = 4096
ChirpVmCapsuleImageSize = 5000
ChirpVmCapsuleDiskUsage = 12
SpooledOutputFiles = "a,b"
ChirpStep = 7
"""
    ended += f'ChirpVmCapsuleIsolation = "{said}"\n'
    ad = routed(knobs).long_form() + ended.replace("RemoteUserCpu", "Other")
    source = split_translate(RECORDED.read_text())[1].long_form()
    told, job_exit = finalize(f"{source}------\n{ad}")
    assert job_exit is None
    assert told.expr("VmCapsuleIsolation") == isolation
    assert {k: v for k, v in told.attributes if k != "VmCapsuleIsolation"} == {
        "RemoteUserCpu": "0.500000",
        "RemoteSysCpu": "0.250000",
        "ResidentSetSize": "4096",
        "ImageSize": "5000",
        "DiskUsage": "12",
        "SpooledOutputFiles": '"a,b"',
        "JobCoreDumped": "true",
        # By the job itself.
        "ChirpStep": "7",
    }


def test_a_job_that_says_more_by_chirp_than_a_hook_may_is_not_lost(
    knobs: dict[str, str],
) -> None:
    said = "".join(f'Chirp{n} = "{"x" * 900}"\n' for n in range(1500))
    source = split_translate(RECORDED.read_text())[1].long_form()
    told, _ = finalize(f"{source}------\n{routed(knobs).long_form()}{said}RemoteX = 1\n")
    assert len(told.long_form()) < 1 << 20
