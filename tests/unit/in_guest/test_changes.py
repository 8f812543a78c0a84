"""What the guest sends back of a sandbox that is put in the place of the one outside."""

from __future__ import annotations

import json

import pytest

from tests.unit.guest_place import Place
from vmcapsule import contract
from vmcapsule.transfer.entries import FILE, FOLDER

GIVEN = {
    "same": b"same",
    "changed": b"before",
    "removed": b"x",
    "folder.txt": b"is to be a folder",
}
JOB = """\
#!/bin/sh
echo after >changed
rm removed
rm folder.txt; mkdir folder.txt; echo in >folder.txt/in
mkdir -p new/deep; echo deep >new/deep/file; mkdir new/empty
ln -s same link; ln -s nowhere dangling; ln -s new linked-folder
mkfifo fifo
echo said
"""


def run(place: Place, text: str = JOB, **changes: object) -> dict[str, object]:
    place.give({"job.sh": text.encode(), **GIVEN})
    place.record(all_changes=True, **changes)
    return place.run()


def gone(place: Place) -> list[str]:
    lines = (place.data / contract.OUTPUT_GONE).read_text("ascii").splitlines()
    return [json.loads(line) for line in lines]


def test_all_that_is_new_or_changed_comes_and_what_is_gone_is_named(place: Place) -> None:
    record = run(place)
    assert record["state"] == "exited", record
    kinds = {entry.path: entry.kind for entry in place.entries().values()}
    assert kinds == {
        contract.STDOUT: FILE,
        contract.STDERR: FILE,
        "changed": FILE,
        "folder.txt": FOLDER,
        "folder.txt/in": FILE,
        "link": FILE,
        "new": FOLDER,
        "new/deep": FOLDER,
        "new/deep/file": FILE,
        "new/empty": FOLDER,
    }
    assert gone(place) == ["removed"]
    assert record["unsent_outputs"] == [["linked-folder", 21]]


@pytest.mark.parametrize("sandbox", ["job", "/a/../b", "/a//b", 7])
def test_a_sandbox_in_no_place_is_refused(place: Place, sandbox: object) -> None:
    record = run(place, sandbox=sandbox)
    failure = record["failure"]
    assert record["state"] == "failed" and isinstance(failure, dict)
    assert "job record" in failure["message"]
