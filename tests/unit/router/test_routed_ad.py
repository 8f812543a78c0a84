"""The routed job's ad: the template's, but for what job and capsule decide."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Optional

import classad2
import pytest

from vmcapsule.classad.ads import Ad, parse_ad, split_translate
from vmcapsule.errors import AdError, ConfigError
from vmcapsule.job.source import SourceJob, read_job
from vmcapsule.resources import resource
from vmcapsule.router import routed_ad as common
from vmcapsule.router.route import CapsuleFacts
from vmcapsule.router.routes import route_of
from vmcapsule.slot.packed.share import QEMU_MEMORY_MIB

RECORDED = (
    Path(__file__).resolve().parents[2] / "fixtures" / "jobrouter-23.9.6" / "translate.stdin"
)
DUMPS = RECORDED.parents[1] / "vmware-dumps"
CAPSULE = CapsuleFacts(
    folder=Path("/scratch/jr/capsule-11.0"),
    vmx="condor_vm.vmx",
    vmdk_files=("data.vmdk", "data-flat.vmdk", "system.vmdk"),
    other_files=("nvram",),
    memory_mib=320,
    cpus=2,
    size_kib=500_001,
)


def recorded(extra: str = "") -> SourceJob:
    """A real job's, but that it was not to match any machine."""
    ad = split_translate(RECORDED.read_text())[1].with_({"Requirements": True})
    return read_job(parse_ad(ad.long_form() + extra))


def routed_ad(job: SourceJob, template: Ad, capsule: CapsuleFacts) -> Ad:
    return common.routed_ad(job, route_of(template), template, capsule)


def shipped() -> Ad:
    return parse_ad(resource("templates/vmware.classad").read_text())


def test_every_attribute_of_the_classic_vmware_job_is_there() -> None:
    ad = routed_ad(recorded(), shipped(), CAPSULE)
    expected = {
        "JobUniverse": 13,
        "JobVMType": "vmware",
        "JobVMMemory": 320 - QEMU_MEMORY_MIB,
        "JobVM_VCPUS": 2,
        "JobVMNetworking": False,
        "JobVMCheckpoint": False,
        "VMPARAM_VMware_Transfer": True,
        "VMPARAM_VMware_SnapshotDisk": False,
        "VMPARAM_VMware_Dir": "/scratch/jr/capsule-11.0",
        "VMPARAM_VMware_VMX_File": "condor_vm.vmx",
        "VMPARAM_VMware_VMDK_Files": "data.vmdk,data-flat.vmdk,system.vmdk",
        "TransferInput": ",".join(
            f"/scratch/jr/capsule-11.0/{name}"
            for name in (
                "condor_vm.vmx",
                "data.vmdk",
                "data-flat.vmdk",
                "system.vmdk",
                "nvram",
            )
        ),
        "ShouldTransferFiles": "YES",
        "WhenToTransferOutput": "ON_EXIT",
        "Iwd": "/scratch/jr/capsule-11.0",
        "Out": "/dev/null",
        "Err": "/dev/null",
        "JobNotification": 0,
        "JobLeaseDuration": 2400,
        # What boots it takes something, too.
        "RequestMemory": 320,
        "TransferOutput": "returned",
        "RequestCpus": 2,
        "Owner": "alice",
        "ProjectName": "demo",
        "VmCapsuleDir": "/scratch/jr/capsule-11.0",
        "VmCapsuleFormat": 1,
        "VmCapsuleSourceJobId": "11.0",
    }
    assert {name: ad.value(name) for name in expected} == expected
    for term in ("VM_Type", "VM_AvailNum", "VM_Memory", "Arch"):
        assert term in (ad.expr("Requirements") or "")


@pytest.mark.parametrize(
    ("said", "wants"), [("true", True), ("TRUE", True), ("false", False), (None, False)]
)
def test_a_snapshot_is_taken_where_the_ad_template_wants_one(
    said: Optional[str], wants: bool
) -> None:
    template = shipped().without(["VMPARAM_VMware_SnapshotDisk"])
    if said is not None:
        template = template.with_({"VMPARAM_VMware_SnapshotDisk": said})
    ad = routed_ad(recorded(), template, CAPSULE)
    assert ad.value("VMPARAM_VMware_SnapshotDisk") is wants


