"""The tarball: its recipe, and that the same tree gives the same bytes."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from vmcapsule.errors import ToolError
from vmcapsule.images.tarball import LOADER, check_libraries, moved_string, pack, parse_list
from vmcapsule.resources import resource


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "condor-1.2.3"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/condor_rm").write_bytes(b"x" * 1000)
    (tree / "bin/condor_rm").chmod(0o755)
    (tree / "bin/condor_hold").symlink_to("condor_rm")
    return tree


def test_shipped_list_has_what_the_guest_starts() -> None:
    wish = parse_list(resource("templates/tarball.list").read_text())
    assert {"condor_master", "condor_startd", "condor_starter", "condor_procd"} <= set(
        wish.programs["sbin"]
    )
    assert {"condor_submit", "condor_version"} <= set(wish.programs["bin"])
    # The startd gives up where this one is missing.
    assert "condor_gpu_discovery" in wish.programs["libexec"]


def test_unknown_folder_is_named() -> None:
    with pytest.raises(ToolError, match="line 2 .*'etc'"):
        parse_list("bin a b # c\netc d\n")


@pytest.mark.parametrize("name", ["condor.tar", "condor.tar.gz"])
def test_same_tree_same_bytes(tree: Path, tmp_path: Path, name: str) -> None:
    first, second = tmp_path / f"1-{name}", tmp_path / f"2-{name}"
    pack(tree, first)
    for path in tree.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    pack(tree, second)
    assert first.read_bytes() == second.read_bytes()


def test_members(tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "condor.tar.gz")
    with tarfile.open(tmp_path / "condor.tar.gz", "r:gz") as archive:
        members = {member.name: member for member in archive}
    assert list(members) == [
        "condor-1.2.3",
        "condor-1.2.3/bin",
        "condor-1.2.3/bin/condor_hold",
        "condor-1.2.3/bin/condor_rm",
    ]
    program = members["condor-1.2.3/bin/condor_rm"]
    assert (program.size, program.mode, program.uid, program.mtime) == (1000, 0o755, 0, 0)
    assert members["condor-1.2.3/bin/condor_hold"].linkname == "condor_rm"


def test_plain_tar_is_not_compressed(tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "condor.tar")
    assert (tmp_path / "condor.tar").read_bytes()[257:262] == b"ustar"


def test_string_in_a_program_is_replaced_in_place() -> None:
    data = b"code\0/usr/lib/modules\0/usr/lib/modules.old\0"
    assert moved_string(data, "/usr/lib/modules", "/c/lib") == (
        b"code\0/c/lib" + b"\0" * 11 + b"/usr/lib/modules.old\0"
    )


@pytest.mark.parametrize("new", ["/a/longer/path", "/c"])
def test_string_that_cannot_be_replaced(new: str) -> None:
    with pytest.raises(ToolError, match="cannot become"):
        moved_string(b"code\0/usr/lib.old\0", "/usr/lib", new)


@pytest.mark.parametrize(
    "listed, lacks",
    [
        ("\tlibz.so.1 => {lib}/libz.so.1 (0x00007f2802f90000)\n", ""),
        ("\tlibz.so.1 => {bin}/../lib/libz.so.1 (0x00007f2802f90000)\n", ""),
        ("\tlibz.so.1 => not found\n", "libz.so.1"),
        # This machine's own.
        ("\tlibz.so.1 => /usr/lib/libz.so.1 (0x00007f2802f90000)\n", "libz.so.1"),
        ("\tlinux-vdso.so.1 (0x00007f2804095000)\n", "every library"),
        ("", "every library"),
    ],
)
def test_a_program_finds_its_libraries_in_the_tree(tree: Path, listed: str, lacks: str) -> None:
    (tree / "bin/condor_rm").write_bytes(b"\x7fELF")
    (tree / "lib").mkdir()
    text = listed.format(lib=tree / "lib", bin=tree / "bin")
    (tree / "lib" / LOADER).write_text(f"#!/bin/sh\nprintf '{text}'\n")
    (tree / "lib" / LOADER).chmod(0o755)
    if lacks:
        with pytest.raises(ToolError, match=f"'condor_rm' lacks {lacks};"):
            check_libraries(tree)
    else:
        check_libraries(tree)
