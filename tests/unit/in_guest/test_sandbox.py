"""The guest's side of the index and packs: what goes in, and what must not."""

# Names are bytes here, which pathlib does not know.
# ruff: noqa: PTH101, PTH102, PTH115, PTH118, PTH123, PTH211

from __future__ import annotations

import json
import os
import pwd
import stat
from pathlib import Path
from typing import Any, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.guest_place import Place, is_root, load_guest
from vmcapsule import contract

guest = load_guest()
NOW_NS = 10**18
LOGIN = pwd.getpwuid(os.getuid())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def unpack(place: Place, root: Path) -> None:
    root.mkdir()
    guest.Unpacker(str(place.data), str(root), LOGIN).run()


def put_index(place: Place, *entries: Any, pack: bytes = b"") -> None:
    lines = [e if isinstance(e, str) else json.dumps(e) for e in entries]
    (place.data / contract.INPUT_INDEX).write_text("".join(line + "\n" for line in lines))
    (place.data / (contract.INPUT_PACK % 0)).write_bytes(pack)


def file_entry(path: Any, size: int = 0, extents: Any = ()) -> dict[str, Any]:
    entry = {"path": path, "type": "file", "mode": 0o644, "mtime_ns": NOW_NS}
    return {**entry, "size": size, "extents": list(extents)}


def link_entry(path: str, target: str) -> dict[str, Any]:
    return {"path": path, "type": "link", "mode": 0o777, "mtime_ns": NOW_NS, "target": target}


def folder_entry(path: str, mode: int = 0o755) -> dict[str, Any]:
    return {"path": path, "type": "dir", "mode": mode, "mtime_ns": NOW_NS}


names = st.binary(min_size=1, max_size=40).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
#: Data in pieces, with holes of whole blocks between them.
contents = st.lists(st.one_of(st.binary(max_size=3000), st.integers(1, 40)), max_size=4)
modes = st.integers(0, 0o777).map(lambda mode: mode | 0o400)
files = st.tuples(contents, modes, st.integers(0, 2 * 10**18))
trees = st.recursive(
    files,
    lambda inner: st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)


def build(folder: bytes, tree: Any) -> None:
    """Make on disk what ``tree`` says: dict a folder, tuple a file."""
    os.mkdir(folder)
    for name, item in tree.items():
        path = os.path.join(folder, name)
        if isinstance(item, dict):
            build(path, item)
        else:
            pieces, mode, mtime_ns = item
            with open(path, "wb") as stream:
                for piece in pieces:
                    if isinstance(piece, int):
                        stream.seek(piece * 4096, os.SEEK_CUR)
                    else:
                        stream.write(piece)
                stream.truncate()
            os.chmod(path, mode)
            os.utime(path, ns=(mtime_ns, mtime_ns))


def picture(folder: bytes) -> dict[bytes, Any]:
    """What matters of a tree, by path."""
    found: dict[bytes, Any] = {}
    for top, folders, plain in os.walk(folder):
        for name in folders + plain:
            path = os.path.join(top, name)
            status = os.lstat(path)
            inner = os.path.relpath(path, folder)
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISDIR(status.st_mode):
                found[inner] = (mode, status.st_mtime_ns)
            else:
                with open(path, "rb") as stream:
                    data = stream.read()
                found[inner] = (data, mode, status.st_mtime_ns, status.st_blocks)
    return found


@settings(max_examples=60, deadline=None)
@given(tree=st.dictionaries(names, trees, max_size=5))
def test_what_is_packed_unpacks_as_it_was(
    tree: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = Place(tmp_path_factory.mktemp("round"))
    source = os.fsencode(place.data.parent / "tree")
    build(source, tree)
    outputs = guest.Outputs(source, LOGIN, guest.Log())
    outputs.add_listed("./")
    guest.write_outputs(str(place.data), source, outputs.entries)
    assert len(place.entries()) == len(outputs.entries)  # the host takes it too
    for path in (place.data / contract.RECORD_DIR).glob("output.*"):
        path.rename(path.with_name(path.name.replace("output", "input")))
    target = place.data.parent / "again"
    unpack(place, target)
    assert picture(os.fsencode(target)) == picture(source)


@pytest.mark.parametrize(
    ("owner", "group", "mode", "expected"),
    [
        ("mine", "mine", 0o400, True),
        ("mine", "mine", 0o077, False),
        ("other", "mine", 0o040, True),
        ("other", "mine", 0o704, False),
        ("other", "other", 0o004, True),
        ("other", "other", 0o770, False),
    ],
)
def test_may_a_login_read_a_file(owner: str, group: str, mode: int, expected: bool) -> None:
    uid = LOGIN.pw_uid + (owner != "mine")
    gid = LOGIN.pw_gid if group == "mine" else 54321
    status = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))
    assert guest.may_read(status, LOGIN) is expected


