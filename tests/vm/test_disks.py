"""The same job over every form of data disk, with the partition old and new."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Callable

import pytest

from tests.unit.edits import put_files, raw_edit
from vmcapsule import process
from vmcapsule.disk.empty_disk import build_data_disk
from vmcapsule.disk.extents import write_extents
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.vmdk.vmdk import create_vmdk, raw_view, read_vmdk
from vmcapsule.template.template import Template

from .conftest import Outcome

pytestmark = pytest.mark.vm
Run = Callable[..., Outcome]

FORMS = [
    "monolithicFlat",
    "monolithicSparse",
    "streamOptimized",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
]


def with_data_disk(template: Template, root: Path, form: str, offset_bytes: int) -> Path:
    """A template like ``template`` with another data disk; return its VM_CAPSULE_TEMPLATE."""
    folder = root / "condor_vm_capsule"
    folder.mkdir(parents=True)
    for path in template.folder.iterdir():
        if not path.name.startswith("data"):
            os.link(path, folder / path.name)
    raw = root / "data.raw"
    # Over 2 GiB, so that the split forms are split.
    build_data_disk(raw, size_bytes=3 << 30, offset_bytes=offset_bytes)
    create_vmdk(raw, folder / "data.vmdk", form)
    raw.unlink()
    return root


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()}


@pytest.mark.parametrize("offset_bytes", [32256, 1048576])
@pytest.mark.parametrize("form", FORMS)
def test_a_job_runs_from_any_data_disk(
    run_job: Run, template: Template, tmp_path: Path, form: str, offset_bytes: int
) -> None:
    root = with_data_disk(template, tmp_path / "templates", form, offset_bytes)
    before = snapshot(root / "condor_vm_capsule")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "in.txt").write_text("fed\n")
    # Both runners, over all the forms and offsets.
    runner = "condor" if offset_bytes == 32256 else "direct"
    done = run_job(
        "cat; echo 'ü' >'made:here'; mkdir plots; echo \"$1\" >plots/p.svg\n"
        "dd if=/dev/urandom bs=1M count=30 of=blob 2>/dev/null; sha256sum blob; exit 7",
        "input = in.txt\narguments = \"'it''s two words'\"\n"
        "transfer_output_files = made:here, plots, blob",
        "--runner",
        runner,
        "--keep",
        TEMPLATE=root,
        DISK_PART_OFFSET=offset_bytes,
    )
    assert done.status == 7, done.stderr
    assert done.read("made:here") == "ü\n"
    assert done.read("plots/p.svg") == "it's two words\n"
    digest = process.run(["sha256sum", "blob"], timeout_s=60, cwd=done.folder).stdout.decode()
    assert done.read("out") == "fed\n" + digest
    # The template is as it was, and the returned disk is clean.
    assert snapshot(root / "condor_vm_capsule") == before
    capsule = Path(done.record["capsule"])
    assert read_vmdk(capsule / "data.vmdk").form == "monolithicFlat"
    assert_clean(capsule / "data.vmdk", offset_bytes, tmp_path)


def assert_clean(disk: Path, offset_bytes: int, scratch: Path) -> None:
    """``fsck.vfat`` finds nothing to mend in the partition (it cannot be told an offset)."""
    with raw_view(disk, scratch) as raw:
        volume = scratch / "volume.raw"
        process.run(
            ["dd", f"if={raw.path}", f"of={volume}", "bs=512", "conv=sparse"]
            + [f"skip={offset_bytes // 512}"],
            timeout_s=300,
        )
    process.run(["fsck.vfat", "-n", volume], timeout_s=300)


def test_linux_reads_what_we_write(run_job: Run, template: Template, tmp_path: Path) -> None:
    """Names of all kinds and sizes around a cluster's, by the kernel's own vfat."""
    root = with_data_disk(template, tmp_path / "templates", "monolithicFlat", 1 << 20)
    names = [
        "README.TXT",
        "readme.md",
        "Mixed Case",
        "a.b.c",
        ".hidden",
        "+,;=[]",
        "ümläut é",
        "語漢字",
        "\U0001f600",
        "straße",
        "x" * 255,
        *(f"a long name, number {n}" for n in range(300)),
        "deep/" * 20 + "file",
    ]
    sizes = (0, 1, 511, 512, 4095, 4096, 4097, 32767, 32768, 32769, 200_000)
    files = {f"odd/{name}": os.urandom(sizes[n % 11]) for n, name in enumerate(names)}
    with raw_edit(root / "condor_vm_capsule" / "data.vmdk", tmp_path) as raw:
        put_files(
            FatVolume.open(raw.fd, 1 << 20),
            {f"odd/removed {n}": b"x" * 40_000 for n in range(9)},
        )
        volume = FatVolume.open(raw.fd, 1 << 20)
        layout = lay_out(
            volume,
            {path: len(data) for path, data in files.items()},
            remove=[f"odd/removed {n}" for n in range(0, 9, 2)],
        )
        for path, extents in layout.places():
            write_extents(raw.fd, extents, files[path])
        layout.write()
    files.update({f"odd/removed {n}": b"x" * 40_000 for n in range(1, 9, 2)})
    script = 'here=$PWD; cd /condor-data && tar cf "$here/odd.tar" odd'
    done = run_job(script, "", "--runner", "direct", TEMPLATE=root)
    assert done.status == 0, done.stderr
    with tarfile.open(done.folder / "odd.tar") as archive:
        found = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    assert found == files


def test_a_wrong_offset_is_explained(run_job: Run, template: Template, tmp_path: Path) -> None:
    done = run_job("exit 0", "", "--runner", "direct", DISK_PART_OFFSET=32256)
    assert done.status == 67
    assert "32256" in done.stderr and "1048576" in done.stderr
    assert "VM_CAPSULE_DISK_PART_OFFSET" in done.stderr


def test_a_template_with_a_small_data_disk_takes_a_large_job(
    run_job: Run, template: Template, tmp_path: Path
) -> None:
    root = tmp_path / "templates"
    folder = root / "condor_vm_capsule"
    folder.mkdir(parents=True)
    for path in template.folder.iterdir():
        if not path.name.startswith("data"):
            os.link(path, folder / path.name)
    raw = root / "data.raw"
    build_data_disk(raw, size_bytes=32 << 20, offset_bytes=1 << 20)
    create_vmdk(raw, folder / "data.vmdk", "monolithicFlat")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "big").write_bytes(os.urandom(40 << 20))
    script = "cmp big big && cat big big >twice"
    done = run_job(script, "transfer_input_files = big", "--runner", "direct", TEMPLATE=root)
    assert done.status == 0, done.stderr
    assert (done.folder / "twice").stat().st_size == 80 << 20
