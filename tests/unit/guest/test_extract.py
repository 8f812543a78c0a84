"""Outputs leave a returned disk whole or not at all, and a hostile one gets nowhere."""

from __future__ import annotations

import json
import os
import resource
import struct
from pathlib import Path
from typing import Any, Iterator

import pytest

from tests.unit.edits import put_files, raw_edit
from tests.unit.returned import EXITED, OFFSET_BYTES, file, guest_writes, make_disk, make_job
from tests.unit.users import acting_as, give
from vmcapsule import contract
from vmcapsule.capsule.inspection import inspect, lines
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.vmdk import vmdk
from vmcapsule.disk.vmdk.vmdk import FORMS, read_vmdk
from vmcapsule.errors import DiskError, ExecFailed, GuestError
from vmcapsule.guest import extract
from vmcapsule.guest.exit_record import JobExit, read_exit
from vmcapsule.job.source import SourceJob
from vmcapsule.transfer.entries import Entry, Stretch
from vmcapsule.transfer.outputs import Destinations


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make_disk(tmp_path / "data.vmdk")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    home.mkdir()
    yield home
    assert not list(home.rglob(".vmcapsule-*")), "a temporary file was left"


def deliver(disk: Path, job: SourceJob, left_over: tuple[str, ...] = ()) -> list[str]:
    with DataDisk(disk).opened(disk.parent) as volume:
        placed = extract.deliver(
            volume, extract.read_outputs(volume), Destinations(job).place, "token"
        )
    assert tuple(placed.left_over) == left_over
    return [os.path.relpath(path, job.iwd) for path in placed.files]


def exit_of(disk: Path) -> JobExit:
    with DataDisk(disk).opened(disk.parent) as volume:
        return read_exit(volume)


def test_outputs_are_placed_with_their_content_and_mode(disk: Path, home: Path) -> None:
    entries = (
        file("_condor_stdout", 0, 5),
        Entry("d", "dir", 0o700),
        file("d/a\udcff:b", 5, 3, 0o640),
        file("empty", 0, 0),
        Entry("sparse", "file", 0o600, 0, 1 << 33, (Stretch(1 << 32, 3, 0, 8),)),
    )
    guest_writes(disk, EXITED, entries, b"hellodatend")
    placed = deliver(
        disk, make_job(home, Out='"logs/out"', TransferOutput='"d, empty, sparse"')
    )
    assert placed == ["logs/out", "d/a\udcff:b", "empty", "sparse"]
    assert (home / "logs/out").read_text() == "hello"
    assert (home / "d/a\udcff:b").read_bytes() == b"dat"
    assert (home / "d/a\udcff:b").stat().st_mode & 0o7777 == 0o640
    sparse = (home / "sparse").stat()
    assert sparse.st_size == 1 << 33 and sparse.st_blocks * 512 < 1 << 20


def test_an_existing_file_is_replaced_and_a_link_written_through(
    disk: Path, home: Path
) -> None:
    guest_writes(disk, EXITED, (file("a", 0, 3), file("l", 3, 3)), b"newtwo")
    (home / "a").write_text("old and longer")
    (home / "elsewhere").mkdir()
    (home / "l").symlink_to("elsewhere/target")
    deliver(disk, make_job(home))
    assert (home / "a").read_text() == "new"
    assert (home / "l").is_symlink() and (home / "elsewhere/target").read_text() == "two"


def test_set_id_bits_are_not_taken_over(disk: Path, home: Path) -> None:
    guest_writes(disk, EXITED, (file("tool", 0, 2, 0o6755),), b"hi")
    deliver(disk, make_job(home))
    assert (home / "tool").stat().st_mode & 0o7777 == 0o755


def test_a_folder_made_for_a_remapped_output_is_the_owners_own(disk: Path, home: Path) -> None:
    guest_writes(disk, EXITED, (file("a", 0, 2),), b"hi")
    deliver(disk, make_job(home, TransferOutput='"a"', TransferOutputRemaps='"a=new/deep/b"'))
    assert (home / "new/deep/b").read_bytes() == b"hi"
    assert [(home / name).stat().st_mode & 0o777 for name in ("new", "new/deep")] == [0o700] * 2


