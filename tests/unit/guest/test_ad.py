"""The ad for the personal HTCondor in the guest: the source's, without what acts there."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmcapsule.classad.ads import Ad, parse_ad, split_translate
from vmcapsule.guest.ad import guest_ad, sandbox_ad
from vmcapsule.job.source import SourceJob, read_job

RECORDED = (
    Path(__file__).resolve().parents[2] / "fixtures" / "jobrouter-23.9.6" / "translate.stdin"
)


def recorded() -> SourceJob:
    return read_job(split_translate(RECORDED.read_text())[1])


def made(job: SourceJob) -> Ad:
    text = guest_ad(
        job, executable="analyse.sh", stdin="numbers.txt", stdout="_condor_stdout", stderr=None
    )
    return parse_ad(text)


def test_program_and_streams_are_the_sandboxs() -> None:
    ad = made(recorded())
    assert ad.string("Cmd") == "analyse.sh"
    assert (ad.string("In"), ad.string("Out")) == ("numbers.txt", "_condor_stdout")
    assert ad.string("Err") == "/dev/null"
    assert "Iwd" not in ad


def test_requests_are_integers_that_fit_and_nothing_is_required() -> None:
    ad = made(recorded())
    requests = [ad.expr(f"Request{what}") for what in ("Cpus", "Memory", "Disk")]
    assert requests == ["1", "64", "1"]
    assert (ad.expr("Requirements"), ad.integer("JobUniverse")) == ("true", 5)


def test_the_rest_is_verbatim() -> None:
    source, ad = Ad(recorded().attributes), made(recorded())
    for name in ("Arguments", "Environment", "ClusterId", "ProcId", "ProjectName"):
        assert ad.expr(name) == source.expr(name)


@pytest.mark.parametrize(
    "line",
    [
        'UserLog = "/home/alice/run.log"',
        'DAGManNodesLog = "/x"',
        'HookKeyword = "EVIL"',
        "PeriodicRemove = true",
        "OnExitHold = ExitCode =!= 0",
        "LeaveJobInQueue = true",
        "JobNotification = 3",
        "Rank = KFlops",
        'TransferOutputRemaps = "a=b"',
        "TransferExecutable = false",
        "AllowedJobDuration = 5",
        "WantJobRouter = true",
        'Owner = "root"',
        "StreamOut = false",
        "TimerRemove = 5",
    ],
)
def test_what_a_starter_would_act_upon_is_dropped(line: str) -> None:
    job = read_job(parse_ad(f'Cmd = "/x"\nIwd = "/"\n{line}\n'))
    assert line.split(" = ")[0] not in made(job)


def test_the_job_finds_its_own_ad_as_a_starter_leaves_it() -> None:
    job = recorded()
    source = Ad(job.attributes)
    ad = parse_ad(sandbox_ad(job, stdout="_condor_stdout", stderr="_condor_stderr"))
    changed = {name for name in ad.names if ad.expr(name) != source.expr(name)}
    assert {"GlobalJobId", "UserLog", "Requirements", "TransferInput", "Cmd"} <= set(ad.names)
    assert (ad.string("Out"), ad.string("OriginalOut")) == ("_condor_stdout", "run.out")
    assert (ad.string("Err"), ad.string("OriginalErr")) == ("_condor_stderr", "run.err")
    assert (ad.string("OrigIwd"), ad.integer("JobStatus")) == ("/home/alice", 2)
    assert [ad.integer(f"Request{what}") for what in ("Cpus", "Memory", "Disk")] == [
        1,
        64,
        51200,
    ]
    assert "Arguments" not in changed


def test_the_job_finds_no_claims_and_no_renamed_streams_it_has_not() -> None:
    job = read_job(parse_ad('Cmd = "/x"\nIwd = "/"\nPublicClaimId = "c"\nOut = "/dev/null"\n'))
    ad = parse_ad(sandbox_ad(job, stdout=None, stderr=None))
    assert ad.string("Out") == "/dev/null"
    assert not {"PublicClaimId", "OriginalOut", "Err"} & set(ad.names)


def test_what_the_schedd_would_expand_is_expanded_in_both_ads() -> None:
    source = Ad(recorded().attributes).with_(
        {
            "Environment": '"WHERE=$$(CondorScratchDir)"',
            "Arguments": '"$$(DOLLARDOLLAR)5"',
        }
    )
    job = read_job(source)
    for ad in (made(job), parse_ad(sandbox_ad(job, stdout=None, stderr=None))):
        assert ad.string("Environment") == "WHERE=#CoNdOrScRaTcHdIr#"
        assert ad.string("Arguments") == "$$5"
