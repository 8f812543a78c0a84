"""Which files go in and come out: HTCondor's rules for file transfer."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Iterator

import pytest

from tests.unit.edits import make_data_disk, stage_onto
from tests.unit.users import acting_as
from vmcapsule import contract, process
from vmcapsule.classad.ads import parse_ad
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.errors import DeliveryError, InputError, InputLimit
from vmcapsule.guest import staging
from vmcapsule.job.source import SourceJob, read_job
from vmcapsule.transfer.index import parse_index
from vmcapsule.transfer.outputs import Destinations
from vmcapsule.transfer.pack import Member
from vmcapsule.transfer.sandbox import input_members, stderr_name, stdout_name


def job(iwd: Path, **attributes: str) -> SourceJob:
    lines = {"Iwd": f'"{iwd}"', "Cmd": '"prog"', "JobUniverse": "5", **attributes}
    return read_job(parse_ad("\n".join(f"{name} = {text}" for name, text in lines.items())))


@pytest.fixture
def iwd(tmp_path: Path) -> Path:
    for name in ("prog", "a.txt", "data/readings.csv", "tables/x.csv", "tables/deep/y.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "tables/deep").chmod(0o750)
    return tmp_path


def members(job: SourceJob) -> list[Member]:
    return list(input_members(job))


def packed(job: SourceJob) -> dict[str, str]:
    """path in the sandbox -> where it came from, relative to Iwd ('/' for folders)."""
    return {
        m.path: os.path.relpath(m.source, job.iwd) + ("/" if m.kind == "dir" else "")
        for m in members(job)
    }


def test_files_arrive_under_their_base_names(iwd: Path) -> None:
    made = job(iwd, In='"data/readings.csv"', TransferInput='"a.txt"')
    assert packed(made) == {
        "prog": "prog",
        "readings.csv": "data/readings.csv",
        "a.txt": "a.txt",
    }


def test_a_folder_comes_whole_and_with_a_slash_only_its_contents(iwd: Path) -> None:
    whole = {"prog": "prog", "tables": "tables/", "tables/deep": "tables/deep/"}
    whole |= {"tables/x.csv": "tables/x.csv", "tables/deep/y.csv": "tables/deep/y.csv"}
    assert packed(job(iwd, TransferInput='"tables"')) == whole
    assert packed(job(iwd, TransferInput='"tables/"')) == {
        "prog": "prog",
        "x.csv": "tables/x.csv",
        "deep": "tables/deep/",
        "deep/y.csv": "tables/deep/y.csv",
    }


def test_relative_paths_are_preserved_on_request(iwd: Path) -> None:
    made = job(iwd, PreserveRelativePaths="true", TransferInput='"data/readings.csv"')
    assert packed(made) == {
        "prog": "prog",
        "data": "data/",
        "data/readings.csv": "data/readings.csv",
    }
    outside = job(iwd / "data", PreserveRelativePaths="true", Cmd='"../prog"')
    assert packed(outside) == {"prog": "../prog"}
    escaping = job(
        iwd / "data",
        PreserveRelativePaths="true",
        TransferInput='"../a.txt"',
        Cmd='"../prog"',
    )
    with pytest.raises(InputError, match="outside"):
        members(escaping)


def test_the_executable_gets_its_execute_bits_and_others_keep_their_modes(iwd: Path) -> None:
    (iwd / "prog").chmod(0o6640)  # set-id bits stay behind, as with HTCondor
    modes = {m.path: m.mode for m in members(job(iwd, TransferInput='"tables"'))}
    assert modes["prog"] == 0o751
    assert modes["tables/deep"] == 0o750


def test_an_executable_that_is_listed_again_is_executable(iwd: Path) -> None:
    (iwd / "prog").chmod(0o640)
    found = members(job(iwd, TransferInput='"prog"'))
    assert [(m.path, m.mode) for m in found] == [("prog", 0o751)] * 2


def test_the_jobs_own_limit_of_its_inputs_is_kept(iwd: Path) -> None:
    with (iwd / "a.txt").open("wb") as file:
        file.truncate(2 << 20)
    limited = {"TransferInput": '"a.txt"', "TransferExecutable": "false"}
    with pytest.raises(InputLimit, match="MaxTransferInputMB = 1: .* 2097152 bytes") as caught:
        members(job(iwd, MaxTransferInputMB="1", **limited))
    assert caught.value.hold_code == 32
    for enough in ("2", "-1"):
        assert members(job(iwd, MaxTransferInputMB=enough, **limited))


def test_links_to_files_are_followed_and_links_to_folders_refused(iwd: Path) -> None:
    (iwd / "link.txt").symlink_to("a.txt")
    (iwd / "tables/dirlink").symlink_to("deep")
    found = {m.path: m for m in members(job(iwd, TransferInput='"link.txt"'))}
    assert (found["link.txt"].kind, found["link.txt"].size_bytes) == ("file", 5)
    with pytest.raises(InputError, match="dirlink.*link to a folder"):
        members(job(iwd, TransferInput='"tables"'))


def test_links_below_a_folder_that_lead_nowhere_stay_behind(iwd: Path) -> None:
    (iwd / "tables/dangling").symlink_to("nowhere")
    (iwd / "tables/loop").symlink_to("loop")
    found = packed(job(iwd, TransferInput='"tables"'))
    assert "tables/deep/y.csv" in found
    assert not {"tables/dangling", "tables/loop"} & set(found)


def test_what_is_behind_a_folder_link_comes_with_a_trailing_slash(iwd: Path) -> None:
    (iwd / "t").symlink_to("tables/deep")
    assert packed(job(iwd, TransferInput='"t/"')) == {"prog": "prog", "y.csv": "t/y.csv"}


def test_sockets_and_fifos_stay_behind(iwd: Path) -> None:
    os.mkfifo(iwd / "tables/fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(iwd / "tables/socket"))
        assert not {"tables/fifo", "tables/socket"} & set(
            packed(job(iwd, TransferInput='"tables"'))
        )


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"TransferInput": '"gone"'}, "gone"),
        ({"In": '"gone"'}, "gone"),
        ({"Cmd": '"gone"'}, "gone"),
        ({"TransferInput": '"dangling"'}, "dangling"),
    ],
)
def test_what_is_missing_is_named(iwd: Path, attributes: dict[str, str], name: str) -> None:
    (iwd / "dangling").symlink_to("nowhere")
    with pytest.raises(InputError, match=f"'{iwd}/{name}'.*No such file"):
        members(job(iwd, **attributes))


def test_a_job_needs_its_folder(tmp_path: Path) -> None:
    """Else outputs would come back to a folder made for them, unseen."""
    with pytest.raises(InputError, match="gone' .Iwd. is not there"):
        members(job(tmp_path / "gone", Cmd='"/bin/true"'))


@pytest.mark.parametrize("content", ["", "secret"])
def test_an_unreadable_file_is_named(content: str) -> None:
    """Also one of which nothing is to be read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prog").write_text(content)
        (folder / "prog").chmod(0)
        disk = make_data_disk(
            folder / "data.vmdk",
            size_bytes=16 << 20,
            offset_bytes=1 << 20,
            label="DATA",
        )
        for path in (folder, *DataDisk(disk).look().files):
            path.chmod(0o777)
        with acting_as(), pytest.raises(InputError, match="prog': Permission denied"):
            load = staging.packed(input_members(job(folder)), texts=())
            stage_onto(load, DataDisk(disk))


