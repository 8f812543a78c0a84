"""What is on a data disk, for a person who wants to know."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Optional

from vmcapsule import capsule, contract, extract
from vmcapsule.errors import UsageError
from vmcapsule.pack import FOLDER, LINK, Entry


def inspect(where: Path, offset_bytes: Optional[int]) -> dict[str, Any]:
    """Describe a capsule's data disk (or a bare data.vmdk): files, packs, record, log.

    Everything in it was written by a guest: text is escaped when it is shown.
    """
    if where.is_dir():
        made = capsule.load(where)
        disk_path, offset_bytes = made.data_disk, made.part_offset_bytes
    elif where.is_file():
        disk_path = where
    else:
        raise UsageError(
            f"there is no capsule '{where}'", "name a capsule's folder or a data.vmdk"
        )
    with tempfile.TemporaryDirectory(prefix="vmcapsule-") as scratch:
        with extract.opened(disk_path, offset_bytes, Path(scratch)) as disk:
            return {
                "data_disk": str(disk_path),
                "free_bytes": disk.volume.free_bytes,
                "files": [
                    {"path": file.path, "size": file.size_bytes}
                    for file in disk.volume.walk()
                    if not file.is_folder
                ],
                "inputs": _packed(disk, contract.INPUT_INDEX, contract.INPUT_PACK),
                "outputs": _packed(disk, contract.OUTPUT_INDEX, contract.OUTPUT_PACK),
                "exit_record": extract.read_record(disk),
                "guest_log": _log(disk, contract.GUEST_LOG),
                "condor_log": _log(disk, contract.CONDOR_LOG),
            }


def _packed(disk: extract.DataDisk, index: str, pack: str) -> Optional[list[dict[str, Any]]]:
    if disk.volume.lookup(index) is None:
        return None
    return [_entry(entry) for entry in extract.read_index(disk, index, pack).entries]


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


def _log(disk: extract.DataDisk, name: str) -> Optional[str]:
    if disk.volume.lookup(name) is None:
        return None
    return disk.volume.read(name, contract.LOG_BYTES_MAX).decode(errors="replace")


def lines(found: dict[str, Any]) -> list[str]:
    """Lay out what `inspect` found for a terminal."""
    said = [f"{found['data_disk']}: {found['free_bytes'] >> 20} MiB free"]
    said += [f"{file['size']:>14}  {_shown(file['path'])}" for file in found["files"]]
    for name in ("inputs", "outputs"):
        if found[name] is None:
            said.append(f"{name}: none")
            continue
        said.append(f"{name}:")
        said += [_entry_line(entry) for entry in found[name]]
    record = found["exit_record"]
    said.append("exit record: none" if record is None else "exit record:")
    for key, value in (record or {}).items():
        first, *rest = str(value).splitlines() or [""]
        said += [_shown(f"  {key} = {first}"), *(_shown(f"    {line}") for line in rest)]
    for name in ("guest_log", "condor_log"):
        if found[name]:
            said += [f"{name.replace('_', ' ')}:"]
            said += [f"  {_shown(line)}" for line in found[name].splitlines()]
    return said


def _entry_line(entry: dict[str, Any]) -> str:
    end = {FOLDER: "/", LINK: f" -> {entry.get('target')}"}.get(entry["type"], "")
    return f"  {entry['mode']} {entry['size']:>12}  {_shown(entry['path'] + end)}"


def _shown(text: str) -> str:
    """A guest's text without what could move the cursor or be taken for another line."""
    plain = text.encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)
