"""Where a routed job may run: where its capsule can, and where its source itself could."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import classad2
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.returned import small_template
from tests.unit.router.test_routed_ad import CAPSULE, RECORDED, recorded, routed_ad
from vmcapsule.classad.ads import Ad, parse_ad, split_translate
from vmcapsule.config import load_config
from vmcapsule.job.source import SourceJob, read_job
from vmcapsule.resources import resource
from vmcapsule.router.matching import beyond_never
from vmcapsule.router.translate import translate

#: Of a machine that capsules run on, and what those of each kind want beside it.
MACHINE = (
    'Arch = "X86_64"; OpSys = "LINUX"; Disk = 100000000; Memory = 512; TotalMemory = 8192;'
    'Cpus = 4; HasFileTransfer = true; HasVMCapsule = true; Machine = "ep1.example.org";'
    "HasVM = true; VM_AvailNum = 1; VM_Memory = 4096; KFlops = 100;"
    'FileSystemDomain = "ep1"; Rank = 1; VMCapsuleHypervisor = "qemu 10.0";'
)
VM_TYPES = {"kvm-gahp": "kvm", "vmware": "vmware"}
#: What condor_submit makes of 'requirements = (...)'.
SUBMITTED = (
    '({}) && (TARGET.Arch == "X86_64") && (TARGET.OpSys == "LINUX") && (TARGET.Disk >= '
    "RequestDisk) && (TARGET.Memory >= RequestMemory) && ((TARGET.FileSystemDomain == "
    "MY.FileSystemDomain) || (TARGET.HasFileTransfer))"
)
#: What the JobRouter's configuration adds to a source job's.
ONLY_ROUTED = "({}) && (MY.WantJobRouter isnt True)"


def template(name: str) -> Ad:
    return parse_ad(resource(f"templates/{name}.classad").read_text())


def evaluated(ad: Ad, name: str, machine: str = "") -> Any:
    """As the negotiator evaluates an expression of a job's against a machine."""
    job = classad2.parseOne(ad.long_form(), classad2.ParserType.Old)
    found = job.lookup(name)
    eps = classad2.ClassAd(f"[{MACHINE}{machine}]")
    return found.eval(job, eps) if hasattr(found, "eval") else found


def job_with(requirements: str, more: str = "") -> SourceJob:
    ad = Ad(recorded().attributes)
    return read_job(parse_ad(ad.with_({"Requirements": requirements}).long_form() + more))


def matches(job: SourceJob, kind: str, machine: str = "") -> bool:
    ad = routed_ad(job, template(kind), CAPSULE)
    return evaluated(ad, "Requirements", of_type(kind) + machine) is True


def of_type(kind: str) -> str:
    return f'VM_Type = "{VM_TYPES[kind]}";'


@pytest.mark.parametrize("kind", ["kvm-gahp", "vmware"])
@pytest.mark.parametrize(
    ("requirements", "runs"),
    [
        ('Machine == "ep1.example.org"', True),
        ('Machine == "ep2.example.org"', False),
        ("HasAVX2", False),
        ("TARGET.HasAVX2 =?= true", False),
        ("KFlops > 50 || false", True),
        ("false || KFlops > 500", False),
        ('regexp("^ep[0-9]", Machine)', True),
        ("true // of no use", True),
        ("false /* as well */", False),
        ("ProjectName == \"demo\" && MY.ProjectName =?= 'ProjectName'", True),
        ('Machine == "a" || Machine == "ep1.example.org" // )', True),
    ],
)
def test_what_the_source_requires_holds_for_the_machine(
    kind: str, requirements: str, runs: bool
) -> None:
    wanted = ONLY_ROUTED.format(SUBMITTED.format(requirements.split("//")[0].strip()))
    job = job_with(wanted, "WantJobRouter = true\n")
    assert matches(job, kind) is runs
    assert matches(job_with(requirements), kind) is runs


