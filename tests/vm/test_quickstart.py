"""The quick-start's way by hand, with what a real JobRouter sent its hooks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vmcapsule import process
from vmcapsule.classad.ads import parse_ad
from vmcapsule.template.template import Template

from .conftest import TIMEOUT_S, vmcapsule

pytestmark = pytest.mark.vm
RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "jobrouter-23.9.6"

ANALYSE = """\
#!/bin/sh
set -e
printf '[%s]' "$@"; echo
echo "RUN=$RUN TITLE=$TITLE EMPTY=${EMPTY-unset}"
cat                                  # numbers.txt
cat config.json a.csv b.csv readings.csv >summary.txt
mkdir plots && echo plot >plots/p.svg
echo noise >unlisted
echo trouble >&2
exit 3
"""

VMWARE_ATTRIBUTES = {
    "JobVMType": '"vmware"',
    "VMPARAM_VMware_Transfer": "true",
    "VMPARAM_VMware_SnapshotDisk": "false",
    "ShouldTransferFiles": '"YES"',
    "WhenToTransferOutput": '"ON_EXIT"',
    "JobUniverse": "13",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The recording pool's /home/alice, filled with what its job read."""
    home = tmp_path / "alice"
    for name, text in {
        "analyse.sh": ANALYSE,
        "numbers.txt": "1\n2\n",
        "config.json": "{}\n",
        "tables/a.csv": "a\n",
        "tables/b.csv": "b\n",
        "data/readings.csv": "readings\n",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    (home / "analyse.sh").chmod(0o755)
    return home


def recorded(name: str, home: Path) -> str:
    """What was recorded; its route made vanilla jobs, and this one is to make VMware's."""
    text = (RECORDED / name).read_text().replace("/home/alice", str(home))
    return text.replace("TargetUniverse = 5 ]", "TargetUniverse = 13 ]")


def test_translate_boot_finalize(home: Path, tmp_path: Path, template: Template) -> None:
    knobs = {
        "SCRATCH_DIR_PREFIX": tmp_path / "scratch",
        "TRANSLATE_LOG": tmp_path / "translate.log",
        "EXIT_LOG": tmp_path / "exit.log",
    }
    before = {p.name: p.stat().st_mtime_ns for p in template.folder.iterdir()}
    done = vmcapsule(
        "translate", folder=tmp_path, stdin=recorded("translate.stdin", home), **knobs
    )
    assert done.status == 0, done.stderr
    import classad2

    ad = classad2.parseOne(done.stdout)
    for name, expression in VMWARE_ATTRIBUTES.items():
        assert str(ad.lookup(name)) == expression, name
    folder = Path(ad["VMPARAM_VMware_Dir"])
    disks = ad["VMPARAM_VMware_VMDK_Files"].split(",")
    assert disks == ["data.vmdk", "system.vmdk"]
    # It travels: what HTCondor would transfer is what is in it, not the disk's capacity.
    slot = transferred(ad["TransferInput"], tmp_path / "slot")
    assert sum((slot / name).stat().st_size for name in disks) < 400 << 20
    assert template.kernel is not None and template.initrd is not None
    booted_with = {"capsule.json", template.kernel.name, template.initrd.name}
    expected = {*disks, ad["VMPARAM_VMware_VMX_File"], *booted_with}
    assert {p.name for p in slot.iterdir()} == expected
    assert sorted(p.name for p in folder.glob("*.vmdk")) == ["data.vmdk"], "nothing is copied"
    assert ad["JobVMMemory"] >= 64
    assert ad["ProjectName"] == "demo" and "WantJobRouter" not in ad
    assert {p.name: p.stat().st_mtime_ns for p in template.folder.iterdir()} == before

    # As VMware would: the disks that came along, from the boot sector, on a plain machine.
    boot_from_disk(slot)
    assert {p.name: p.stat().st_mtime_ns for p in template.folder.iterdir()} == before
    for name in disks:  # without a snapshot they come back to where the job was submitted
        shutil.copyfile(slot / name, folder / name)
    source, _, routed = recorded("finalize.stdin", home).partition("\n------\n")
    # The recorded routed job was a vanilla copy; ours is the ad that translate made.
    done = vmcapsule(
        "finalize", folder=tmp_path, stdin=f"{source}\n------\n{done.stdout}", **knobs
    )
    assert done.status == 0, done.stderr
    exit_ad = parse_ad(done.stdout)
    assert exit_ad.integer("ExitCode") == 3
    assert exit_ad.boolean("ExitBySignal") is False
    assert (home / "results/summary-11.txt").read_text() == "{}\na\nb\nreadings\n"
    assert (home / "plots/p.svg").read_text() == "plot\n"
    assert (home / "run.out").read_text() == (
        "[--label][two words][--quote][it's][plain][0]\nRUN=42 TITLE=a b EMPTY=\n1\n2\n"
    )
    assert (home / "run.err").read_text() == "trouble\n"
    assert not (home / "unlisted").exists() and not (home / "summary.txt").exists()
    assert "job 11.0: translated" in (tmp_path / "translate.log").read_text()
    assert "job 11.0: delivered" in (tmp_path / "exit.log").read_text()


def transferred(files: str, slot: Path) -> Path:
    """What HTCondor's file transfer leaves in the slot's folder."""
    slot.mkdir()
    for file in map(Path, files.split(",")):
        shutil.copyfile(file, slot / file.name)
    return slot


def boot_from_disk(folder: Path) -> None:
    """Plain QEMU, its default machine, no kernel given: what VMware and libvirt do."""
    disks = [folder / "system.vmdk", folder / "data.vmdk"]
    subprocess.run(
        [process.find("qemu-system-x86_64"), "-display", "none", "-no-reboot", "-m", "512"]
        + ["-nic", "none", "-serial", f"file:{folder / 'console.log'}"]
        + [arg for disk in disks for arg in ("-drive", f"file={disk}")],
        check=True,
        timeout=TIMEOUT_S,
    )


def test_inspect_shows_what_came_and_what_went(home: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    made = vmcapsule(
        "translate",
        folder=tmp_path,
        stdin=recorded("translate.stdin", home),
        SCRATCH_DIR_PREFIX=scratch,
    )
    (capsule,) = scratch.iterdir()
    before = vmcapsule("inspect", capsule, folder=tmp_path)
    assert "exit record: none" in before.stdout and "analyse.sh" in before.stdout
    # Silence is not success: nothing ran yet.
    source, _, _ = recorded("finalize.stdin", home).partition("\n------\n")
    early = vmcapsule("finalize", folder=tmp_path, stdin=f"{source}\n------\n{made.stdout}")
    assert early.status == 0 and "no exit record" in early.stderr
    assert parse_ad(early.stdout).integer("ExitCode") == 76
    assert "no exit record" in (parse_ad(early.stdout).string("ExitReason") or "")
    assert "vmcapsule extract" in (home / "run.log.vmcapsule").read_text()
    booted = vmcapsule("boot", "--timeout", TIMEOUT_S, capsule, folder=tmp_path)
    assert booted.status == 0, booted.stderr
    after = vmcapsule("inspect", capsule, folder=tmp_path)
    assert "exit_code = 3" in after.stdout and "plots/p.svg" in after.stdout
    assert max(len(line) for line in before.stdout.splitlines()) < 160
    delivered = vmcapsule("extract", capsule, folder=tmp_path)
    assert delivered.status == 0 and "exit code 3" in delivered.stdout
    assert (home / "results/summary-11.txt").exists()
