"""What a running job uses: what its guest says, and what of that the starter is told."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.starter import Starter
from vmcapsule import contract
from vmcapsule.slot.packed.usage import Usage, read_report

TOLD = {
    "ChirpVmCapsuleUserCpu": 1.5,
    "ChirpVmCapsuleSysCpu": 0.25,
    "ChirpVmCapsuleResidentSetSize": 3000,
    "ChirpVmCapsuleImageSize": 4000,
    "ChirpVmCapsuleDiskUsage": 5000,
}
FRAME = struct.pack(">5Q", 1500, 250, 3000, 4000, 5000)
WAIT_S = 20


@pytest.fixture
def starter() -> Iterator[Starter]:
    made = Starter()
    yield made
    made.close()


def take(usage: Usage, data: bytes, kind: bytes = contract.LINE_USAGE) -> None:
    assert list(usage.take(kind, data)) == []


def wait_for(starter: Starter, told: dict[str, object]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while starter.attributes != told:
        assert time.monotonic() < deadline_s, starter.attributes
        time.sleep(0.01)


def test_what_the_guest_says_is_in_the_jobs_ad(starter: Starter, tmp_path: Path) -> None:
    usage = Usage(starter.write_contact(tmp_path))
    take(usage, FRAME)
    wait_for(starter, TOLD)
    usage.close()


def test_nothing_is_told_after_the_end(
    starter: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmcapsule.slot.packed.usage._EVERY_S", 0.01)
    usage = Usage(starter.write_contact(tmp_path))
    take(usage, FRAME)
    wait_for(starter, TOLD)
    # The latest counts, and what is no report changes nothing.
    take(usage, struct.pack(">5Q", 2500, 250, 3000, 4000, 5000))
    take(usage, FRAME[:-1])
    take(usage, FRAME, kind=b"?")
    wait_for(starter, {**TOLD, "ChirpVmCapsuleUserCpu": 2.5})
    usage.close()
    take(usage, FRAME)
    time.sleep(0.1)
    assert starter.attributes["ChirpVmCapsuleUserCpu"] == 2.5


def test_a_starter_that_refuses_is_not_asked_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def refuse(line: str) -> bytes:
        asked.append(line)
        return b"-1\n"

    starter = Starter(refuse)
    usage = Usage(starter.write_contact(tmp_path))
    take(usage, FRAME)
    usage._thread.join(WAIT_S)  # type: ignore[union-attr]
    before = len(asked)
    take(usage, struct.pack(">5Q", 1, 2, 3, 4, 5))
    usage.close()
    starter.close()
    assert before == len(asked) > 0


def test_where_no_thread_can_be_started_there_is_none_to_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(thread: object) -> None:
        raise RuntimeError("can't start new thread")

    usage = Usage(tmp_path / ".chirp.config")
    with monkeypatch.context() as context:
        context.setattr("threading.Thread.start", fails)
        with pytest.raises(RuntimeError):
            take(usage, FRAME)
    usage.close()


def test_where_there_is_no_starter_nothing_is_told(tmp_path: Path) -> None:
    usage = Usage(tmp_path / ".chirp.config")
    take(usage, FRAME)
    usage.close()


@given(st.binary(max_size=50) | st.binary(min_size=40, max_size=40))
def test_of_what_a_guest_says_no_number_is_too_large_for_an_ad(data: bytes) -> None:
    found = read_report(data)
    assert found == {} or found.keys() == TOLD.keys()
    assert all(0 <= value <= 1 << 53 for value in found.values())
