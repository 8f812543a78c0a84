"""A folder that stands in for a guest's data disk, and the guest's script run on it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Mapping, Optional, Sequence

from vmcapsule import contract
from vmcapsule.guest.script import joined
from vmcapsule.transfer import pack
from vmcapsule.transfer.entries import FILE, Entry
from vmcapsule.transfer.index import dump_index, parse_index

#: Where the guest's script is written, in parts.
PARTS = Path(__file__).resolve().parents[2] / "guest"
#: As it is shipped: one file.  It goes when the tests end.
_FOLDER = tempfile.TemporaryDirectory(prefix="guest-script-")
SCRIPT = Path(_FOLDER.name) / contract.INIT_SCRIPT
SCRIPT.write_bytes(joined(PARTS / contract.INIT_SCRIPT))

JOB = {
    "format": contract.FORMAT,
    "runner": "direct",
    "executable": "job.sh",
    "arguments": [],
    "environment": {},
    "stdin": None,
    "stdout": contract.STDOUT,
    "stderr": contract.STDERR,
    "outputs": None,
    "omit": ["job.sh"],
    "user": None,
    "cpus": 3,
    "memory_mib": 256,
    "condor_version": None,
}


def load_guest() -> ModuleType:
    """The guest's script as a module: its name is no module's name."""
    spec = importlib.util.spec_from_file_location("condor_init", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _as_from_init() -> None:
    """In a guest nobody ignores the signals that a shell's '&' does, or nohup."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Place:
    """A data folder and a work folder; as root, the job's user can reach them."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.work = folder / "work"
        (self.data / contract.RECORD_DIR).mkdir(parents=True)

    def give(
        self, files: Mapping[str, bytes], modes: Optional[Mapping[str, int]] = None
    ) -> None:
        """Pack ``files`` as the host would, with the host's own code."""
        source = self.data.parent / "source"
        members = []
        for name, content in files.items():
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            mode = (modes or {}).get(name, 0o755 if name.endswith(".sh") else 0o644)
            size = len(content)
            members.append(pack.Member(str(path), name, FILE, mode, 10**18, size))
        self.put_packs(pack.plan_packs(members))

    def put_packs(self, plan: pack.PackPlan) -> None:
        (self.data / contract.INPUT_INDEX).write_bytes(dump_index(plan.entries))
        for number, size in enumerate(plan.pack_sizes_bytes):
            with (self.data / (contract.INPUT_PACK % number)).open("wb") as stream:
                stream.truncate(size)
                for which, entry in enumerate(plan.entries):
                    for stretch in entry.stretches:
                        if stretch.pack == number:
                            with Path(plan.sources.of(which, entry.path)).open("rb") as source:
                                source.seek(stretch.offset)
                                stream.seek(stretch.pack_offset)
                                stream.write(source.read(stretch.length))

    def record(self, **changes: Any) -> None:
        text = json.dumps({**JOB, **changes})
        (self.data / contract.JOB_RECORD).write_text(text, encoding="ascii")

    def run(
        self, *, python: str = sys.executable, prefix: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Run the script to its end and return the exit record."""
        command = [*prefix, python, str(SCRIPT), "--data", str(self.data)]
        command += ["--work", str(self.work), "--no-poweroff"]
        self.done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
            preexec_fn=_as_from_init,
        )
        return self.exit_record()

    def exit_record(self) -> dict[str, Any]:
        record = json.loads((self.data / contract.EXIT_RECORD).read_bytes())
        assert isinstance(record, dict)
        return record

    def job(self, script: str, **changes: Any) -> dict[str, Any]:
        """Run a shell script as the job, with ``in.txt`` beside it."""
        self.give({"job.sh": b"#!/bin/sh\n" + script.encode(), "in.txt": b"hello\n"})
        self.record(**changes)
        return self.run()

    def entries(self) -> dict[str, Entry]:
        """The output index, checked by the host's own code."""
        packs = []
        while (self.data / (contract.OUTPUT_PACK % len(packs))).exists():
            packs.append((self.data / (contract.OUTPUT_PACK % len(packs))).stat().st_size)
        index = (self.data / contract.OUTPUT_INDEX).read_bytes()
        return {entry.path: entry for entry in parse_index(index, packs)}

    def content(self, name: str) -> bytes:
        """What an output file holds, holes filled with zeros."""
        entry = self.entries()[name]
        data = bytearray(entry.size_bytes)
        for stretch in entry.stretches:
            with (self.data / (contract.OUTPUT_PACK % stretch.pack)).open("rb") as stream:
                stream.seek(stretch.pack_offset)
                end = stretch.offset + stretch.length
                data[stretch.offset : end] = stream.read(stretch.length)
        return bytes(data)

    def log(self) -> str:
        return (self.data / contract.GUEST_LOG).read_text(encoding="utf-8")


def is_root() -> bool:
    return os.geteuid() == 0