def test_the_executable_may_be_the_guests_own(iwd: Path) -> None:
    assert packed(job(iwd, Cmd='"/bin/sh"', TransferExecutable="false")) == {}


def test_streams_with_one_name_are_merged(iwd: Path) -> None:
    apart = job(iwd, Out='"o"', Err='"e"')
    merged = job(iwd, Out='"o"', Err='"o"')
    none = job(iwd, Out='"/dev/null"')
    assert (stdout_name(apart), stderr_name(apart)) == ("_condor_stdout", "_condor_stderr")
    assert (stdout_name(merged), stderr_name(merged)) == ("_condor_stdout", "_condor_stdout")
    assert (stdout_name(none), stderr_name(none)) == (None, None)


def places(made: SourceJob, *paths: str) -> dict[str, str]:
    to = Destinations(made)
    found = {path: to.place(path) for path in paths}
    return {path: os.path.relpath(place, made.iwd) for path, place in found.items() if place}


def test_everything_lands_in_iwd_when_nothing_is_listed(iwd: Path) -> None:
    made = job(iwd, Out='"logs/o"', Err='"e"')
    assert places(made, "_condor_stdout", "_condor_stderr", "new") == {
        "_condor_stdout": "logs/o",
        "_condor_stderr": "e",
        "new": "new",
    }


def test_listed_outputs_land_under_their_base_names(iwd: Path) -> None:
    made = job(iwd, TransferOutput='"a/b.txt, plots, flat/"')
    assert places(made, "a", "a/b.txt", "plots", "plots/p", "flat", "flat/f", "other") == {
        "a/b.txt": "b.txt",
        "plots": "plots",
        "plots/p": "plots/p",
        "flat/f": "f",
    }


def test_a_spooled_job_is_told_what_came_to_the_top_of_its_folder(iwd: Path) -> None:
    made = job(
        iwd,
        Out='"o"',
        TransferOutput='"a/b.txt, plots, flat/"',
        TransferOutputRemaps='"b.txt=elsewhere"',
    )
    came = ["_condor_stdout", "a", "a/b.txt", "plots", "plots/p", "flat", "flat/f", "other"]
    assert Destinations(made).spooled_names(came) == ("b.txt", "plots", "f")
    default = Destinations(job(iwd, Out='"o"'))
    assert default.spooled_names(["_condor_stdout", "new"]) == ("new",)


def test_preserved_outputs_keep_their_folders(iwd: Path) -> None:
    made = job(iwd, TransferOutput='"a/b.txt"', PreserveRelativePaths="true")
    # With the modes that the job gave them.
    assert places(made, "a", "a/b.txt", "ab") == {"a": "a", "a/b.txt": "a/b.txt"}