def test_the_library_reads_the_ad_and_a_vmware_host_matches() -> None:
    text = routed_ad(recorded(), shipped(), CAPSULE).long_form()
    ad = classad2.parseOne(text, classad2.ParserType.Old)
    assert len(ad) == len(text.splitlines())
    host = classad2.ClassAd(
        '[ Arch = "X86_64"; HasVM = true; VM_Type = "vmware"; VM_AvailNum = 1;'
        " Disk = 10000000; TotalMemory = 2000; VM_Memory = 1000; HasFileTransfer = true ]"
    )
    assert ad.lookup("Requirements").eval(ad, host) is True
    host["VM_Type"] = "kvm"
    assert ad.lookup("Requirements").eval(ad, host) is False


@pytest.mark.parametrize(
    "line",
    [
        "WantJobRouter = true",
        'HookKeyword = "X"',
        'UserLog = "/home/alice/l"',
        "DAGManJobId = 3",
        'DAGNodeName = "a"',
        "JobMaterializeLimit = 3",
        "ClusterId = 11",
        "ProcId = 0",
        'GlobalJobId = "x"',
        'User = "alice@pilot"',
        'TransferOutputRemaps = "a=b"',
        'SUBMIT_Iwd = "/x"',
        "StreamOut = false",
        "QDate = 1",
        "AllowedJobDuration = 3",
        "RequeueReason = 1",
        "ExitCode = 3",
    ],
)
def test_what_belongs_to_the_source_stays_with_it(line: str) -> None:
    ad = routed_ad(recorded(line + "\n"), shipped(), CAPSULE)
    assert line.split(" = ")[0] not in ad


KILLED = "ExitBySignal = true\nExitSignal = 9\nNumJobCompletions = {0}\n"


@pytest.mark.parametrize(
    ("facts", "removed", "held"),
    [
        ("ExitBySignal = false\nExitCode = 0\nNumJobCompletions = 1\n", True, False),
        ("ExitBySignal = false\nExitCode = 7\nNumJobCompletions = 1\n", True, True),
        # Who killed it, if not the guest's kernel, killed what ran the guest.
        (KILLED.format(1), False, False),
        (KILLED.format(3), False, True),
        (KILLED.format(1) + "ChirpVmCapsuleKilledRun = 1\n", True, False),
        (KILLED.format(2) + "ChirpVmCapsuleKilledRun = 1\n", False, False),
    ],
)
def test_htcondor_judges_the_jobs_end_as_its_owner_wants(
    facts: str, removed: bool, held: bool
) -> None:
    policy = "OnExitRemove = true\nOnExitHold = ExitCode =?= 7\n"
    ad = routed_ad(recorded(policy), shipped(), CAPSULE)
    names = [line.split(" = ")[0] for line in facts.splitlines()]
    ended = parse_ad(ad.without(names).long_form() + facts)
    assert (ended.boolean("OnExitRemove"), ended.boolean("OnExitHold")) == (removed, held)


def test_matchmaking_accounting_and_custom_attributes_come_along() -> None:
    extra = (
        'AcctGroup = "physics"\nConcurrencyLimits = "a:2"\nRank = KFlops\n'
        'JobPrio = 7\nMyTag = strcat("a",  "b")\nWantGlidein = true\nJobLabel = "b"\n'
    )
    ad = routed_ad(recorded(extra), shipped(), CAPSULE)
    for line in extra.splitlines():
        name, text = line.split(" = ", 1)
        assert ad.expr(name) == text


def test_a_template_of_ones_own_stays_verbatim() -> None:
    own = shipped().with_(
        {"Requirements": '(TARGET.Site  == "x")', "Rank": "Memory", "Extra": "1 +  1"}
    )
    ad = routed_ad(recorded(), own, CAPSULE)
    assert ad.expr("Requirements") == '((TARGET.Site  == "x")) && (true)'
    assert (ad.expr("Rank"), ad.expr("Extra")) == ("Memory", "1 +  1")


def test_the_templates_attributes_come_before_the_users_custom_ones() -> None:
    own = shipped().with_({"ProjectName": '"site"'})
    assert routed_ad(recorded(), own, CAPSULE).string("ProjectName") == "site"