@pytest.mark.parametrize("kind", ["kvm-gahp", "vmware"])
@pytest.mark.parametrize(
    "requirements",
    [
        "false",
        "(FALSE)",
        "0",
        SUBMITTED.format("false"),
        SUBMITTED.format(" False "),
        ONLY_ROUTED.format("false"),
        ONLY_ROUTED.format(SUBMITTED.format("false")),
        ONLY_ROUTED.format(SUBMITTED.format("0")),
        '(false) && (KFlops > 500 || true) && Machine =?= "ep1.example.org"',
        '(false) && strcat("a || b", "?") != ""',
    ],
)
def test_a_job_that_is_never_to_run_as_it_is_runs_in_a_capsule(
    kind: str, requirements: str
) -> None:
    """The original plugin's guide has users say so by what can never be met."""
    assert matches(job_with(requirements), kind)
    assert not matches(job_with(requirements), kind, "Disk = 5")


def test_what_htcondor_sent_of_such_a_job_runs() -> None:
    job = read_job(split_translate(RECORDED.read_text())[1])
    assert job.policy.requirements and job.policy.requirements.startswith("(false) && ")
    assert matches(job, "vmware") and matches(job, "kvm-gahp")


@pytest.mark.parametrize(
    "requirements",
    [
        "false || KFlops > 500",
        "falsehood",
        "(false) || (KFlops > 500)",
        # Without its first part it would be true.
        "(false) && true || KFlops > 500",
        "((false) && (true) || KFlops > 500) && (true)",
        "(false) && true ? true : KFlops > 500",
    ],
)
def test_what_only_looks_like_that_is_required(requirements: str) -> None:
    assert not matches(job_with(requirements), "kvm-gahp")


@pytest.mark.parametrize("kind", ["kvm-gahp", "vmware"])
def test_the_ad_templates_requirements_hold_as_well(kind: str) -> None:
    job = job_with("true")
    assert matches(job, kind)
    for lacking in ("HasVMCapsule = false; VM_AvailNum = 0", 'Arch = "AARCH64"', "Disk = 5"):
        assert not matches(job, kind, lacking)


@pytest.mark.parametrize("kind", ["kvm-gahp", "vmware"])
@pytest.mark.parametrize("text", ["undefined", "", "true"])
def test_a_source_that_requires_nothing_runs_where_a_capsule_does(kind: str, text: str) -> None:
    attributes = Ad(recorded().attributes).without(["Requirements"]).long_form()
    job = read_job(parse_ad(attributes + (f"Requirements = {text}\n" if text else "")))
    assert matches(job, kind) is (text != "undefined"), "natively it matches nothing"


@pytest.mark.parametrize("kind", ["kvm-gahp", "vmware"])
def test_what_a_source_says_of_itself_is_still_its_own(kind: str) -> None:
    """The routed job has another number, other requests, and a name for itself."""
    says = (
        'ClusterId == 11 && MY.ProcId == 0 && my . QDate == 5 && DAGNodeName == "n" && '
        'Cmd == "/home/alice/analyse.sh" && JobUniverse == 5 && FileSystemDomain == "ap"'
    )
    more = 'QDate = 5\nDAGNodeName = "n"\nFileSystemDomain = "ap"\n'
    assert matches(job_with(says, more), kind)
    # VM slots of old share a machine's memory; a slot's own is not what the VM gets.
    assert matches(
        job_with("TARGET.Memory >= 4 * RequestMemory", "RequestMemory = 128\n"), kind
    )
    assert not matches(job_with("RequestMemory < 128", "RequestMemory = 128\n"), kind)


def test_what_it_refers_to_in_turn_comes_along() -> None:
    more = "RequestMemory = ifThenElse(ImageSize > 1, ClusterId, 7)\nImageSize = 2\n"
    job = job_with("RequestMemory == 11", more)
    assert matches(job, "kvm-gahp")
    assert matches(job_with("Mine == 11", "Mine = ClusterId\n"), "kvm-gahp")


def test_what_the_routed_job_counts_itself_is_not_frozen() -> None:
    job = job_with("NumJobStarts == 0 || TARGET.Machine =!= MachineAttrMachine0")
    ad = routed_ad(job, template("kvm-gahp"), CAPSULE)
    again = ad.with_({"NumJobStarts": 1, "MachineAttrMachine0": '"ep1.example.org"'})
    machine = of_type("kvm-gahp")
    assert evaluated(ad, "Requirements", machine) is True
    assert evaluated(again, "Requirements", machine) is False


