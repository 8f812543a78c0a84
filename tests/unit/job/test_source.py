"""Source ads as jobs: the recorded ones exactly, the small languages, every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.classad.ads import (
    Ad,
    parse_ad,
    quote,
    split_finalize,
    split_many,
    split_translate,
)
from vmcapsule.errors import AdError, JobRefused
from vmcapsule.job import text as job_text
from vmcapsule.job.policy import Logs, Policy
from vmcapsule.job.refusals import TABLE
from vmcapsule.job.source import SourceJob, read_job

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
JOBROUTER = FIXTURES / "jobrouter-23.9.6"
DUMPS = FIXTURES / "condor_submit-23.9.6"

MINIMAL = 'Cmd = "/bin/true"\nIwd = "/home/alice"\n'


def job(text: str = "") -> SourceJob:
    return read_job(parse_ad(MINIMAL + text))


def recorded(name: str) -> Ad:
    text = (JOBROUTER / name).read_text()
    return split_finalize(text)[0] if name == "finalize.stdin" else split_translate(text)[1]


POLICY = Policy(
    requirements='(false) && (TARGET.Arch == "X86_64") && (TARGET.OpSys == "LINUX") && '
    "(TARGET.Disk >= RequestDisk) && (TARGET.Memory >= RequestMemory) && "
    "(TARGET.HasFileTransfer)",
    rank=None,
    on_exit_hold="false",
    on_exit_hold_reason=None,
    on_exit_hold_subcode=None,
    on_exit_remove="NumJobCompletions > JobMaxRetries || ExitCode =?= 0",
    max_retries="2",
    success=(),
    machine_attrs=(),
    machine_attrs_history=0,
)


@pytest.mark.parametrize(("name", "starts"), [("translate.stdin", 0), ("finalize.stdin", 3)])
def test_the_recorded_job_is_read_exactly(name: str, starts: int) -> None:
    ad = recorded(name)
    assert read_job(ad) == SourceJob(
        job_id="11.0",
        global_job_id=ad.string("GlobalJobId"),
        owner="alice",
        iwd=Path("/home/alice"),
        executable="/home/alice/analyse.sh",
        transfer_executable=True,
        arguments=("--label", "two words", "--quote", "it's", "plain", "0"),
        environment=(("EMPTY", ""), ("RUN", "42"), ("TITLE", "a b")),
        stdin="numbers.txt",
        stdout="run.out",
        stderr="run.err",
        transfer_input=("config.json", "tables/", "data/readings.csv"),
        input_limit_mib=None,
        preserve_relative_paths=False,
        transfer_output=("summary.txt", "plots"),
        output_remaps=(("summary.txt", "results/summary-11.txt"),),
        success_status=None,
        failure_outputs=(),
        request_cpus=1,
        request_memory_mib=64,
        request_disk_kib=51200,
        require_kvm=False,
        job_starts=starts,
        policy=POLICY,
        logs=Logs(user="/home/alice/run.log"),
        attributes=ad.attributes,
    )


def test_a_minimal_ad_gets_defaults() -> None:
    read = job()
    assert (read.job_id, read.owner, read.transfer_executable) == ("0.0", None, True)
    assert (read.stdin, read.stdout, read.stderr) == (None, None, None)
    assert (read.arguments, read.environment, read.transfer_input) == ((), (), ())
    assert (read.transfer_output, read.output_remaps) == (None, ())
    assert (read.request_cpus, read.request_memory_mib) == (1, 128)


#: What an interpreter in a real pool (HTCondor 23.9.6) found in its argv and environment.
SEEN = {
    "quoting": (
        ("back\\slash", "C:\\x\\", "\\n", '"dq"', "two words", "it's", "", "$UNEXPANDED", "é"),
        {
            "A": "b\\c",
            "D": "x'y",
            "E": '"q"',
            "F": "a b",
            "G": "",
            "H": "#CoNdOrScRaTcHdIr#/x",
            "I": "ü",
        },
    ),
    "v1": (("one", '"two', "'three"), {"A": "1", "B": "x y", "C": "'q'"}),
    # HTCondor's own surprise: 'arguments = three' of the later jobs sets Args alone.
    "mixed": (("one", "two words", "0"), {"A": "1", "B": "x y"}),
}


@pytest.mark.parametrize("name", sorted(SEEN))
def test_arguments_and_environment_are_those_of_a_real_pool(name: str) -> None:
    arguments, environment = SEEN[name]
    for ad in split_many((DUMPS / f"{name}.dump").read_text()):
        read = read_job(ad)
        assert read.arguments == arguments
        assert dict(read.environment) == environment


def test_remaps_keep_escaped_characters() -> None:
    ad = split_many((DUMPS / "quoting.dump").read_text())[0]
    assert read_job(ad).output_remaps == (("a=b", "c;d"), ("e", "f"))


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("a=b;c=d", (("a", "b"), ("c", "d"))),
        (" a = b ; c = d ;", (("a", "b"), ("c", "d"))),
        ("a = b c;d\t=\te", (("a", "b c"), ("d", "e"))),
        ("nothing; a=b", (("a", "b"),)),
        ("a=b=c", (("a", "b=c"),)),
        ("a\\b=c\\d", (("a\\b", "c\\d"),)),
        ("nothing", ()),
        ("", ()),
    ],
)
def test_remaps(text: str, pairs: tuple[tuple[str, str], ...]) -> None:
    assert job_text.remaps(text) == pairs


words = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0="), min_size=1)
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(words)
def test_v2_words_survive(items: list[str]) -> None:
    assert job_text.split_v2(job_text.join_v2(items)) == tuple(items)


@given(st.dictionaries(names, values))
def test_v2_environments_survive(variables: dict[str, str]) -> None:
    text = job_text.join_v2(f"{name}={value}" for name, value in variables.items())
    assert job_text.environment_v2(text) == variables


@given(st.text(st.sampled_from("ab' \t"), max_size=20))
def test_any_v2_text_is_split_or_refused(text: str) -> None:
    try:
        items = job_text.split_v2(text)
    except ValueError:
        # Quotes open, close or double: only an odd number leaves one open.
        assert text.count("'") % 2 == 1
    else:
        assert job_text.split_v2(job_text.join_v2(items)) == items


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a b", ("a", "b")),
        ("two' 'words", ("two words",)),
        ("it''''s", ("it's",)),
        ("'' a ''", ("", "a", "")),
        ("''''", ("'",)),
        ("a''b", ("ab",)),
        ("\t a\nb ", ("a", "b")),
        ('"x"', ('"x"',)),
        ("", ()),
    ],
)
def test_v2(text: str, items: tuple[str, ...]) -> None:
    assert job_text.split_v2(text) == items


@pytest.mark.parametrize(
    ("text", "delimiter", "variables"),
    [
        ("A=1;B=x y", "", {"A": "1", "B": "x y"}),
        ("A=1|B=;", "|", {"A": "1", "B": ";"}),
        ("|A=1;2|B=3", "", {"A": "1;2", "B": "3"}),
        (";A=1; B=2", ";", {"A": "1", "B": "2"}),
        ("A=1\nB=2", ";", {"A": "1", "B": "2"}),
        ("A=1;;A=2;", ";", {"A": "2"}),
        ("A=b=c", ";", {"A": "b=c"}),
        ("", ";", {}),
    ],
)
def test_v1_environment(text: str, delimiter: str, variables: dict[str, str]) -> None:
    assert job_text.environment_v1(text, delimiter) == variables


def test_v2_wins_over_v1_also_when_it_is_empty() -> None:
    read = job('Args = "old"\nArguments = ""\nEnv = "A=1"\nEnvironment = "B=2"\n')
    assert (read.arguments, read.environment) == ((), (("B", "2"),))


def test_v1_is_used_where_v2_is_undefined() -> None:
    read = job('Args = "a \'b"\nArguments = undefined\nEnv = "A=1|B=2"\nEnvDelim = "|"\n')
    assert read.arguments == ("a", "'b")
    assert read.environment == (("A", "1"), ("B", "2"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('Arguments = "a \'b"', "Arguments = .*unbalanced quote: 'b"),
        ('Environment = "A"', "Environment = .*no '=' after the environment variable 'A'"),
        ('Environment = "=x"', "Environment = .*no name before '='"),
        ("Arguments = 3", "Arguments = 3: 3 is not a string"),
        ('RequestCpus = "many"', "RequestCpus = .*is not a number"),
        ("RequestCpus = -1", "RequestCpus = -1: -1 is not between 0 and"),
        ("RequestMemory = 1 << 60", "RequestMemory = 1 << 60: .* is not between"),
        ('RequestDisk = real("NaN")', "RequestDisk = .*nan is not between"),
        ("RequestMemory = 1/0", "RequestMemory = 1/0: evaluates to ERROR"),
    ],
)
def test_what_htcondor_would_not_take_names_the_attribute(line: str, message: str) -> None:
    with pytest.raises(AdError, match=f"^{message}"):
        job(line + "\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('Iwd = "/"\n', "the job ad has no Cmd"),
        ('Cmd = "x"\n', "the job ad has no Iwd"),
        ('Cmd = "x"\nIwd = "here"\n', "Iwd = here: is not an absolute path"),
    ],
)
def test_what_every_job_has_is_asked_for(text: str, message: str) -> None:
    with pytest.raises(AdError, match=f"^{message}"):
        read_job(parse_ad(text))


@pytest.mark.parametrize(
    ("lines", "memory_mib"),
    [
        ("RequestMemory = max({64, MemoryUsage})", 64),
        ("RequestMemory = max({64, MemoryUsage})\nMemoryUsage = 100", 100),
        ("RequestMemory = MemoryUsage", 128),
        ("RequestMemory = 0", 128),
        ("RequestMemory = 1.5", 2),
        ("RequestMemory = 2048", 2048),
        # condor_submit's own, where the submit file asks for nothing.
        (
            "RequestMemory = ifthenelse(MemoryUsage =!= undefined,MemoryUsage,"
            "(ImageSize + 1023) / 1024)\nImageSize = 1",
            128,
        ),
        ("RequestMemory = (ImageSize + 1023) / 1024\nImageSize = 4000000", 3907),
    ],
)
def test_memory_requests(lines: str, memory_mib: int) -> None:
    assert job(lines + "\n").request_memory_mib == memory_mib


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("", None),
        ("JobSuccessExitCode = 0", 0),
        ("JobSuccessExitCode = 3", 3 << 8),
        ("JobSuccessExitSignal = 9", 0),
        ("JobSuccessExitSignal = 9\nJobSuccessExitBySignal = true", 9),
        ("JobSuccessExitCode = 3\nJobSuccessExitBySignal = true", 0),
        ("JobSuccessExitBySignal = true", None),
        ('WhenToTransferOutput = "ON_SUCCESS"', None),
    ],
)
def test_the_status_of_success(lines: str, status: Optional[int]) -> None:
    assert job(lines + "\n").success_status == status


@pytest.mark.parametrize(
    ("line", "expected"),
    [("", None), ('TransferOutput = ""\n', ()), ('TransferOutput = " a , b/,"\n', ("a", "b/"))],
)
def test_no_outputs_and_default_outputs_are_told_apart(
    line: str, expected: Optional[tuple[str, ...]]
) -> None:
    assert job(line).transfer_output == expected


def test_null_files_are_no_streams() -> None:
    read = job('In = "/dev/null"\nTransferIn = false\nOut = ""\nErr = "e"\n')
    assert (read.stdin, read.stdout, read.stderr) == (None, None, "e")


#: One line or more that each row refuses, and something like it that is no such wish.
REFUSED = [
    ("JobUniverse = 7", "JobUniverse = 5"),
    ("WantDocker = true", "WantDocker = false"),
    ('ContainerImage = "x.sif"', "ContainerImage = undefined"),
    ("StreamOut = true", "StreamOut = false"),
    ('In = "x"\nTransferIn = false', 'In = "/dev/null"\nTransferIn = false'),
    ('Out = "x"\nTransferOut = false', 'Out = "x"\nTransferOut = true'),
    ('Err = "x"\nTransferErr = false', "TransferErr = false"),
    ('ShouldTransferFiles = "no"', 'ShouldTransferFiles = "IF_NEEDED"'),
    ('WhenToTransferOutput = "ON_EXIT_OR_EVICT"', 'WhenToTransferOutput = "on_exit"'),
    ('WhenToTransferOutput = "ALWAYS"', 'WhenToTransferOutput = "ON_SUCCESS"'),
    ('TransferInput = "a, https://x/y"', 'TransferInput = "a://b/../c:d"'.replace("://", ":/")),
    ('PublicInputFiles = "a"', 'PublicInputFiles = ""'),
    ('TransferOutputRemaps = "a = osdf://x/y"', 'TransferOutputRemaps = "a = b"'),
    ('TransferOutput = "a, /etc/passwd"', 'TransferOutput = "a/b, plots/"'),
    ('TransferOutput = "a/../../b"', 'TransferOutput = "a..b"'),
    ('OutputDestination = "s3://x"', 'OutputDestination = ""'),
    ('TransferPlugins = "x=y"', 'TransferPlugins = ""'),
    ('FailureFiles = "a, /etc/passwd"', 'FailureFiles = "core"'),
    ('OutputDirectory = "x"', 'OutputDirectory = ""'),
    ('TransferInputRemaps = "a=b"', 'TransferInputRemaps = ""'),
    ('CommonInputFiles = "x"', 'CommonInputFiles = ""'),
    ("MaxTransferOutputMB = 0", "MaxTransferOutputMB = -1"),
    ('MaxTransferOutputMB = "x"', "MaxTransferOutputMB = undefined"),
    ('LimitDirectoryAccess = "/x"', 'LimitDirectoryAccess = ""'),
    ("SendCredential = true", "SendCredential = false"),
    ("SuspendJobAtExec = true", "SuspendJobAtExec = false"),
    ("ManifestDesired = true", "ManifestDesired = false"),
    ('ManifestDir = "x"', 'ManifestDir = ""'),
    ('JobStarterLog = "x"', 'JobStarterLog = ""'),
    ("StarterWaitForDebug = true", "StarterWaitForDebug = false"),
    ("UseParrot = true", "UseParrot = false"),
    ('PrimaryUnixGroup = "x"', 'PrimaryUnixGroup = ""'),
    ('Arguments = "$$(Arch)"', 'Arguments = "$(Arch)"'),
    ("RequestGPUs = 1", "RequestGPUs = 0"),
    ('x509userproxy = "/tmp/x"', "SendCredential = undefined"),
    ("WantIOProxy = true", "WantIOProxy = false"),
    ("SuccessCheckpointExitCode = 85", "SuccessCheckpointExitCode = undefined"),
    ("WantFTOnCheckpoint = true", "WantFTOnCheckpoint = false"),
    ("WantCheckpointSignal = true", "WantCheckpointSignal = false"),
    ("DeferralTime = 1", "DeferralTime = undefined"),
    ('EncryptInputFiles = "a"', 'EncryptInputFiles = ""'),
    ("EncryptExecuteDirectory = true", "EncryptExecuteDirectory = false"),
    ("SkipIfDataflow = true", "SkipIfDataflow = false"),
    ("IsNoopJob = true", "IsNoopJob = false"),
    ("InteractiveJob = true", "InteractiveJob = false"),
    ('PreCmd = "x"', 'PreCmd = ""'),
    ('RequestedChroot = "/x"', 'RequestedChroot = ""'),
    ('RemoteIwd = "/tmp"', 'RemoteIwd = ""'),
    (
        'Cmd = "ls"\nTransferExecutable = false\nPreserveRelativeExecutable = true',
        'Cmd = "ls"\nPreserveRelativeExecutable = true',
    ),
    ("WantParallelScheduling = true", "WantParallelScheduling = false"),
    ("MaxHosts = 2", "MaxHosts = 1"),
]


@pytest.mark.parametrize(("refused", "accepted"), REFUSED)
def test_what_a_capsule_cannot_honour_is_refused(refused: str, accepted: str) -> None:
    attribute = refused.rpartition("\n")[2].split(" = ")[0]
    with pytest.raises(JobRefused, match=f"^{attribute} = ") as caught:
        job(refused + "\n")
    assert caught.value.remedy
    job(accepted + "\n")


def test_every_row_of_the_table_is_tried() -> None:
    tried = {lines.rpartition("\n")[2].split(" = ")[0] for lines, _ in REFUSED}
    assert [row.why for row in TABLE if not tried & set(row.attributes)] == []


def test_match_macros_that_mean_the_same_everywhere_are_expanded() -> None:
    read = job(
        'Environment = "WHERE=$$(CondorScratchDir)/x COST=$$(DOLLARDOLLAR)(5)"\n'
        'Args = "$$(dollardollar)"\n'
    )
    assert dict(read.environment) == {"WHERE": "#CoNdOrScRaTcHdIr#/x", "COST": "$$(5)"}
    assert read.arguments == ("$$",)


def test_a_custom_resource_is_refused() -> None:
    with pytest.raises(JobRefused, match="^RequestFpga = 1: the guest has no resource 'Fpga'"):
        job("RequestFpga = 1\n")
    job("RequestFpga = 0\n")
    # As condor_submit writes it, for request_oracles.
    with pytest.raises(JobRefused, match="^Requestoracles = 2: .*'oracles'"):
        job("Requestoracles = 2\n")
    job('RequestedBy = "me"\nRequestor = 3\n')


def test_the_recorded_job_refused_for_one_attribute_more() -> None:
    with pytest.raises(JobRefused, match="^RequestGPUs = 2"):
        read_job(recorded("translate.stdin").with_({"RequestGPUs": 2}))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n")))
def test_any_strings_are_read_or_refused(text: str) -> None:
    names = ("Arguments", "Environment", "TransferInput", "TransferOutputRemaps", "Out")
    ad = parse_ad(MINIMAL).with_({name: quote(text) for name in names})
    try:
        read_job(ad)
    except (AdError, JobRefused):
        return
