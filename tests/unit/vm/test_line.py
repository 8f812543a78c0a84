"""A line to a machine: two pipes here, and what QEMU is told of them."""

from __future__ import annotations

import os
from pathlib import Path

from vmcapsule.vm import line


def test_both_ways_are_there_without_anybody_at_the_other_end(tmp_path: Path) -> None:
    with line.made(tmp_path / "line") as ours:
        assert os.write(ours.into, b"to the guest") == 12
        with (tmp_path / "line.in").open("rb") as qemus:
            assert os.read(qemus.fileno(), 100) == b"to the guest"
        with (tmp_path / "line.out").open("wb") as qemus:
            qemus.write(b"from the guest")
        assert os.read(ours.out_of, 100) == b"from the guest"
        assert {(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {0o600}
    assert list(tmp_path.iterdir()) == []


def test_a_comma_in_the_path_is_no_option() -> None:
    said = line.options(Path("/c/a,b/line"), "some.port")
    assert "pipe,id=line,path=/c/a,,b/line" in said
    assert "virtserialport,chardev=line,name=some.port" in said
