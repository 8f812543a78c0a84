"""The initrd is what cpio(1) and the kernel can read."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from vmcapsule import process
from vmcapsule.images.initrd import CpioEntry, build_initrd, cpio
from vmcapsule.images.modules import parse_wishes

ENTRIES = [
    CpioEntry("dev", stat.S_IFDIR | 0o755),
    CpioEntry("init", stat.S_IFREG | 0o755, b"#!/bin/sh\nodd length\n"),
    CpioEntry("sh", stat.S_IFLNK | 0o777, b"busybox"),
    CpioEntry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
]


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    target = tmp_path / "unpacked"
    target.mkdir()
    process.run(["cpio", "-id", "--quiet"], cwd=target, stdin=cpio(ENTRIES[:3]), timeout_s=20)
    return target


def test_cpio_unpacks_it(unpacked: Path) -> None:
    assert (unpacked / "dev").is_dir()
    assert (unpacked / "init").read_bytes() == ENTRIES[1].data
    assert (unpacked / "init").stat().st_mode & 0o7777 == 0o755
    assert str((unpacked / "sh").readlink()) == "busybox"


def test_cpio_lists_the_device_node() -> None:
    said = process.run(["cpio", "-tv", "--quiet"], stdin=cpio(ENTRIES), timeout_s=20).stdout
    node = next(line for line in said.decode().splitlines() if "console" in line)
    assert node.startswith("crw-------")
    assert "5,   1" in node


def test_every_part_is_aligned() -> None:
    data = cpio([CpioEntry("a" * n, stat.S_IFREG | 0o644, b"x" * n) for n in range(1, 9)])
    assert len(data) % 4 == 0
    at = -1
    for _ in range(9):
        at = data.index(b"070701", at + 1)
        assert at % 4 == 0


def test_same_entries_same_bytes() -> None:
    assert cpio(ENTRIES) == cpio(list(ENTRIES))


def test_only_wanted_modules_are_in_it(tmp_path: Path) -> None:
    modules = tmp_path / "6.1"
    (modules / "kernel").mkdir(parents=True)
    for name in ("vfat", "fat", "sound"):
        (modules / "kernel" / f"{name}.ko").write_bytes(b"\x7fELF " + name.encode())
    (modules / "modules.dep").write_text(
        "kernel/vfat.ko: kernel/fat.ko\nkernel/fat.ko:\nkernel/sound.ko:\n"
    )
    (modules / "modules.alias").write_text("")
    data = build_initrd(modules, b"BUSYBOX", b"#!init", parse_wishes("always vfat"))
    assert b"\x7fELF vfat" in data
    assert b"\x7fELF fat" in data
    assert b"sound" not in data
    assert b"BUSYBOX" in data
    assert b"load fat vfat" in data