def test_what_is_in_the_way_stays_and_the_rest_is_delivered(disk: Path, home: Path) -> None:
    folder = Entry("n", "dir", 0o755)
    entries = (file("a", 0, 1), folder, file("n/b", 1, 1), file("p", 2, 1), file("z", 3, 1))
    guest_writes(disk, EXITED, entries, b"hiyo")
    (home / "n").mkdir()
    (home / "n/b").mkdir()
    os.mkfifo(home / "p")
    job = make_job(home, TransferOutput='"a, n, p, z"')
    assert deliver(disk, job, left_over=("n/b", "p")) == ["a", "z"]
    assert (home / "n/b").is_dir() and (home / "p").is_fifo()
    assert sorted(p.name for p in home.rglob("*")) == ["a", "b", "n", "p", "z"]


def test_a_file_that_its_owner_may_not_write_is_not_replaced(
    tmp_path: Path, disk: Path, home: Path
) -> None:
    guest_writes(disk, EXITED, (file("mine", 0, 1), file("other", 1, 1)), b"hi")
    (home / "mine").write_text("old")
    (home / "mine").chmod(0o444)
    give(tmp_path)
    with acting_as():
        assert deliver(disk, make_job(home), left_over=("mine",)) == ["other"]
    assert (home / "mine").read_text() == "old"


def test_a_folder_takes_the_place_of_a_file_as_with_htcondor(disk: Path, home: Path) -> None:
    folder = Entry("n", "dir", 0o755)
    guest_writes(disk, EXITED, (file("a", 0, 2), folder, file("n/b", 2, 2)), b"hiyo")
    (home / "n").write_text("a file")
    assert deliver(disk, make_job(home, TransferOutput='"a, n"')) == ["a", "n/b"]
    assert (home / "n/b").read_bytes() == b"yo"


@pytest.mark.parametrize(
    ("items", "left_over", "names"),
    [
        ("a, p/x, q/x, z", (), ["a", "x", "x/inner", "z"]),
        ("a, q/x, p/x, z", ("p/x",), ["a", "x", "x/inner", "z"]),
    ],
)
def test_outputs_of_one_name_end_as_with_htcondor(
    disk: Path, home: Path, items: str, left_over: tuple[str, ...], names: list[str]
) -> None:
    """The later one wins, but for a file where a folder is; all others are delivered."""
    inner = (file("p/x", 2, 1), Entry("q/x", "dir", 0o755), file("q/x/inner", 3, 1))
    if items.index("q/x") < items.index("p/x"):
        inner = (*inner[1:], inner[0])
    folders = (Entry("p", "dir", 0o755), Entry("q", "dir", 0o755))
    entries = (file("a", 0, 1), *folders, *inner, file("z", 1, 1))
    guest_writes(disk, EXITED, entries, b"azpq")
    deliver(disk, make_job(home, TransferOutput=f'"{items}"'), left_over)
    assert sorted(str(path.relative_to(home)) for path in home.rglob("*")) == names
    assert (home / "x/inner").read_bytes() == b"q"


def test_what_the_disk_has_no_room_for_is_left_over_and_nothing_half_written(
    disk: Path, home: Path
) -> None:
    big = Entry("n/big", "file", 0o600, 0, 1 << 30, (Stretch(0, 2, 0, 2),))
    small = file("n/small", 4, 2)
    guest_writes(
        disk, EXITED, (file("a", 0, 2), Entry("n", "dir", 0o755), big, small), b"hiyook"
    )
    job = make_job(home, TransferOutput='"a, n"')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses the large file as it would on a full disk: by an error of write.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        assert deliver(disk, job, left_over=("n/big",)) == ["a", "n/small"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in home.rglob("*")) == ["a", "n", "small"]


def test_a_link_that_a_guest_sends_is_left_over(disk: Path, home: Path) -> None:
    guest_writes(
        disk, EXITED, (file("a", 0, 1), Entry("l", "link", 0o777, target="/etc")), b"a"
    )
    assert deliver(disk, make_job(home), left_over=("l",)) == ["a"]
    assert [path.name for path in home.iterdir()] == ["a"]


def test_remaps_in_a_cycle_keep_only_their_own_outputs_back(disk: Path, home: Path) -> None:
    guest_writes(disk, EXITED, (file("a", 0, 1), file("b", 1, 1)), b"ab")
    job = make_job(home, TransferOutput='"a, b"', TransferOutputRemaps='"a=c;c=a"')
    assert deliver(disk, job, left_over=("a",)) == ["b"]


def test_a_hostile_index_delivers_nothing(disk: Path, home: Path) -> None:
    line = {"path": "../../evil", "type": "file", "mode": 420, "size": 0, "extents": []}
    guest_writes(disk, EXITED, index=json.dumps(line).encode())
    with pytest.raises(DiskError, match="line 1 of the index"):
        deliver(disk, make_job(home))
    assert list(home.iterdir()) == []


