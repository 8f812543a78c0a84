"""What the conformance suite sees of a folder and of a user's log."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.conformance.story import stories
from tests.conformance.tree import snapshot

LOG = """\
000 (012.000.000) 2026-11-20 12:00:00 Job submitted from host: <127.0.0.1:9618>
...
040 (012.000.000) 2026-11-20 12:00:01 Started transferring input files
\tTransferring to host: <127.0.0.1:9618>
...
001 (012.000.000) 2026-11-20 12:00:02 Job executing on host: <127.0.0.1:9618>
\tSlotName: slot1_1@host
...
000 (012.001.000) 2026-11-20 12:00:02 Job submitted from host: <127.0.0.1:9618>
...
006 (012.000.000) 2026-11-20 12:00:03 Image size of job updated: 5
...
012 (012.001.000) 2026-11-20 12:00:03 Job was held.
\tbecause (return value 9)
\tCode 3 Subcode 65
...
005 (012.000.000) 2026-11-20 12:00:04 Job terminated.
\t(1) Normal termination (return value 7)
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Remote Usage
...
"""
KILLED = """\
005 (3.0.000) 2026-11-20 12:00:04 Job terminated.
\t(0) Abnormal termination (signal 11)
\t{core}
...
"""


def test_a_log_is_told_by_job_without_what_is_a_matter_of_time() -> None:
    assert stories(LOG) == {
        (12, 0): ("submitted", "executing", "terminated with 7"),
        (12, 1): ("submitted", "held"),
    }


def test_a_core_is_part_of_the_story() -> None:
    with_core = KILLED.format(core="(1) Corefile in: /home/alice/core.3.0")
    without = KILLED.format(core="(0) No core file")
    assert stories(with_core) == {(3, 0): ("terminated by signal 11, core",)}
    assert stories(without) == {(3, 0): ("terminated by signal 11",)}


def test_an_event_without_a_name_is_not_lost() -> None:
    assert stories("099 (1.0.000) 2026-11-20 12:00:04 New\n...\n") == {(1, 0): ("event 099",)}


def same(data: bytes) -> bytes:
    return data


def test_a_folder_is_seen_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "file").chmod(0o4750)
    (tmp_path / "folder" / "empty").mkdir(parents=True)
    (tmp_path / "folder").chmod(0o700)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "to-folder").symlink_to("folder")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(tmp_path / "socket"))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(3 << 20)
    tmp_path.chmod(0o755)
    found = snapshot(tmp_path, same)
    kinds = {path.decode(): entry.kind for path, entry in found.items()}
    assert kinds == {
        ".": "folder",
        "file": "file",
        "folder": "folder",
        "folder/empty": "folder",
        "link": "link",
        "to-folder": "link",
        "fifo": "fifo",
        "socket": "socket",
        "sparse": "file",
    }
    file_entry, sparse = found[b"file"], found[b"sparse"]
    assert (file_entry.mode, file_entry.size, file_entry.data) == (0o4750, 7, b"content")
    assert (found[b"."].mode, found[b"folder"].mode) == (0o755, 0o700)
    assert (found[b"link"].target, found[b"to-folder"].target) == (b"nowhere", b"folder")
    assert (sparse.size, sparse.is_sparse, file_entry.is_sparse) == (3 << 20, True, False)
    assert sparse.data is None


def test_contents_tell_files_apart(tmp_path: Path) -> None:
    for name, data in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(data)
    for name, last in (("d", b"x"), ("e", b"y")):
        (tmp_path / name).write_bytes(bytes(2 << 20) + last)
    found = snapshot(tmp_path, same)
    assert found[b"a"] == found[b"b"] != found[b"c"]
    assert found[b"d"].sha256 != found[b"e"].sha256


def test_any_name_is_seen(tmp_path: Path) -> None:
    names = [b"latin\xfc", b"two\nlines", b"a:b", b"x" * 255]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).touch()  # noqa: PTH118
    assert set(snapshot(tmp_path, same)) == {b".", *names}


def test_what_is_the_ways_own_is_taken_out_everywhere(tmp_path: Path) -> None:
    (tmp_path / "name-WAY").write_bytes(b"in WAY")
    (tmp_path / "link").symlink_to("/WAY/file")
    found = snapshot(tmp_path, lambda data: data.replace(b"WAY", b"any"))
    assert found[b"name-any"].data == b"in any"
    assert found[b"link"].target == b"/any/file"
    (tmp_path / "name-WAY").write_bytes(b"in any")
    assert snapshot(tmp_path, same)[b"name-WAY"].sha256 == found[b"name-any"].sha256
