"""What the guest writes of a job's end, the host can read: writer and reader taken together."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.edits import put_files
from tests.unit.guest_place import Place, load_guest
from tests.unit.returned import EXITED, OFFSET_BYTES
from vmcapsule import contract
from vmcapsule.disk.empty_disk import build_data_disk
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.errors import GuestError
from vmcapsule.guest.exit_record import JobExit, as_reported, read_exit

guest = load_guest()


def read(record: bytes) -> JobExit:
    """Read an exit record as the host does, off a vfat volume."""
    with tempfile.TemporaryFile() as image:
        build_data_disk(image_path(image), size_bytes=17 << 20, offset_bytes=OFFSET_BYTES)
        put_files(FatVolume.open(image.fileno(), OFFSET_BYTES), {contract.EXIT_RECORD: record})
        return read_exit(FatVolume.open(image.fileno(), OFFSET_BYTES))


def image_path(image: Any) -> Path:
    return Path(f"/proc/self/fd/{image.fileno()}")


def test_thousands_of_missing_outputs_make_a_record_that_can_be_read(place: Place) -> None:
    names = [f"results/{'long' * 60}/part-{n:05}/histogram.root" for n in range(5000)]
    place.job("echo here > there", outputs=["there", *names])
    record = (place.data / contract.EXIT_RECORD).read_bytes()
    assert len(record) <= contract.EXIT_RECORD_BYTES_MAX
    told = read(record)
    assert told.missing_outputs[:3] == tuple(names[:3])
    assert (told.missing_count, told.unsent_count) == (5000, 0)
    assert "missing: 5000" in place.log()


def test_a_record_of_before_there_were_counts_is_read() -> None:
    report = {**EXITED, "missing_outputs": ["a", "b"], "unsent_outputs": [["c", 13]]}
    told = read(guest.record_bytes(report))
    assert (told.missing_count, told.unsent_count) == (2, 1)


NAMES = st.one_of(
    st.text(max_size=30),
    st.builds(lambda text, times: text * times, st.text(max_size=8), st.integers(0, 9000)),
    st.binary(max_size=2000).map(lambda data: data.decode("utf-8", "surrogateescape")),
)
MANY = st.builds(lambda names, times: names * times, st.lists(NAMES), st.integers(1, 400))


@settings(max_examples=60, deadline=None)
@given(missing=MANY, unsent=MANY, ad=NAMES)
def test_whatever_is_told_of_a_job_can_be_read(
    missing: list[str], unsent: list[str], ad: str
) -> None:
    report = {**EXITED, "condor_ad": ad * 50}
    guest.tell_lacking(report, missing, dict.fromkeys(unsent, 13))
    record = guest.record_bytes(report)
    assert len(record) <= contract.EXIT_RECORD_BYTES_MAX
    told = read(record)
    assert told.missing_count == len(missing)
    assert told.unsent_count == len(set(unsent))
    assert len(told.missing_outputs) == min(len(missing), contract.NAMED_MAX)
    for name, shown in zip(missing, told.missing_outputs):
        assert shown == as_reported(name[: contract.NAME_CHARS_MAX])


@settings(max_examples=30, deadline=None)
@given(message=NAMES, missing=MANY)
def test_whatever_is_told_of_a_failure_can_be_read(message: str, missing: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / contract.RECORD_DIR).mkdir()
        log = guest.Log()
        log.fds = []
        here = guest.Guest(name, name, False, log)
        guest.tell_lacking(here.report, missing, {})
        here.fail("save", message)
        record = guest.record_bytes(here.report)
    assert len(record) <= contract.EXIT_RECORD_BYTES_MAX
    with pytest.raises(GuestError, match="could not run the job"):
        read(record)


@pytest.mark.parametrize(
    "changes",
    [
        {"missing_outputs": ["x"] * 100000, "missing_count": 100000},
        {"unsent_outputs": [["x", 13]] * 50000, "unsent_count": 50000},
        {"missing_outputs": ["x"], "missing_count": 0},
    ],
)
def test_a_hostile_count_or_list_makes_no_more_of_it(changes: dict[str, Any]) -> None:
    told = read(json.dumps({**EXITED, **changes}).encode())
    assert len(told.missing_outputs) <= contract.NAMED_MAX
    assert len(told.unsent_outputs) <= contract.NAMED_MAX
    assert told.missing_count >= len(told.missing_outputs)


@pytest.mark.parametrize("count", [-1, "x", True, 1e300, None])
def test_what_is_no_count_is_refused(count: Any) -> None:
    with pytest.raises(GuestError, match="cannot be used"):
        read(json.dumps({**EXITED, "missing_count": count}).encode())