def test_a_file_of_the_year_2400_goes_back(place: Place) -> None:
    """What the host would not read in the index would cost the job all its outputs."""
    root = place.data.parent / "tree"
    root.mkdir()
    (root / "future").touch()
    os.utime(root / "future", (430 * 31_556_952,) * 2)
    outputs = guest.Outputs(os.fsencode(root), LOGIN, guest.Log())
    outputs.add_listed("./")
    guest.write_outputs(str(place.data), os.fsencode(root), outputs.entries)
    assert place.entries()["future"].mtime_ns == contract.MTIME_NS_MAX


def test_holes_stay_holes_and_take_no_room(place: Place) -> None:
    root = place.data.parent / "tree"
    root.mkdir()
    with (root / "sparse").open("wb") as stream:
        stream.seek(64 << 20)
        stream.write(b"end")
        stream.truncate(128 << 20)
    outputs = guest.Outputs(os.fsencode(root), LOGIN, guest.Log())
    outputs.add_listed("sparse")
    summary = guest.write_outputs(str(place.data), os.fsencode(root), outputs.entries)
    assert summary["bytes"] < 1 << 20
    (extent,) = place.entries()["sparse"].stretches
    assert extent.offset == 64 << 20
    assert place.entries()["sparse"].size_bytes == 128 << 20


def test_large_data_is_aligned_and_packs_are_bounded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "PACK_BYTES_MAX", 3 << 19)
    root = place.data.parent / "tree"
    root.mkdir()
    data = os.urandom(1000) * 4000
    (root / "a").write_bytes(b"small")
    (root / "big").write_bytes(data)
    outputs = guest.Outputs(os.fsencode(root), LOGIN, guest.Log())
    outputs.add_listed("a")
    outputs.add_listed("big")
    summary = guest.write_outputs(str(place.data), os.fsencode(root), outputs.entries)
    assert summary["packs"] == 3
    assert all(s.pack_offset % 4096 == 0 for s in place.entries()["big"].stretches)
    assert place.content("big") == data
    assert place.content("a") == b"small"


def test_more_packs_than_the_format_has_is_a_failure(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "PACK_BYTES_MAX", 10)
    monkeypatch.setattr(guest, "PACKS_MAX", 2)
    (place.data / "x").write_bytes(b"x" * 21)
    outputs = guest.Outputs(os.fsencode(place.data), LOGIN, guest.Log())
    outputs.add_listed("x")
    with pytest.raises(guest.Failure, match="more than 2 packs"):
        guest.write_outputs(str(place.data), os.fsencode(place.data), outputs.entries)


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ([file_entry("/etc/x")], "not plain"),
        ([file_entry("../x")], "not plain"),
        ([folder_entry("a"), file_entry("a/../../x")], "not plain"),
        ([file_entry("a//b")], "not plain"),
        ([file_entry("./a")], "not plain"),
        ([file_entry("")], "not plain"),
        ([file_entry(7)], "not plain"),
        ([file_entry("a\0b")], "NUL"),
        ([file_entry("\ud800")], "surrogates not allowed"),
        ([file_entry("a/b")], "no folder"),
        ([link_entry("l", ".."), file_entry("l/x")], "no folder"),
        ([link_entry("l", "../x"), file_entry("l")], "exists"),
        ([file_entry("a"), file_entry("a")], "exists"),
        ([file_entry("a", 9, [[0, 9, 0, 0]])], "early"),
        ([file_entry("a", 9, [[0, -1, 0, 0]])], "line 1"),
        ([file_entry("a", 9, [[0, 9, 7, 0]])], "No such file"),
        ([file_entry("a", -1)], "line 1"),
        ([{**file_entry("a"), "type": "device"}], "no type"),
        ([{**file_entry("a"), "mtime_ns": 1 << 200}], "line 1"),
        ([{**file_entry("a"), "mode": "7"}], "line 1"),
        ([{"path": "a"}], "'type'"),
        (["[1]"], "line 1"),
        (["{"], "line 1"),
        (["[" * 100_000], "line 1"),
        (['{"path": "é"}'], "line 1"),
    ],
)
def test_hostile_index_is_refused_and_writes_nothing_outside(
    place: Place, entries: Any, complaint: str
) -> None:
    put_index(place, *entries, pack=b"eight by")
    with pytest.raises(guest.Failure, match=complaint) as caught:
        unpack(place, place.data.parent / "root")
    assert caught.value.stage == "unpack"
    assert sorted(p.name for p in place.data.parent.iterdir()) == ["data", "root"]


def test_missing_index_is_a_failure(place: Place) -> None:
    with pytest.raises(guest.Failure, match=r"input\.idx"):
        unpack(place, place.data.parent / "root")


