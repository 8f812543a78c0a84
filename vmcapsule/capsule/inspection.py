"""What is on a data disk, for a person who wants to know."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional

from vmcapsule import contract
from vmcapsule.capsule.record import load_capsule
from vmcapsule.capsule.returned import returned_disk
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import UsageError, VmCapsuleError, escaped
from vmcapsule.guest import extract
from vmcapsule.guest.exit_record import read_record
from vmcapsule.transfer.entries import FOLDER, LINK, Entry


def inspect(where: Path, offset_bytes: Optional[int]) -> dict[str, Any]:
    """Describe a capsule's data disk (or a bare data.vmdk): files, packs, record, log.

    Everything in it was written by a guest: text is escaped when it is shown.
    """
    if where.is_dir():
        disk = returned_disk(load_capsule(where))
    elif where.is_file():
        disk = DataDisk(where, offset_bytes)
    else:
        raise UsageError(
            f"there is no capsule '{where}'", "name a capsule's folder or a data.vmdk"
        )
    with tempfile.TemporaryDirectory(prefix="vmcapsule-") as scratch:
        with disk.opened(Path(scratch)) as volume:
            return {
                "data_disk": str(disk.path),
                "free_bytes": volume.free_bytes,
                **{name: _section(read, volume) for name, read in _SECTIONS.items()},
            }


def _section(read: Callable[[FatVolume], Any], volume: FatVolume) -> Any:
    """What one reader finds; a damaged disk is looked at for what can still be read."""
    try:
        return read(volume)
    except VmCapsuleError as error:
        return {"error": error.message}


def _files(volume: FatVolume) -> list[dict[str, Any]]:
    return [
        {"path": file.path, "size": file.size_bytes}
        for file in volume.walk()
        if not file.is_folder
    ]


def _packed(volume: FatVolume, index: str, pack: str) -> Optional[list[dict[str, Any]]]:
    if volume.lookup(index) is None:
        return None
    return [_entry(entry) for entry in extract.read_index(volume, index, pack).entries]


def _entry(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {
        "path": entry.path,
        "type": entry.kind,
        "mode": f"{entry.mode:04o}",
        "size": entry.size_bytes,
    }
    if entry.kind == LINK:
        found["target"] = entry.target
    return found


def _log(volume: FatVolume, name: str) -> Optional[str]:
    if volume.lookup(name) is None:
        return None
    return volume.read(name, contract.LOG_BYTES_MAX).decode(errors="replace")


_SECTIONS: Mapping[str, Callable[[FatVolume], Any]] = {
    "files": _files,
    "inputs": lambda volume: _packed(volume, contract.INPUT_INDEX, contract.INPUT_PACK),
    "outputs": lambda volume: _packed(volume, contract.OUTPUT_INDEX, contract.OUTPUT_PACK),
    "exit_record": lambda volume: read_record(volume),
    "guest_log": lambda volume: _log(volume, contract.GUEST_LOG),
    "condor_log": lambda volume: _log(volume, contract.CONDOR_LOG),
}


def lines(found: dict[str, Any]) -> list[str]:
    """Lay out what `inspect` found for a terminal."""
    said = [f"{found['data_disk']}: {found['free_bytes'] >> 20} MiB free"]
    for name in _SECTIONS:
        content, title = found[name], name.replace("_", " ")
        if content is None:
            said += [] if name.endswith("log") else [f"{title}: none"]
        elif isinstance(content, dict) and set(content) == {"error"}:
            said.append(f"{title}: cannot be read: {escaped(content['error'])}")
        elif isinstance(content, str):
            said += [f"{title}:", *(f"  {escaped(line)}" for line in content.splitlines())]
        elif isinstance(content, list):
            said += [f"{title}:", *(_entry_line(entry) for entry in content)]
        else:
            said += [f"{title}:", *_record_lines(content)]
    return said


def _record_lines(record: dict[str, Any]) -> Iterator[str]:
    for key, value in record.items():
        first, *rest = str(value).splitlines() or [""]
        yield escaped(f"  {key} = {first}")
        yield from (escaped(f"    {line}") for line in rest)


def _entry_line(entry: dict[str, Any]) -> str:
    if "type" not in entry:
        return f"  {entry['size']:>17}  {escaped(entry['path'])}"
    end = {FOLDER: "/", LINK: f" -> {entry.get('target')}"}.get(entry["type"], "")
    return f"  {entry['mode']} {entry['size']:>12}  {escaped(entry['path'] + end)}"
