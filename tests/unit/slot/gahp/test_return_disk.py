"""What a slot hands back holds the outputs and records, and costs what they cost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Mapping, Optional, Sequence

import pytest

from tests.unit.edits import make_data_disk, put_files, raw_edit
from tests.unit.returned import EXITED, file, make_job
from vmcapsule import contract
from vmcapsule.capsule import delivery
from vmcapsule.capsule.record import RETURNED, Capsule, save_source_ad
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.vmdk.vmdk import read_vmdk
from vmcapsule.errors import SpaceError
from vmcapsule.guest import extract
from vmcapsule.guest.exit_record import read_exit
from vmcapsule.slot.gahp.return_disk import write_return
from vmcapsule.transfer.index import dump_index

MIB = 1 << 20


class Run:
    """A capsule in a slot whose guest has left ``output``: in pieces where little is free."""

    #: What else the guest leaves.
    leaves: Mapping[str, bytes] = {}
    folders: Sequence[str] = ()
    is_full = False

    def __init__(
        self, folder: Path, output: bytes, *, size: int = 64 * MIB, offset: Optional[int] = None
    ) -> None:
        self.folder, self.output, self.job = folder, output, make_job(folder)
        disk = make_data_disk(folder / "data.vmdk", size_bytes=size, offset_bytes=offset or MIB)
        self.made = Capsule(
            folder, disk, folder / "system.vmdk", size, 1, 64, part_offset_bytes=offset
        )
        save_source_ad(self.job.long_form(), folder)
        record = {**EXITED, "outputs": {"entries": 1, "packs": 1, "bytes": len(output)}}
        gaps = [f"{contract.RECORD_DIR}/gap{number}" for number in range(20)]
        files = {
            contract.OUTPUT_PACK % 0: output,
            contract.OUTPUT_INDEX: dump_index((file("made", 0, len(output)),)),
            contract.EXIT_RECORD: json.dumps(record).encode(),
            contract.GUEST_LOG: b"it ran\n",
            **self.leaves,
        }
        with raw_edit(disk, folder) as raw:
            volume = FatVolume.open(raw.fd, offset or MIB)
            put_files(volume, {contract.INPUT_PACK % 0: os.urandom(10 * MIB)})
            put_files(volume, dict.fromkeys(gaps, b"x" * 5000))
            if self.is_full:
                lay_out(volume, {"the rest": volume.free_bytes}).write()
            lay_out(volume, {}, folders=self.folders, remove=gaps[::2]).write()
            for name, data in files.items():
                put_files(FatVolume.open(raw.fd, offset or MIB), {name: data})

    def returned(self) -> Capsule:
        """The capsule as it is where it was made, with the disk that was handed back."""
        made = self.made
        (self.folder / RETURNED).mkdir()
        with DataDisk(made.data_disk, made.part_offset_bytes).opened(
            self.folder, made.data_bytes
        ) as volume:
            job_exit = read_exit(volume)
            outputs = extract.read_outputs(volume, job_exit)
            write_return(volume, outputs, made, self.folder / RETURNED)
        return made


def names(made: Capsule) -> set[str]:
    with DataDisk(made.returned_disk, made.part_offset_bytes).opened(made.folder) as volume:
        return {found.path for found in volume.walk() if not found.is_folder}


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 17])
@pytest.mark.parametrize("offset", [None, 32256])
def test_outputs_and_records_come_back_and_nothing_else(
    tmp_path: Path, size: int, offset: Optional[int]
) -> None:
    run = Run(tmp_path, os.urandom(size), offset=offset)
    made = run.returned()
    assert made.returned_disk != made.data_disk
    assert names(made) == {
        contract.OUTPUT_PACK % 0,
        contract.OUTPUT_INDEX,
        contract.EXIT_RECORD,
        contract.GUEST_LOG,
    }
    delivery.deliver_from(made, run.job)
    assert (tmp_path / "made").read_bytes() == run.output


def test_outputs_that_lie_in_pieces_come_back_whole(tmp_path: Path) -> None:
    class Full(Run):
        is_full = True

    run = Full(tmp_path, os.urandom(30_000))
    with DataDisk(run.made.data_disk).opened(tmp_path) as volume:
        pack = volume.lookup(contract.OUTPUT_PACK % 0)
    assert pack is not None and len(pack.extents) > 5
    delivery.deliver_from(run.returned(), run.job)
    assert (tmp_path / "made").read_bytes() == run.output


@pytest.mark.parametrize("size", [64 * MIB, 100 << 30])
def test_it_costs_what_the_outputs_cost_however_large_the_disk_is(
    tmp_path: Path, size: int
) -> None:
    run = Run(tmp_path, os.urandom(4 * MIB), size=size)
    returned = [path.stat() for path in run.returned().returned_disk.parent.iterdir()]
    assert sum(each.st_size for each in returned) <= 6 * MIB
    assert sum(each.st_blocks * 512 for each in returned) <= 6 * MIB


def test_it_is_never_larger_than_the_disk_that_left(tmp_path: Path) -> None:
    run = Run(tmp_path, b"x" * (45 * MIB))
    disk = read_vmdk(run.returned().returned_disk)
    assert disk.capacity_bytes <= run.made.data_bytes


def test_logs_that_no_guest_of_ours_writes_stay_there(tmp_path: Path) -> None:
    class Rude(Run):
        folders = (contract.CONDOR_LOG,)
        leaves = {
            contract.GUEST_LOG: b"x" * (contract.LOG_BYTES_MAX + 1),
            f"{contract.RECORD_DIR}/more": b"not asked for",
        }

    found = names(Rude(tmp_path, b"out").returned())
    assert found == {contract.OUTPUT_PACK % 0, contract.OUTPUT_INDEX, contract.EXIT_RECORD}


def test_outputs_that_do_not_fit_leave_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, b"x" * (30 * MIB))
    # As if files that lie on top of each other claimed more than the disk has.
    smaller = run.made._replace(data_bytes=20 * MIB)
    (tmp_path / "out").mkdir()
    with DataDisk(run.made.data_disk).opened(tmp_path) as volume:
        with pytest.raises(SpaceError):
            write_return(volume, extract.read_outputs(volume), smaller, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