def test_the_identity_of_the_templates_own_dump_is_dropped() -> None:
    dump = shipped().with_({"ClusterId": 1, "ProcId": 0, "Owner": "undefined", "QDate": 5})
    ad = routed_ad(read_job(parse_ad('Cmd = "/x"\nIwd = "/"\n')), dump, CAPSULE)
    assert [name for name in ("ClusterId", "ProcId", "Owner", "QDate") if name in ad] == []


@pytest.mark.parametrize(("age_s", "machine"), [(5, "ep3"), (500, "ep1")])
def test_a_machine_that_did_not_start_it_is_not_tried_at_once(age_s: int, machine: str) -> None:
    """Nor is one whose HasVM has become false avoided for ever: it may be well again."""
    ad = routed_ad(recorded(), shipped(), CAPSULE).with_(
        {
            "LastVacateTime": int(time.time()) - age_s,
            "MachineAttrMachine0": '"ep1"',
            "MachineAttrMachine1": '"ep2"',
        }
    )
    job = classad2.parseOne(ad.long_form(), classad2.ParserType.Old)
    matched = [
        name
        for name in ("ep1", "ep2", "ep3")
        if job.lookup("Requirements").eval(
            job,
            classad2.ClassAd(
                f'[ Machine = "{name}"; Arch = "X86_64"; HasVM = false; VM_Type = "vmware";'
                " VM_AvailNum = 1; Disk = 10000000; TotalMemory = 2000; VM_Memory = 1000;"
                " HasFileTransfer = true ]"
            ),
        )
    ]
    assert matched[0] == machine and len(matched) == (1 if machine == "ep3" else 3)


@pytest.mark.parametrize("version", ["7.2.0", "8.8.17", "9.11.2"])
def test_what_an_old_condor_submit_dumped_does_for_an_ad_template(version: str) -> None:
    dump = parse_ad((DUMPS / f"{version}.classad").read_text())
    ad = routed_ad(recorded(), dump, CAPSULE)
    job = classad2.parseOne(ad.long_form(), classad2.ParserType.Old)
    host = classad2.ClassAd(
        '[ Arch = "X86_64"; HasVM = true; VM_Type = "vmware"; VM_AvailNum = 1;'
        " Disk = 10000000; TotalMemory = 2000; VM_Memory = 1000; HasFileTransfer = true ]"
    )
    assert job.lookup("Requirements").eval(job, host) is True
    assert ad.string("VMPARAM_VMware_Dir") == str(CAPSULE.folder), "not that of the dump"
    assert ad.string("TransferOutput") == "returned"
    assert [name for name in ("ClusterId", "JobStatus", "CondorVersion") if name in ad] == []
    assert ad.integer("BufferBlockSize") == 32768, "the rest stays"


def test_a_template_without_requirements_gets_what_a_vm_needs() -> None:
    ad = routed_ad(recorded(), shipped().without(["Requirements"]), CAPSULE)
    assert ad.expr("Requirements") == f"({shipped().expr('Requirements')}) && (true)"


def test_the_network_is_as_configured() -> None:
    ad = routed_ad(recorded(), shipped(), CAPSULE._replace(network=True))
    assert ad.boolean("JobVMNetworking") is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"JobUniverse": 5}, "JobUniverse = 5, JobVMType = vmware"),
        ({"JobVMType": '"xen"'}, "JobUniverse = 13, JobVMType = xen"),
        ({"JobVMType": "3"}, "3 is not a string"),
        ({"JobUniverse": "undefined"}, "has no JobUniverse"),
    ],
)
def test_another_kind_of_template_names_the_knob(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE: .*{message}"):
        routed_ad(recorded(), shipped().with_(changes), CAPSULE)


def test_the_templates_spelling_of_the_type_does_not_matter() -> None:
    own = shipped().with_({"JobVMType": '"VMware"'})
    assert routed_ad(recorded(), own, CAPSULE).string("JobVMType") == "vmware"


def test_names_with_commas_are_refused() -> None:
    with pytest.raises(AdError, match="comma"):
        routed_ad(recorded(), shipped(), CAPSULE._replace(folder=Path("/a,b")))
