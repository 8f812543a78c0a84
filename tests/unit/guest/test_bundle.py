"""What is staged on the data disk is what the job needs, and nothing of an earlier one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.unit.edits import put_files, raw_edit, stage_onto
from vmcapsule import contract, process
from vmcapsule.classad.ads import parse_ad
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.empty_disk import build_data_disk
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.vmdk.vmdk import create_vmdk, raw_view
from vmcapsule.errors import ConfigError, DiskError, InputError, TooLarge
from vmcapsule.guest import bundle, extract, staging
from vmcapsule.guest.exit_record import read_record
from vmcapsule.guest.script import joined
from vmcapsule.job.source import SourceJob, read_job
from vmcapsule.resources import resource
from vmcapsule.template.tarball import HTCondorTarball

OFFSET_BYTES = 32256
INIT = resource("guest/condor-init.py")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    build_data_disk(raw, size_bytes=16 << 20, offset_bytes=OFFSET_BYTES)
    create_vmdk(raw, tmp_path / "data.vmdk", "monolithicFlat")
    return tmp_path / "data.vmdk"


@pytest.fixture
def job(tmp_path: Path) -> SourceJob:
    iwd = tmp_path / "iwd"
    (iwd / "in").mkdir(parents=True)
    (iwd / "prog").write_text("#!/bin/sh\n")
    (iwd / "in/a:b").write_bytes(b"first")
    (iwd / "in/A").write_bytes(bytes(3 << 20) + b"second")
    return read_job(
        parse_ad(
            f'Iwd = "{iwd}"\nCmd = "prog"\nJobUniverse = 5\nTransferInput = "in"\n'
            'Arguments = "x \'y z\'"\nEnvironment = "A=1"\nOut = "o"\nOwner = "alice"\n'
        )
    )


def contents(disk: Path) -> dict[str, bytes]:
    """Every packed input, read back from the image."""
    with DataDisk(disk).opened(disk.parent) as volume:
        packed = extract.read_index(volume, contract.INPUT_INDEX, contract.INPUT_PACK)
        packs = [
            volume.read(contract.INPUT_PACK % number, 1 << 30)
            for number in range(len(packed.packs))
        ]
    found = {}
    for entry in packed.entries:
        data = bytearray(entry.size_bytes)
        for s in entry.stretches:
            data[s.offset : s.offset + s.length] = packs[s.pack][s.pack_offset :][: s.length]
        found[entry.path] = bytes(data)
    return found


def read(disk: Path, name: str) -> bytes:
    with DataDisk(disk).opened(disk.parent) as volume:
        return volume.read(name, 1 << 20)


def test_everything_the_guest_needs_is_on_the_disk(disk: Path, job: SourceJob) -> None:
    tarball = disk.parent / "condor-1.tar"
    tarball.write_bytes(b"archive")
    load = bundle.payload(job, init_script=INIT, tarball=HTCondorTarball(tarball, "1"))
    stage_onto(load, DataDisk(disk, OFFSET_BYTES))
    assert contents(disk) == {
        "prog": b"#!/bin/sh\n",
        "in": b"",
        "in/a:b": b"first",
        "in/A": bytes(3 << 20) + b"second",
    }
    assert read(disk, contract.INIT_SCRIPT) == joined(INIT)
    assert read(disk, contract.TARBALL) == b"archive"
    record = json.loads(read(disk, contract.JOB_RECORD))
    assert record["arguments"] == ["x", "y z"] and record["environment"]["A"] == "1"
    assert (record["runner"], record["condor_version"], record["user"]) == (
        "condor",
        "1",
        "alice",
    )
    assert (record["stdout"], record["stderr"]) == (contract.STDOUT, None)
    assert b'Cmd = "prog"' in read(disk, contract.JOB_AD)
    assert b"Cpus = 1\n" in read(disk, contract.MACHINE_AD)
    assert b"VMCAPSULE_HOME = /condor-1\n" in read(disk, contract.CONDOR_CONFIG)


def test_the_disk_is_clean_afterwards(disk: Path, job: SourceJob, tmp_path: Path) -> None:
    load = bundle.payload(job, init_script=INIT, tarball=None)
    stage_onto(load, DataDisk(disk))
    with raw_view(disk, tmp_path) as raw:
        process.run(
            ["dd", f"if={raw.path}", f"of={tmp_path / 'volume'}", "bs=512"]
            + [f"skip={OFFSET_BYTES // 512}"],
            timeout_s=60,
        )
    process.run(["fsck.vfat", "-n", tmp_path / "volume"], timeout_s=60)


def differing(one: bytes, other: bytes) -> list[int]:
    assert len(one) == len(other)
    return [at for at, (a, b) in enumerate(zip(one, other)) if a != b]


@pytest.mark.parametrize("is_sent", [True, False])
def test_how_often_a_job_was_started_is_told_where_the_disk_lies(
    disk: Path, job: SourceJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_sent: bool
) -> None:
    load = bundle.payload(job, init_script=INIT, tarball=None)
    stage_onto(load, DataDisk(disk), travels=is_sent)
    assert read(disk, contract.RUN_AD).strip() == b""
    # No qemu-img, nor any other program, where capsules are only booted.
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(process, "_search_path", lambda: str(tmp_path))
    file = DataDisk(disk).look().files[-1]
    before = file.read_bytes()
    for starts in (999_999, 12):
        staging.tell_starts(starts, DataDisk(disk))
        assert read(disk, contract.RUN_AD).split() == [b"NumJobStarts", b"=", b"%d" % starts]
    changed = differing(before, file.read_bytes())
    assert len(changed) <= changed[-1] - changed[0] + 1 <= len("NumJobStarts = 999999")
    assert b'Cmd = "prog"' in read(disk, contract.JOB_AD)


def test_a_file_keeps_its_size_when_it_is_overwritten(
    disk: Path, job: SourceJob, tmp_path: Path
) -> None:
    stage_onto(bundle.payload(job, init_script=INIT, tarball=None), DataDisk(disk))
    before = disk.with_name("data-flat.vmdk").read_bytes()
    for name, data in ((contract.RUN_AD, b"short"), ("none", b"x")):
        with pytest.raises(DiskError, match=f"'{name}'"):
            DataDisk(disk).overwrite(name, data)
    assert disk.with_name("data-flat.vmdk").read_bytes() == before


def test_records_of_an_earlier_run_are_removed(disk: Path, job: SourceJob) -> None:
    with raw_edit(disk, disk.parent) as raw:
        stale = (contract.EXIT_RECORD, contract.OUTPUT_PACK % 7, "CONDOR-INIT.PY")
        files = {**dict.fromkeys(stale, b"old"), "kept.txt": b"the template's own"}
        put_files(FatVolume.open(raw.fd, OFFSET_BYTES), files)
    stage_onto(bundle.payload(job, init_script=INIT, tarball=None), DataDisk(disk))
    with DataDisk(disk).opened(disk.parent) as volume:
        paths = {file.path for file in volume.walk()}
        assert read_record(volume) is None
    assert contract.OUTPUT_PACK % 7 not in paths and "kept.txt" in paths
    assert read(disk, contract.INIT_SCRIPT) == joined(INIT)


def test_too_small_a_disk_says_how_much_is_needed(disk: Path, job: SourceJob) -> None:
    before = disk.read_bytes()
    (job.iwd / "in/big").write_bytes(bytes(range(256)) * (80 << 10))
    load = bundle.payload(job, init_script=INIT, tarball=None)
    with pytest.raises(TooLarge) as caught:
        stage_onto(load, DataDisk(disk))
    needed = int(re.findall(r"need (\d+) bytes", str(caught.value))[0])
    assert 23 << 20 < needed < 25 << 20
    assert disk.read_bytes() == before


def test_a_file_that_shrinks_while_it_is_packed_is_an_error(disk: Path, job: SourceJob) -> None:
    load = bundle.payload(job, init_script=INIT, tarball=None)
    (job.iwd / "in/A").write_bytes(b"")
    with pytest.raises(InputError, match="in/A' changed while it was packed"):
        stage_onto(load, DataDisk(disk))


def test_a_file_that_vanishes_while_it_is_packed_is_an_error(
    disk: Path, job: SourceJob
) -> None:
    load = bundle.payload(job, init_script=INIT, tarball=None)
    (job.iwd / "in/A").unlink()
    with pytest.raises(InputError, match="in/A': No such file"):
        stage_onto(load, DataDisk(disk))


def test_a_missing_init_script_names_its_knob(job: SourceJob, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="VM_CAPSULE_INIT_SCRIPT_PATH"):
        bundle.payload(job, init_script=tmp_path / "gone", tarball=None)