def test_it_avoids_as_many_machines_as_its_source_would() -> None:
    ad = routed_ad(recorded(), template("kvm-gahp"), CAPSULE)
    assert (ad.string("JobMachineAttrs"), ad.integer("JobMachineAttrsHistoryLength")) == (
        "Machine",
        2,
    )
    more = 'JobMachineAttrs = "Site,machine"\nJobMachineAttrsHistoryLength = 5\n'
    ad = routed_ad(job_with("true", more), template("kvm-gahp"), CAPSULE)
    assert (ad.string("JobMachineAttrs"), ad.integer("JobMachineAttrsHistoryLength")) == (
        "Machine,Site",
        5,
    )


@pytest.mark.parametrize("kind", ["kvm-gahp", "vmware"])
def test_a_rank_prefers_what_it_preferred(kind: str) -> None:
    job = job_with("true", "Rank = TARGET.KFlops + ClusterId + MY.JobPrio\nJobPrio = 7\n")
    assert evaluated(routed_ad(job, template(kind), CAPSULE), "Rank") == 118


ATTRIBUTES = ("ClusterId", "RequestMemory", "ImageSize", "JobPrio", "Mine", "Cmd", "Rank")
terms = st.one_of(
    st.sampled_from(
        [*ATTRIBUTES, "Memory", "KFlops", "TARGET.Memory", "target.Rank", "Nowhere"]
    ),
    st.sampled_from(ATTRIBUTES).map(lambda name: f"MY.{name}"),
    st.integers(0, 600).map(str),
    st.sampled_from(['"ClusterId"', '"a MY.Cmd"', "undefined", "time()"]),
)
expressions = st.recursive(
    terms,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["<", "==", "=?=", "&&", "||", "+"]), inner).map(
            lambda parts: "({} {} {})".format(*parts)
        ),
        inner.map("!({})".format),
        inner.map("ifThenElse(RequestMemory > 3, {0}, {0} < 5)".format),
    ),
    max_leaves=6,
)
values = st.fixed_dictionaries(
    {name: st.integers(0, 600).map(str) for name in ATTRIBUTES if name != "Cmd"}
)


@given(requirements=expressions, more=values)
def test_it_matches_where_capsule_and_source_do(
    requirements: str, more: dict[str, str]
) -> None:
    # By which a user says that the job is only to be routed: see below.
    assume(beyond_never(requirements) == requirements)
    source = parse_ad('Cmd = "/bin/true"\nIwd = "/"\n').with_(
        {**more, "Requirements": requirements}
    )
    natively = evaluated(source, "Requirements")
    # A number is as good as true to a negotiator, and to '&&' as well.
    is_true = type(natively) in (bool, int, float) and bool(natively)
    assert matches(read_job(source), "kvm-gahp") is is_true


@pytest.mark.parametrize(
    ("kind", "machine", "runs"),
    [
        ("kvm-gahp", "VMCapsuleNetwork = true", True),
        ("kvm-gahp", "VMCapsuleNetwork = false", False),
        ("vmware", 'VMCapsuleHypervisor = "qemu 10.0"; VMCapsuleNetwork = true', True),
        ("vmware", 'VMCapsuleHypervisor = "qemu 10.0"; VMCapsuleNetwork = false', False),
        ("vmware", 'VMCapsuleHypervisor = "vmware ws"; VMCapsuleNetwork = false', True),
        ("vmware", 'VMCapsuleHypervisor = "vmware ws"', True),
        ("vmware", "VMCapsuleNetwork = undefined", False),
    ],
)
def test_a_network_is_asked_for_of_what_runs_the_machine(
    tmp_path: Path, kind: str, machine: str, runs: bool
) -> None:
    """Where VMware does pasta, which VMCapsuleNetwork tells of, is nowhere near."""
    knobs = {
        **small_template(tmp_path),
        "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": kind,
        "VM_CAPSULE_NETWORK": "true",
    }
    text = (
        f'ClusterId = 7\nProcId = 0\nCmd = "/bin/true"\nIwd = "{tmp_path}"\nJobUniverse = 5\n'
    )
    ad = translate(text, load_config(knobs)).ad
    assert (evaluated(ad, "Requirements", of_type(kind) + machine) is True) is runs