def test_folders_get_their_own_mode_and_time(place: Place) -> None:
    put_index(place, folder_entry("d", 0o555), file_entry("d/x"))
    unpack(place, place.data.parent / "root")
    status = (place.data.parent / "root" / "d").stat()
    assert stat.S_IMODE(status.st_mode) == 0o555
    assert status.st_mtime_ns == NOW_NS


def test_set_user_id_bits_survive_the_change_of_owner(place: Place) -> None:
    put_index(place, {**file_entry("x"), "mode": 0o4755})
    unpack(place, place.data.parent / "root")
    assert stat.S_IMODE((place.data.parent / "root" / "x").stat().st_mode) == 0o4755


@pytest.fixture
def etc(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/:/bin/sh")
    (tmp_path / "group").write_text("root:x:0:\nbob:x:1001:\nstaff:x:1003:\ndisk:x:6:\n")
    yield tmp_path


def test_new_login_takes_a_free_number_for_user_and_group(etc: Path) -> None:
    guest.add_login("alice", "/home/x", 1000, str(etc))
    lines = (etc / "passwd").read_text().splitlines()
    assert lines[1:] == ["bob:x:1000:1001::/:/bin/sh", "alice:x:1002:1002::/home/x:/bin/sh"]
    assert (etc / "group").read_text().splitlines()[-1] == "alice:x:1002:"
    assert not (etc / "shadow").exists()


@pytest.mark.parametrize("group", ["staff", "disk"])
def test_new_login_joins_no_group_of_its_name_and_gets_a_locked_password(
    etc: Path, group: str
) -> None:
    (etc / "shadow").write_text("root:*:1::::::\n")
    guest.add_login(group, "/h", 1000, str(etc))
    assert (etc / "passwd").read_text().splitlines()[-1] == f"{group}:x:1002:1002::/h:/bin/sh"
    assert (etc / "group").read_text().count(group) == 1
    assert (etc / "shadow").read_text().splitlines()[-1] == f"{group}:*:19000::::::"


@pytest.mark.parametrize(
    "name", ["root", "daemon", "a:b", "x\ny", "x\n", "-x", "1", "é", "", None]
)
def test_system_accounts_and_odd_names_become_nobody(name: Any) -> None:
    if not is_root():
        pytest.skip("needs root: without it the job runs as the caller")
    assert guest.choose_login(name, "/").pw_name == "nobody"


def test_a_file_in_many_pieces_goes_both_ways_in_lines_of_bounded_length(place: Place) -> None:
    count = 3 * contract.EXTENTS_PER_LINE // 2
    root = place.data.parent / "tree"
    root.mkdir()
    with (root / "sparse").open("wb") as stream:
        for number in range(count):
            stream.seek(8192 * number)
            stream.write(b"%d" % number)
        stream.truncate(8192 * count)
    (root / "sparse").chmod(0o444)
    outputs = guest.Outputs(os.fsencode(root), LOGIN, guest.Log())
    outputs.add_listed("./")
    guest.write_outputs(str(place.data), os.fsencode(root), outputs.entries)
    lines = (place.data / contract.OUTPUT_INDEX).read_bytes().splitlines()
    assert len(lines) == 2 and max(map(len, lines)) < contract.INDEX_LINE_BYTES_MAX
    assert len(place.entries()["sparse"].stretches) == count
    for path in (place.data / contract.RECORD_DIR).glob("output.*"):
        path.rename(path.with_name(path.name.replace("output", "input")))
    unpack(place, place.data.parent / "again")
    again, before = (place.data.parent / "again/sparse").stat(), (root / "sparse").stat()
    assert (place.data.parent / "again/sparse").read_bytes() == (root / "sparse").read_bytes()
    assert (again.st_mode, again.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    # Half of it is holes; how many blocks so many pieces take besides is the file system's.
    assert again.st_blocks * 512 < 0.75 * again.st_size


def test_a_line_that_goes_on_with_no_file_is_refused(place: Place) -> None:
    put_index(place, folder_entry("d"), {"extents": []})
    with pytest.raises(guest.Failure, match="line 2 of the input index"):
        unpack(place, place.data.parent / "root")


def test_a_file_larger_than_the_host_takes_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "FILE_BYTES_MAX", 4)
    root = place.data.parent / "tree"
    root.mkdir()
    (root / "large").write_bytes(b"12345")
    outputs = guest.Outputs(os.fsencode(root), LOGIN, guest.Log())
    outputs.add_listed("./")
    with pytest.raises(guest.Failure, match="'large' has 5 bytes, more than the 4"):
        guest.write_outputs(str(place.data), os.fsencode(root), outputs.entries)
