"""What QEMU says of a machine, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.errors import SpaceError, ToolError
from vmcapsule.vm.events import Events, events

#: As QEMU 7.2 writes it.
GREETING = {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}}}
FULL = {
    "timestamp": {"seconds": 1795893637, "microseconds": 504397},
    "event": "BLOCK_IO_ERROR",
    "data": {
        "device": "virtio1",
        "nospace": True,
        "node-name": "#block300",
        "reason": "No space left on device",
        "operation": "write",
        "action": "stop",
    },
}


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Events]:
    with events(tmp_path) as found:
        yield found


def say(told: Events, *what: object) -> None:
    told.heard.write(b"".join(json.dumps(one).encode() + b"\r\n" for one in what))
    told.heard.flush()


def test_a_machine_whose_disk_is_full_has_ended(told: Events) -> None:
    assert json.loads(told.said.read()) == {"execute": "qmp_capabilities"}
    say(told, GREETING, {"return": {}}, {"event": "RTC_CHANGE", "data": {"offset": 3}})
    told.check()
    say(told, FULL, {"event": "STOP"})
    with pytest.raises(SpaceError, match="No space left on device"):
        told.check()


def test_a_disk_that_fails_is_no_full_one(told: Events) -> None:
    data = {**FULL["data"], "nospace": False, "reason": "Input/output error"}  # type: ignore[dict-item]
    say(told, {**FULL, "data": data})
    with pytest.raises(ToolError, match="Input/output error"):
        told.check()


def test_an_event_that_is_half_written_is_read_when_it_is_whole(told: Events) -> None:
    line = json.dumps(FULL).encode() + b"\n"
    told.heard.write(line[:40])
    told.heard.flush()
    told.check()
    told.heard.write(line[40:])
    told.heard.flush()
    with pytest.raises(SpaceError):
        told.check()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.lists(st.binary() | VALUES | st.fixed_dictionaries({"event": VALUES, "data": VALUES}))
)
def test_whatever_else_is_said_the_machine_runs_on(
    tmp_path_factory: pytest.TempPathFactory, said: list[object]
) -> None:
    with events(tmp_path_factory.getbasetemp()) as told:
        for one in said:
            told.heard.write(one if isinstance(one, bytes) else json.dumps(one).encode())
            told.heard.write(b"\n")
        told.heard.flush()
        told.check()