def test_an_empty_list_brings_only_the_streams(iwd: Path) -> None:
    made = job(iwd, TransferOutput='""', Out='"o"')
    assert places(made, "_condor_stdout", "new") == {"_condor_stdout": "o"}


def test_failure_files_land_like_listed_outputs(iwd: Path) -> None:
    default = job(iwd, FailureFiles='"logs/why, core"')
    assert places(default, "logs", "logs/why", "core") == {"logs/why": "why", "core": "core"}
    listed = job(iwd, FailureFiles='"why"', TransferOutput='"made"')
    assert places(listed, "made", "why", "other") == {"made": "made", "why": "why"}


def test_a_core_file_comes_back_beside_listed_outputs(iwd: Path) -> None:
    made = job(iwd, TransferOutput='""', ClusterId="7", ProcId="1")
    assert places(made, "core.7.1", "core.7.2") == {"core.7.1": "core.7.1"}


def test_remaps_apply_to_files_and_the_folders_they_are_in(iwd: Path) -> None:
    made = job(
        iwd,
        TransferOutput='"summary.txt,plots,x"',
        TransferOutputRemaps='"summary.txt = results/s-1.txt; plots=figures; x=y; y=/abs/z"',
    )
    found = places(made, "summary.txt", "plots", "plots/a/b.svg")
    assert found == {
        "summary.txt": "results/s-1.txt",
        "plots": "figures",
        "plots/a/b.svg": "figures/a/b.svg",
    }
    assert Destinations(made).place("x") == "/abs/z"


def test_a_remap_is_looked_up_again_without_what_is_below_the_folder(iwd: Path) -> None:
    """As ``filename_remap_find`` does it."""
    made = job(iwd, TransferOutput='"a"', TransferOutputRemaps='"a=b;b/x=c;b=d"')
    assert places(made, "a/x") == {"a/x": "d/x"}


@pytest.fixture
def deep(iwd: Path) -> Iterator[str]:
    """A path in ``iwd`` of more folders than Python's stack has frames."""
    path = "deep" + "/d" * 1200
    process.run(["mkdir", "-p", path], timeout_s=60, cwd=iwd)
    yield path
    # pytest's own removal ends at the same stack.
    process.run(["rm", "-r", iwd / "deep"], timeout_s=60)


def test_a_tree_may_be_deeper_than_the_stack(iwd: Path, deep: str) -> None:
    """Both ways: a job's own, and one that a guest made up."""
    both = {"TransferInput": '"deep"', "TransferOutput": '"deep"'}
    made = job(iwd, TransferOutputRemaps='"x=y"', **both)
    assert [m.path for m in members(made)][-1] == deep
    assert places(made, deep) == {deep: deep}


def test_the_folder_itself_stands_for_its_contents(iwd: Path) -> None:
    """``.`` and ``./`` name no folder that could be made in the sandbox or in Iwd."""
    for item in (".", "./"):
        for preserve in ("true", "false"):
            made = job(
                iwd,
                TransferInput=f'"{item}"',
                TransferOutput=f'"{item}"',
                PreserveRelativePaths=preserve,
            )
            assert set(packed(made)) >= {"a.txt", "tables", "tables/x.csv"}
            assert "." not in packed(made)
            assert places(made, "new", "d/x") == {"new": "new", "d/x": "d/x"}
    assert places(job(iwd, TransferOutput='"d/."'), "d", "d/x") == {"d/x": "x"}
    with pytest.raises(InputError, match="'..' has no name"):
        members(job(iwd / "tables", Cmd='"../prog"', TransferInput='".."'))


def test_without_a_list_a_guest_reaches_no_folder(iwd: Path) -> None:
    """HTCondor's default is the top level; with Iwd a home, '.ssh' would be in reach."""
    assert places(job(iwd), "new", ".ssh/authorized_keys") == {"new": "new"}


def test_remaps_in_a_cycle_are_refused(iwd: Path) -> None:
    made = job(iwd, TransferOutputRemaps='"a=b;b=a"')
    with pytest.raises(DeliveryError, match="cycle"):
        Destinations(made).place("a")


def test_a_time_that_no_index_holds_is_the_nearest_that_one_does(iwd: Path) -> None:
    os.utime(iwd / "a.txt", (430 * 31_556_952,) * 2)  # in the year 2400
    load = staging.packed(input_members(job(iwd, TransferInput='"a.txt"')), texts=())
    read = parse_index(
        bytes(dict(load.texts)[contract.INPUT_INDEX]), load.packs.pack_sizes_bytes
    )
    times = {entry.path: entry.mtime_ns for entry in read}
    assert times["a.txt"] == contract.MTIME_NS_MAX


def test_what_lies_below_no_folder_is_named(iwd: Path) -> None:
    os.mkfifo(iwd / "pipe")
    wish = {"TransferInput": '"pipe/x"', "PreserveRelativePaths": "true"}
    with pytest.raises(InputError, match="pipe/x': Not a directory"):
        staging.packed(input_members(job(iwd, **wish)), texts=())
