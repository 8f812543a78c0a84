"""Whatever lies at a name, reading it ends."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vmcapsule.files import open_regular, read_regular


def test_a_regular_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(data)
    assert read_regular(tmp_path / "file", 3 << 20) == data
    with pytest.raises(OSError, match=f"larger than {(3 << 20) - 1} bytes"):
        read_regular(tmp_path / "file", (3 << 20) - 1)
    (tmp_path / "empty").touch()
    assert read_regular(tmp_path / "empty", 0) == b""


def test_a_hole_of_terabytes_is_too_large_at_once(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(OSError, match="larger than 100 bytes"):
        read_regular(tmp_path / "file", 100)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT])
@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "link", "dangling"])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, kind: str, flags: int) -> None:
    path = tmp_path / kind
    with socket.socket(socket.AF_UNIX) as end:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            end.bind(str(path))
        elif kind == "folder":
            path.mkdir()
        else:
            (tmp_path / "link's").touch()
            path.symlink_to(f"{kind}'s")
        with pytest.raises(OSError) as caught:
            open_regular(path, flags)
    assert caught.value.filename == str(path)
    assert not (tmp_path / "dangling's").exists()


def test_a_file_that_is_made_has_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    os.close(open_regular(tmp_path / "new", os.O_RDWR | os.O_CREAT, 0o640))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
