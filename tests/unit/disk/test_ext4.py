"""Empty ext4 file systems, judged by e2fsprogs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from vmcapsule.disk.ext4 import GROUP_BYTES, SIZE_BYTES_MAX, format_ext4

UUID = bytes(range(16))
GIB = 1 << 30


def formatted(path: Path, size_bytes: int) -> Path:
    with path.open("wb+") as file:
        file.truncate(size_bytes)
        format_ext4(file.fileno(), size_bytes, "CONDOR-SCRATCH", UUID)
    return path


def told(*argv: object) -> str:
    """What a program of e2fsprogs says; it must find nothing wrong."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# One group; copies in groups that are powers; a second block of descriptors, and many.
@pytest.mark.parametrize("groups", [1, 2, 3, 10, 50, 128, 129, 400])
def test_e2fsck_finds_nothing_to_complain_of(tmp_path: Path, groups: int) -> None:
    image = formatted(tmp_path / "image", groups * GROUP_BYTES)
    told("e2fsck", "-f", "-n", image)
    told_of = told("dumpe2fs", "-h", image)
    fields = dict(re.findall(r"^(.*?): +(.*)$", told_of, re.MULTILINE))
    assert fields["Filesystem volume name"] == "CONDOR-SCRATCH"
    assert fields["Filesystem state"] == "clean"
    assert int(fields["Block count"]) * 4096 == groups * GROUP_BYTES
    assert int(fields["Free inodes"]) == groups * 8192 - 11


def test_it_costs_next_to_nothing_on_the_host(tmp_path: Path) -> None:
    image = formatted(tmp_path / "image", 160 * GROUP_BYTES)
    assert image.stat().st_size == 20 * GIB
    assert image.stat().st_blocks * 512 < 1 << 20


def test_what_is_written_there_can_be_read(tmp_path: Path) -> None:
    """debugfs fills groups that were not filled in, and e2fsck is content with it."""
    image = formatted(tmp_path / "image", 3 * GROUP_BYTES)
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.write(os.urandom(1 << 20))
        file.seek(200 << 20)
        file.write(b"x" * (60 << 20))
    for command in ("mkdir a", f"write {big} a/b", f"write {big} c"):
        told("debugfs", "-w", "-R", command, image)
    told("e2fsck", "-f", "-n", image)
    told("debugfs", "-R", f"dump a/b {tmp_path / 'back'}", image)
    assert (tmp_path / "back").read_bytes() == big.read_bytes()


@pytest.mark.parametrize("size_bytes", [0, GROUP_BYTES - 4096, -GROUP_BYTES, 1 << 50])
def test_other_sizes_are_refused(tmp_path: Path, size_bytes: int) -> None:
    with (tmp_path / "image").open("wb") as file:
        with pytest.raises(ValueError, match="no ext4 file system of"):
            format_ext4(file.fileno(), size_bytes, "", UUID)


def test_the_largest_has_room_for_its_descriptors(tmp_path: Path) -> None:
    image = formatted(tmp_path / "image", SIZE_BYTES_MAX // 8 // GROUP_BYTES * GROUP_BYTES)
    assert "clean" in told("dumpe2fs", "-h", image)