def test_a_list_that_was_cut_short_is_noticed(disk: Path) -> None:
    record = {**EXITED, "outputs": {"entries": 2, "packs": 0, "bytes": 0}}
    guest_writes(disk, record, (file("only", 0, 0),))
    with DataDisk(disk).opened(disk.parent) as volume:
        with pytest.raises(DiskError, match="lists 1 outputs, the guest's record speaks of 2"):
            extract.read_outputs(volume, read_exit(volume))


def test_packs_that_share_clusters_do_not_multiply(disk: Path, home: Path) -> None:
    """Else a small disk could fill the host's."""
    size = 12 << 20
    guest_writes(disk, EXITED, (file("a", 0, 2),), bytes(size))
    with raw_edit(disk, disk.parent) as raw:
        put_files(FatVolume.open(raw.fd, OFFSET_BYTES), {contract.OUTPUT_PACK % 1: b""})
        first = struct.pack("<8s3s", b"OUTPUT  ", b"000")
        image = os.pread(raw.fd, raw.size_bytes, 0)
        at = image.index(first)
        slot, second = image[at : at + 32], image.index(b"OUTPUT  001")
        os.pwrite(raw.fd, b"OUTPUT  001" + slot[11:], second)
    with pytest.raises(DiskError, match="packs on the data disk claim more"):
        deliver(disk, make_job(home))


