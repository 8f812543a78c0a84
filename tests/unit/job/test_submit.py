"""Submit files to ads: what condor_submit says, kept; what it does not know, refused.

A stand-in prints what a real condor_submit (HTCondor 23.9.6) printed, so that these
tests run where HTCondor is not installed; the tests with virtual machines use the real
one.
"""

from __future__ import annotations

import io
import os
import pwd
import tarfile
from pathlib import Path
from typing import Callable

import pytest

from vmcapsule.classad.ads import split_many
from vmcapsule.errors import SubmitError, ToolError
from vmcapsule.job.submit import ads_from_submit, condor_submit_command, is_submit_file

DUMPS = Path(__file__).resolve().parents[2] / "fixtures" / "condor_submit-23.9.6"

StandIn = Callable[..., None]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Install a condor_submit that prints a dump and messages and ends with a status."""

    def install(dump: str = "", messages: str = "", status: int = 0) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "dump").write_text(dump)
        (folder / "messages").write_text(messages)
        program = folder / "condor_submit"
        program.write_text(
            f'#!/bin/sh\n/bin/echo "$@" "$CONDOR_CONFIG" > {folder}/arguments\n'
            f"/bin/cat {folder}/dump\n/bin/cat {folder}/messages >&2\nexit {status}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return install


def ads(tmp_path: Path, file: str = "job.sub") -> tuple[object, ...]:
    return ads_from_submit(Path(file), tarball=None, cache=tmp_path / "cache")


def test_the_jobs_of_a_dump_belong_to_the_caller(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = (DUMPS / "quoting.dump").read_text()
    stand_in(dump)
    monkeypatch.setenv("CONDOR_CONFIG", "/dev/null")
    made = ads_from_submit(Path("job.sub"), tarball=None, cache=tmp_path)
    owner = pwd.getpwuid(os.geteuid()).pw_name
    assert [ad.string("Owner") for ad in made] == [owner, owner]
    assert [ad.without(["Owner"]) for ad in made] == [
        ad.without(["Owner"]) for ad in split_many(dump)
    ]
    arguments = (tmp_path / "bin" / "arguments").read_text().split()
    assert arguments[-4:] == ["-dump", "-", "job.sub", "/dev/null"]
    # Else only the first job of a file with max_materialize would be there.
    assert arguments[:-4] == ["-append", "max_materialize", "=", "-append", "max_idle", "="]


def test_a_file_named_like_an_option_is_a_file(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in((DUMPS / "v1.dump").read_text())
    ads(tmp_path, "-name")
    arguments = (tmp_path / "bin" / "arguments").read_text().split()
    assert arguments[-2] == str(Path.cwd() / "-name")


def test_deprecation_warnings_are_no_errors(tmp_path: Path, stand_in: StandIn) -> None:
    warning = (
        "\nWarning: Use of multiple queue statements in a single submit file is deprecated.\n"
    )
    stand_in((DUMPS / "clusters.dump").read_text(), warning)
    assert len(ads(tmp_path)) == 3


def test_a_misspelt_command_is_named_with_the_nearest(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in(
        (DUMPS / "v1.dump").read_text(),
        "WARNING: the line 'reqest_memory = 5' was unused by condor_submit. Is it a typo?\n"
        "WARNING: the line 'foo = 1' was unused by condor_submit. Is it a typo?\n",
    )
    with pytest.raises(SubmitError) as caught:
        ads(tmp_path)
    assert str(caught.value) == (
        "job.sub: condor_submit knows no command 'reqest_memory' and no use for it"
        " (the line 'reqest_memory = 5' and 1 more); did you mean 'request_memory'?"
    )


def test_an_unused_line_without_a_likeness_is_to_be_taken_out(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in("", "WARNING: the line 'zzz = 1' was unused by condor_submit. Is it a typo?\n")
    with pytest.raises(SubmitError, match="'zzz = 1'.*; take the line out$"):
        ads(tmp_path)


def test_a_known_command_may_be_of_no_use(tmp_path: Path, stand_in: StandIn) -> None:
    unused = (
        # Our own on access points, which this machine may not be.
        "WARNING: the line 'WantJobRouter = true' was unused by condor_submit. Is it a typo?\n"
        "WARNING: the line 'Should_Transfer_Files = YES' was unused by condor_submit."
        " Is it a typo?\n"
    )
    stand_in((DUMPS / "v1.dump").read_text(), unused)
    assert len(ads(tmp_path)) == 1


def test_what_condor_submit_refuses_is_said_in_one_line(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in(
        "",
        "\nWARNING: something\n\nERROR: on Line 1 of submit file: no queue statement\n\n"
        "ERROR: Failed to parse command file (line 1).\n",
        1,
    )
    with pytest.raises(SubmitError) as caught:
        ads(tmp_path)
    assert caught.value.message == (
        "job.sub: condor_submit: ERROR: on Line 1 of submit file: no queue statement"
        " ERROR: Failed to parse command file (line 1)."
    )


def test_no_jobs_are_an_error(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in("\n", '\nWARNING: "e.sub" has only empty "queue" commands -- no jobs queued\n')
    with pytest.raises(SubmitError, match="no job is queued"):
        ads(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("executable = a\nqueue\n", True),
        ("  Queue 5\n", True),
        ("QUEUE x in (a b)\n", True),
        ("executable = a\n", True),
        ((DUMPS / "mixed.sub").read_text(), True),
        ((DUMPS / "mixed.dump").read_text(), False),
        ('Cmd = "/a"\nqueued = 1\nQueue = 3\n', False),
        ("[ executable = 3 ]", False),
        ("", False),
    ],
)
def test_submit_files_are_told_from_ads(text: str, expected: bool) -> None:
    assert is_submit_file(text) is expected


def make_tarball(path: Path, names: dict[str, bytes], links: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return path


@pytest.fixture
def no_condor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.mark.usefixtures("no_condor")
def test_condor_submit_comes_out_of_the_tarball_once(tmp_path: Path) -> None:
    files = {
        "condor-1.2/bin/condor_submit": b"submit",
        "condor-1.2/bin/condor_rm": b"rm",
        "condor-1.2/lib/ld-linux-x86-64.so.2": b"loader",
        "condor-1.2/lib/sub/x": b"x",
        "condor-1.2/lib/libx.so.1": b"lib",
    }
    links = {"condor-1.2/lib/libx.so": "libx.so.1", "condor-1.2/lib/evil": "/etc/passwd"}
    tarball = make_tarball(tmp_path / "condor-1.2.tar.gz", files, links)
    command = condor_submit_command(tarball, tmp_path / "cache")
    home = Path(command[2]).parent
    assert command[1:] == ("--library-path", home / "lib", home / "bin" / "condor_submit")
    assert Path(command[0]).read_bytes() == b"loader"
    found = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    assert found == [
        "bin/condor_submit",
        "lib/ld-linux-x86-64.so.2",
        "lib/libx.so",
        "lib/libx.so.1",
    ]
    assert list((tmp_path / "cache").iterdir()) == [home]
    (home / "mark").touch()
    assert condor_submit_command(tarball, tmp_path / "cache") == command
    assert (home / "mark").exists()


@pytest.mark.usefixtures("no_condor")
@pytest.mark.parametrize("content", [None, b"no tarball", b""])
def test_a_tarball_without_condor_submit_leaves_nothing(
    tmp_path: Path, content: object
) -> None:
    tarball = tmp_path / "condor-1.tar.gz"
    if isinstance(content, bytes):
        tarball.write_bytes(content)
    else:
        make_tarball(tarball, {"condor-1/sbin/x": b""}, {})
    with pytest.raises(ToolError, match=r"condor-1\.tar\.gz"):
        condor_submit_command(tarball, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("no_condor")
def test_without_any_condor_submit_the_remedy_is_named(tmp_path: Path) -> None:
    for tarball in (None, tmp_path / "absent.tar"):
        with pytest.raises(ToolError, match="run 'vmcapsule tarball build'.*install") as caught:
            condor_submit_command(tarball, tmp_path)
        assert (str(tmp_path) in caught.value.message) == (tarball is not None)
