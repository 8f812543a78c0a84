"""The disk that a job's folder lies on in the guest: as large as the job was promised."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.guest_place import load_guest
from vmcapsule import contract
from vmcapsule.errors import TooLarge
from vmcapsule.guest.work_disk import FROM_BYTES, raw_work_disk, work_bytes_for
from vmcapsule.job.source import DEFAULT_DISK_KIB

GIB = 1 << 30
#: What ext4 keeps for itself of the free blocks, to write back what it promised.
KEPT_BYTES = 4096 * 4096


def test_a_job_that_requests_little_has_no_disk_of_its_own() -> None:
    assert work_bytes_for(3, 1 << 20, DEFAULT_DISK_KIB << 10) == 0
    assert work_bytes_for(3, 0, FROM_BYTES) > FROM_BYTES


def fields(image: Path) -> dict[str, int]:
    argv = ["dumpe2fs", "-h", str(image)]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^(Free blocks|Free inodes|Block size): +(\d+)$", text, re.MULTILINE)
    return {name: int(value) for name, value in found}


@given(
    files=st.integers(0, 10**6),
    carried=st.integers(0, 1 << 40),
    request=st.integers(0, 1 << 40),
)
def test_it_has_room_for_the_inputs_and_for_what_is_requested(
    files: int, carried: int, request: int
) -> None:
    size_bytes = work_bytes_for(files, carried, request)
    needed = files * 4096 + carried + request
    if size_bytes == 0:
        assert needed <= FROM_BYTES
        return
    groups = size_bytes >> 27
    copies = [g for g in range(groups) if g < 2 or any(is_power(g, n) for n in (3, 5, 7))]
    # Inodes, bitmaps, the two folders; superblocks and the directory of groups.
    overhead = groups * (514 * 4096) + 8192 + len(copies) * (groups // 128 + 2) * 4096
    assert size_bytes - overhead - KEPT_BYTES >= needed
    assert groups * 8192 - 11 >= files


def is_power(number: int, base: int) -> bool:
    return base ** round(math.log(number, base)) == number


@pytest.mark.parametrize("request_gib", [2, 3, 12, 100, 1000])
@pytest.mark.parametrize("files", [1, 100_000])
def test_df_says_so(tmp_path: Path, request_gib: int, files: int) -> None:
    carried = 3 << 30
    size_bytes = work_bytes_for(files, carried, request_gib * GIB)
    with raw_work_disk(tmp_path, size_bytes) as image:
        assert image is not None
        found = fields(image)
        assert image.stat().st_blocks * 512 < 16 << 20
        device = load_guest().find_disk(contract.WORK_LABEL, [str(image)])
    free = found["Free blocks"] * found["Block size"] - KEPT_BYTES
    assert free - carried - files * 4096 >= request_gib * GIB
    assert found["Free inodes"] > files + request_gib * 65536 // 2
    assert device == str(image), "by its label the guest finds it"
    assert list(tmp_path.iterdir()) == [], "nothing of it is left"


def test_no_disk_is_made_for_a_job_that_needs_none(tmp_path: Path) -> None:
    with raw_work_disk(tmp_path, 0) as image:
        assert image is None and list(tmp_path.iterdir()) == []


def test_more_than_a_disk_can_be_is_refused() -> None:
    with pytest.raises(TooLarge, match="requests"):
        work_bytes_for(1, 0, 1 << 50)


def test_the_guest_passes_over_other_disks(tmp_path: Path) -> None:
    other, short = tmp_path / "other", tmp_path / "short"
    other.write_bytes(bytes(4096))
    short.write_bytes(b"x")
    paths = [str(tmp_path / "gone"), str(other), str(short), str(tmp_path)]
    assert load_guest().find_disk(contract.WORK_LABEL, paths) is None
