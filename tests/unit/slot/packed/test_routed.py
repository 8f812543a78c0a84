"""What a job finds that was routed: its own ad, its own environment, its template."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.classad.ads import parse_ad
from vmcapsule.errors import AdError, TemplateError
from vmcapsule.job.text import join_v2
from vmcapsule.slot.packed import routed, share
from vmcapsule.slot.packed.arguments import as_executable, of_routed_ad, parsed
from vmcapsule.slot.packed.found import find
from vmcapsule.slot.packed.share import Room

ROUTED = """\
Arguments = "routed --executable -- ./job.sh 1 'two  words'"
Cmd = "/usr/local/libexec/vmcapsule-execute.pyz"
Environment = ""
RequestDisk = 65842
RequestMemory = 448
TransferExecutable = false
TransferInput = "/home/alice/job.sh,in"
Owner = "alice"
VmCapsuleSource_Arguments = "1 'two  words'"
VmCapsuleSource_Cmd = "/home/alice/job.sh"
VmCapsuleSource_Environment = "A='b c'"
VmCapsuleSource_TransferExecutable = undefined
VmCapsuleSource_TransferInput = "in"
"""


def test_a_job_finds_its_own_ad() -> None:
    ad = parse_ad(routed.source_ad(ROUTED, 256))
    assert ad.string("Arguments") == "1 'two  words'"
    assert (ad.string("Cmd"), ad.string("TransferInput")) == ("/home/alice/job.sh", "in")
    assert (ad.integer("RequestMemory"), ad.integer("RequestDisk")) == (64, 102)
    assert ad.string("Owner") == "alice"
    assert "TransferExecutable" not in ad
    assert routed.has(ad.long_form(), "cmd") and not routed.has(ad.long_form(), "TransferOut")
    assert [name for name in ad.names if "VmCapsule" in name] == []


def test_a_request_that_is_no_number_yet_stays_as_it_is() -> None:
    ad = parse_ad(routed.source_ad("RequestMemory = ImageSize / 1024\n", 256))
    assert ad.expr("RequestMemory") == "ImageSize / 1024"


AMOUNTS = st.integers(0, 1 << 40)


@given(AMOUNTS, AMOUNTS, st.integers(0, 1 << 20))
def test_what_is_asked_for_more_is_kept_from_the_job(
    memory_mib: int, disk_kib: int, overhead_mib: int
) -> None:
    texts = {
        "M": share.request_memory(str(memory_mib), overhead_mib),
        "D": share.request_disk(str(disk_kib)),
    }
    asked = parse_ad("").with_(texts)
    room = Room(asked.integer("M") or 0, asked.integer("D") or 0)
    assert share.wish_of(room, overhead_mib) == (memory_mib, disk_kib)
    assert share.room_in(room, overhead_mib) == (max(memory_mib, 1), max(disk_kib, 1))


def test_a_slot_that_is_too_small_has_room_for_something() -> None:
    assert share.room_in(Room(1, 1), 256) == (1, 1)


GIVEN = {"TMPDIR": "/tmp", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "X_COUNT": "1"}


def test_a_starters_variables_go_before_the_jobs_but_for_counts_of_threads() -> None:
    source = (
        'Environment = "TMPDIR=/mine OMP_NUM_THREADS=7 MKL_NUM_THREADS= X_COUNT=9 LD_PRELOAD=x"'
    )
    assert routed.environment(source, GIVEN, cpus=2) == {
        "TMPDIR": "/tmp",
        "OMP_NUM_THREADS": "7",
        "MKL_NUM_THREADS": "2",
        "X_COUNT": "1",
        "LD_PRELOAD": "x",
    }


@pytest.mark.parametrize(
    ("lines", "variables"),
    [
        ('Environment = "A=1"\nEnv = "A=2"', {"A": "1"}),
        ('Environment = ""\nEnv = "A=2"', {}),
        ('Env = "A=2;B=x y"', {"A": "2", "B": "x y"}),
        ('Env = "A=2|B=x;y"\nEnvDelim = "|"', {"A": "2", "B": "x;y"}),
        ("", {}),
    ],
)
def test_both_syntaxes_are_read(lines: str, variables: dict[str, str]) -> None:
    assert routed.environment(lines, {}, cpus=1) == variables


NAMES = st.text("ABCxyz_.%", min_size=1, max_size=8)
VALUES = st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]))


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_any_variable_arrives(variables: dict[str, str]) -> None:
    words = [f"{name}={value}" for name, value in variables.items()]
    ad = parse_ad("").with_({"VmCapsuleSource_Environment": _string(join_v2(words))})
    source = routed.source_ad(ad.long_form(), 0)
    assert routed.environment(source, {}, cpus=1) == variables


def _string(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def test_an_environment_that_is_none_is_told() -> None:
    with pytest.raises(AdError, match="the job's environment: no '=' after"):
        routed.environment('Environment = "A"', {}, cpus=1)


WORDS = st.lists(st.text(st.characters(exclude_characters="\0"), max_size=5), max_size=4)


@given(WORDS | st.lists(st.sampled_from(["--", "-x", "--network", "", "a"]), max_size=5))
def test_any_arguments_are_the_jobs(words: list[str]) -> None:
    given = ["--template-like=aa", "--", "./job", *words]
    args, command = parsed(of_routed_ad(), given)
    assert command == ["./job", *words] and not args.network


def test_an_environment_of_blanks_is_read_at_once() -> None:
    # Anything but linear would take minutes.
    blanks = " " * 200_000
    assert routed.environment(f'Environment = "A=1{blanks}B=2"  ', {}, cpus=1) == {
        "A": "1",
        "B": "2",
    }


MACHINE = 'VMCapsuleTemplates = "aa,bb"\nVMCapsuleTemplatePaths = "/x/a,/x/b b"\n'


def test_a_template_is_where_the_machine_says() -> None:
    assert routed.template_here(MACHINE, "bb") == Path("/x/b b")
    assert routed.any_template_here(MACHINE) == Path("/x/a")


@pytest.mark.parametrize(
    "machine", ["", 'VMCapsuleTemplates = ""\nVMCapsuleTemplatePaths = ""\n', 'A = "b"\n']
)
def test_a_machine_without_a_template_is_told_of(machine: str) -> None:
    with pytest.raises(TemplateError, match="this machine has no template") as caught:
        routed.any_template_here(machine)
    assert "HasVMCapsuleWrapper" in caught.value.remedy


@pytest.mark.parametrize("machine", [MACHINE, "", 'VMCapsuleTemplates = "cc"\n'])
def test_a_template_that_is_gone_is_told_with_what_to_do(machine: str) -> None:
    with pytest.raises(TemplateError, match="no template of the likeness cc") as caught:
        routed.template_here(machine, "cc")
    assert "vmcapsule template publish" in caught.value.remedy


@pytest.mark.parametrize(
    ("ad", "omitted"),
    [("", ("job.sh",)), ('TransferOutput = "job.sh"\n', ()), ('TransferOutput = ""\n', ())],
)
def test_an_executable_that_was_transferred_can_be_started_and_is_no_output_by_itself(
    tmp_path: Path, ad: str, omitted: tuple[str, ...]
) -> None:
    (tmp_path / "job.sh").write_text("#!/bin/sh\n")
    (tmp_path / "job.sh").chmod(0o640)
    found = find(tmp_path, ["./job.sh", "1"], {})._replace(job_ad=ad)
    assert as_executable(found).omit == omitted
    assert (tmp_path / "job.sh").stat().st_mode & 0o777 == 0o755
