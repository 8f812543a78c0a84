"""Data disks and capsules as they come back from a guest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

from tests.unit.edits import put_files, raw_edit
from vmcapsule import contract, process
from vmcapsule.capsule import naming, states
from vmcapsule.capsule.record import Capsule, save_capsule, save_source_ad
from vmcapsule.capsule.states import State
from vmcapsule.classad.ads import Ad, parse_ad
from vmcapsule.disk.disk import Disk
from vmcapsule.disk.empty_disk import build_data_disk
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.vmdk.vmdk import create_vmdk
from vmcapsule.job.source import SourceJob, read_job
from vmcapsule.router.translate import Routed
from vmcapsule.transfer.entries import Entry, Stretch
from vmcapsule.transfer.index import dump_index

VMX = """\
ide0:0.present = "TRUE"
ide0:0.fileName = "system.vmdk"
ide0:1.present = "TRUE"
ide0:1.fileName = "data.vmdk"
"""
OFFSET_BYTES = 1 << 20
EXITED: dict[str, Any] = {
    "format": contract.FORMAT,
    "runner": "direct",
    "state": "exited",
    "exit_code": 0,
    "exit_signal": None,
    "core_dumped": False,
    "started_at_s": 1.0,
    "ended_at_s": 2.0,
    "user_cpu_s": 0.5,
    "system_cpu_s": 0.25,
    "max_rss_kib": 1024,
    "failure": None,
    "missing_outputs": [],
    "unsent_outputs": [],
    "outputs": {"entries": 0, "packs": 0, "bytes": 0},
    "phases": {"job": 1.0},
    "condor_ad": None,
    "guest": {"python": "3"},
}


def make_disk(path: Path, form: str = "monolithicFlat") -> Path:
    raw = path.with_name("raw")
    build_data_disk(raw, size_bytes=20 << 20, offset_bytes=OFFSET_BYTES)
    create_vmdk(raw, path, form)
    raw.unlink()
    return path


def guest_writes(
    disk: Path,
    record: Optional[dict[str, Any]],
    entries: tuple[Entry, ...] = (),
    pack: bytes = b"",
    index: Optional[bytes] = None,
) -> None:
    """What a guest leaves: an index, a pack, and (last) the exit record."""
    with raw_edit(disk, disk.parent) as raw:
        files = {contract.OUTPUT_INDEX: dump_index(entries) if index is None else index}
        if pack:
            files[contract.OUTPUT_PACK % 0] = pack
        if record is not None:
            files[contract.EXIT_RECORD] = json.dumps(record).encode()
        put_files(FatVolume.open(raw.fd, OFFSET_BYTES), files)


def file(path: str, at: int, length: int, mode: int = 0o644) -> Entry:
    stretches = (Stretch(0, length, 0, at),) if length else ()
    return Entry(path, "file", mode, 0, length, stretches)


def make_job(home: Path, **attributes: str) -> SourceJob:
    lines = {"Iwd": f'"{home}"', "Cmd": '"/bin/true"', "JobUniverse": "5", **attributes}
    return read_job(parse_ad("\n".join(f"{name} = {text}" for name, text in lines.items())))


def make_capsule(
    scratch: Path, job: SourceJob, outputs: dict[str, bytes], kind: str = naming.ROUTED
) -> Capsule:
    """A capsule whose guest has run ``job`` and left ``outputs``."""
    folder = scratch / naming.new_name(kind, job.job_id, job.global_job_id)
    folder.mkdir(parents=True)
    disk = make_disk(folder / "data.vmdk")
    made = Capsule(
        folder, disk, folder / "system.vmdk", 20 << 20, 1, 64,
        job_id=job.job_id, global_job_id=job.global_job_id,
    )  # fmt: skip
    entries, pack = [], b""
    for name, content in outputs.items():
        entries.append(file(name, len(pack), len(content)))
        pack += content
    record = {**EXITED, "outputs": {"entries": len(entries), "packs": 1, "bytes": len(pack)}}
    guest_writes(disk, record, tuple(entries), pack)
    save_source_ad(job.long_form(), folder)
    save_capsule(made, folder)
    return made


def put_redo_log(made: Capsule, folder: Path) -> Path:
    """Have all that its guest wrote be in a redo log in ``folder``, which VMware makes so."""
    whole = made.folder / "whole"
    convert = ["qemu-img", "convert", "-O"]
    process.run([*convert, "raw", "-f", "vmdk", made.data_disk, whole], timeout_s=60)
    for path in Disk.at(made.data_disk).files:
        path.unlink()
    make_disk(made.data_disk, "monolithicSparse")
    folder.mkdir(exist_ok=True)
    log = folder / "data-000001.vmdk"
    over = ["-B", made.data_disk, "-F", "vmdk"]
    process.run([*convert, "vmdk", "-f", "raw", *over, whole, log], timeout_s=60)
    whole.unlink()
    return log


def make_arrived(home: Path) -> Capsule:
    """A capsule that has come to where it is run; its guest has run already, if QEMU ends."""
    made = make_capsule(home / "scratch", make_job(home), {"out": b"x" * 99})
    (home / "system").write_bytes(bytes(1 << 20))
    create_vmdk(home / "system", made.system_disk, "monolithicSparse")
    return made


def put_into(made: Capsule, state: State) -> None:
    """Bring a capsule that has run into a state as a delivery does."""
    states.enter(made.folder, State.DELIVERING)
    if state is not State.DELIVERING:
        states.enter(made.folder, state)


def small_template(folder: Path) -> dict[str, str]:
    """Make a template without a kernel, and a tarball; return the knobs that name them."""
    template = folder / "template" / "condor_vm_capsule"
    template.mkdir(parents=True)
    (template / "vm.vmx").write_text(VMX)
    build_data_disk(folder / "data", size_bytes=16 << 20, offset_bytes=OFFSET_BYTES)
    create_vmdk(folder / "data", template / "data.vmdk", "monolithicFlat")
    (folder / "system").write_bytes(bytes(1 << 20))
    create_vmdk(folder / "system", template / "system.vmdk", "monolithicSparse")
    (folder / "condor-1.0.tar").write_bytes(b"staged, not looked into")
    return {
        "VM_CAPSULE_TEMPLATE": str(folder / "template"),
        "VM_CAPSULE_SCRATCH_DIR_PREFIX": str(folder / "scratch"),
        "VM_CAPSULE_CACHE_DIR": str(folder / "cache"),
        "VM_CAPSULE_CONDOR_TARBALL": str(folder / "condor-1.0.tar"),
    }


def with_capsule(done: Routed) -> tuple[Ad, Capsule]:
    """A routed ad and its capsule, of a kind that has one."""
    assert done.capsule is not None
    return done.ad, done.capsule