def test_packs_in_too_many_pieces_are_refused(
    disk: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece takes memory, and there may be 1,000 packs."""
    monkeypatch.setattr(extract, "RUNS_MAX", 1)
    guest_writes(disk, EXITED, (file("a", 0, 2),), b"12")
    with raw_edit(disk, disk.parent) as raw:
        put_files(FatVolume.open(raw.fd, OFFSET_BYTES), {contract.OUTPUT_PACK % 1: b"34"})
    with pytest.raises(DiskError, match="more than 1 pieces"):
        deliver(disk, make_job(home))


def test_a_missing_index_is_an_error(disk: Path, home: Path) -> None:
    with pytest.raises(DiskError, match="has no 'vmcapsule/output.idx'"):
        deliver(disk, make_job(home))


def test_exit_records_are_read(disk: Path) -> None:
    guest_writes(disk, {**EXITED, "exit_code": 7})
    found = exit_of(disk)
    assert (found.exit_code, found.exit_signal, found.status) == (7, None, 7)
    assert found.user_cpu_s == 0.5 and found.phases_s == {"job": 1.0}


def test_a_signal_is_told_as_a_shell_tells_it(disk: Path) -> None:
    guest_writes(disk, {**EXITED, "exit_code": None, "exit_signal": 9})
    assert exit_of(disk).status == 137


def test_silence_is_not_success(disk: Path) -> None:
    guest_writes(disk, None)
    with pytest.raises(GuestError, match="no exit record"):
        exit_of(disk)


def test_a_guest_that_failed_says_why_in_one_line(disk: Path) -> None:
    failure = {"stage": "exec", "message": "no\nsuch\x1b[31m file"}
    guest_writes(disk, {**EXITED, "state": "failed", "failure": failure})
    with pytest.raises(GuestError) as caught:
        exit_of(disk)
    assert "(exec): no such\\x1b[31m file" in str(caught.value) and "\x1b" not in str(
        caught.value
    )


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"state": "fine"},
        {"exit_code": None},
        {"exit_signal": 9},
        {"exit_code": 256},
        {"exit_code": True},
        {"exit_code": -1},
        {"exit_code": None, "exit_signal": 0},
        {"exit_code": None, "exit_signal": 65},
        # Whoever ended by it, as the job did, would stop for ever.
        {"exit_code": None, "exit_signal": 19},
        {"exit_code": None, "exit_signal": 20},
        {"exit_code": None, "exit_signal": 17},
        {"exit_code": "0"},
        {"started_at_s": "now"},
        {"user_cpu_s": -1},
        {"max_rss_kib": float("inf")},
        {"phases": {"x": None}},
        {"phases": 3},
        {"missing_outputs": 3},
        {"unsent_outputs": ["x"]},
        {"unsent_outputs": [["x", 10**30]]},
        {"unsent_outputs": [["x", [13]]]},
        {"max_rss_kib": 10**400},
        {"outputs": None},
        {"outputs": {"entries": -1}},
    ],
)
def test_a_record_that_makes_no_sense_is_no_success(disk: Path, change: dict[str, Any]) -> None:
    guest_writes(disk, {**EXITED, **change})
    with pytest.raises(GuestError):
        exit_of(disk)


def test_a_record_that_is_not_json_is_no_success(disk: Path) -> None:
    with raw_edit(disk, disk.parent) as raw:
        put_files(FatVolume.open(raw.fd, OFFSET_BYTES), {contract.EXIT_RECORD: b"[" * 100_000})
    with pytest.raises(GuestError):
        exit_of(disk)


def test_a_program_that_did_not_start_is_told_with_its_errno(disk: Path) -> None:
    failure = {"stage": "exec", "message": "cannot start 'x'", "errno": 8}
    guest_writes(disk, {**EXITED, "state": "failed", "failure": failure})
    with pytest.raises(ExecFailed, match="could not be started: cannot start 'x'") as caught:
        exit_of(disk)
    assert (caught.value.number, caught.value.hold_code) == (8, 6)


@pytest.mark.parametrize(
    ("stage", "number"), [("exec", None), ("job", 8), ("exec", -1), ("exec", [8])]
)
def test_what_else_the_guest_could_not_do_is_not_the_programs_fault(
    stage: str, number: Any, disk: Path
) -> None:
    failure = {"stage": stage, "message": "m", "errno": number}
    guest_writes(disk, {**EXITED, "state": "failed", "failure": failure})
    with pytest.raises(GuestError) as caught:
        exit_of(disk)
    assert not isinstance(caught.value, ExecFailed)


def test_a_disk_that_has_grown_is_not_read(disk: Path) -> None:
    with pytest.raises(DiskError, match="claims 20971520 bytes, it left with 1048576"):
        with DataDisk(disk).opened(disk.parent, 1 << 20):
            pass


def test_a_damaged_disk_is_inspected_as_far_as_it_can_be_read(disk: Path) -> None:
    guest_writes(disk, EXITED, index=b"no index")
    found = inspect(disk, None)
    assert found["exit_record"]["exit_code"] == 0
    assert "line 1 of the index" in found["outputs"]["error"]
    shown = "\n".join(lines(found))
    assert "outputs: cannot be read" in shown and "exit_code = 0" in shown


ZEROS = bytes(300_000)
#: Grains of zeros are none on a sparse disk: before, between and behind what a file holds.
HOLEY = {"a": b"first", "b": ZEROS + b"x" + ZEROS, "c": ZEROS, "d": b"y" * 200_000, "e": ZEROS}


def holey_disk(folder: Path, form: str) -> Path:
    disk = make_disk(folder / "data.vmdk", form)
    entries, pack = [], b""
    for name, content in HOLEY.items():
        entries.append(file(name, len(pack), len(content)))
        pack += content
    guest_writes(disk, EXITED, tuple(entries), pack)
    return disk


@pytest.mark.parametrize("pieces_max", [1 << 18, 1])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "streamOptimized"])
def test_outputs_are_read_where_they_lie_in_a_disk_of_any_form(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, form: str, pieces_max: int
) -> None:
    """No program is started for it, unless the disk is in very many pieces."""
    disk = holey_disk(tmp_path, form)
    monkeypatch.setattr(vmdk, "PIECES_MAX", pieces_max)
    if pieces_max > 1 or form == "monolithicFlat":
        monkeypatch.setenv("PATH", "")
    assert deliver(disk, make_job(home)) == list(HOLEY)
    assert {path.name: path.read_bytes() for path in home.iterdir()} == HOLEY


@pytest.mark.parametrize("form", ["monolithicSparse", "twoGbMaxExtentSparse"])
def test_a_sparse_disk_that_was_cut_short_delivers_nothing(
    tmp_path: Path, home: Path, form: str
) -> None:
    disk = holey_disk(tmp_path, form)
    image = read_vmdk(disk).files[-1]
    for size in range(image.stat().st_size - 512, 0, -(128 << 10)):
        os.truncate(image, size)
        with pytest.raises(DiskError):
            deliver(disk, make_job(home))
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("directory", [(1 << 64) - 2, 1 << 60, 1 << 40, 1 << 20])
def test_a_sparse_disk_whose_tables_are_nowhere_delivers_nothing(
    tmp_path: Path, home: Path, directory: int
) -> None:
    """Nothing but `DiskError` may come of it: hooks and gc go on after that."""
    disk = holey_disk(tmp_path, "monolithicSparse")
    with disk.open("r+b") as image:
        image.seek(56)
        image.write(struct.pack("<Q", directory))
    with pytest.raises(DiskError):
        deliver(disk, make_job(home))
