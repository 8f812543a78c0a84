"""Each file comes to its place whole or not at all, whoever was killed before."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Iterator

import pytest

from tests.unit.users import acting_as, give
from vmcapsule.process import run
from vmcapsule.transfer import places
from vmcapsule.transfer.drafts import Drafts
from vmcapsule.transfer.places import Obstacle


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert not list(tmp_path.rglob(".vmcapsule-*")), "a draft was left"


def write(made: Drafts, place: Path, number: int, mode: int = 0o644) -> None:
    fd = made.file(str(place), number, mode)
    os.write(fd, f"{number}".encode())
    os.close(fd)


def seen(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def drafted(home: Path) -> list[str]:
    return [path.name for path in home.rglob(".vmcapsule-*")]


def test_nothing_is_seen_before_all_is_put(home: Path) -> None:
    made = Drafts("t")
    write(made, home / "a", 0)
    made.folder(str(home / "d"), 1, 0o750)
    write(made, home / "d/b", 2)
    assert not [name for name in seen(home) if not name.startswith(".vmcapsule-t-")]
    made.put()
    assert seen(home) == ["a", "d", "d/b"]
    assert (home / "d/b").read_text() == "2"


def test_a_new_folder_is_put_with_one_rename_whatever_is_in_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Drafts("t")
    for number in range(100):
        write(made, home / f"new/deep/{number % 3}/f{number}", number)
    renamed: list[tuple[str, str]] = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *pair: (renamed.append(pair), real(*pair)))
    made.put()
    assert [target for _, target in renamed] == [str(home / "new")]
    assert len(list(home.rglob("f*"))) == 100


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277])
def test_modes_are_those_asked_for_whatever_the_umask_is(home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = Drafts("t")
        write(made, home / "a", 0, 0o4755)
        write(made, home / "b", 1, 0o444)
        made.folder(str(home / "d"), 2, 0o2575)
        write(made, home / "e/f/g", 3, 0o660)
        made.put()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    modes = {name: (home / name).stat().st_mode & 0o7777 for name in seen(home)}
    assert modes == {
        "a": 0o755, "b": 0o444, "d": 0o775, "e": 0o700, "e/f": 0o700, "e/f/g": 0o660,
    }  # fmt: skip


def test_a_folder_that_is_there_stays_as_it_is(home: Path) -> None:
    (home / "d").mkdir(mode=0o711)
    (home / "d/mine").touch()
    made = Drafts("t")
    made.folder(str(home / "d"), 0, 0o777)
    write(made, home / "d/b", 1)
    made.put()
    assert seen(home) == ["d", "d/b", "d/mine"]
    assert (home / "d").stat().st_mode & 0o777 == 0o711


def test_what_is_undone_leaves_nothing(home: Path) -> None:
    made = Drafts("t")
    write(made, home / "a", 0)
    write(made, home / "d/e/b", 1)
    made.clear()
    assert seen(home) == []


def test_what_a_killed_process_left_is_replaced(home: Path) -> None:
    """Under the same numbers, be it a file or a folder, here or there."""
    killed = Drafts("t")
    write(killed, home / "a", 0)
    write(killed, home / "d/b", 1)
    write(killed, home / "e/c", 2)
    assert len(drafted(home)) == 3
    again = Drafts("t")
    write(again, home / "d/b", 0)
    write(again, home / "a", 1)
    write(again, home / "f", 2)
    again.put()
    assert seen(home) == ["a", "d", "d/b", "f"]
    assert (home / "a").read_text() == "1"


def test_what_a_killed_process_left_goes_when_the_next_one_fails(home: Path) -> None:
    killed = Drafts("t")
    (home / "d").mkdir()
    write(killed, home / "a", 0)
    write(killed, home / "d/b", 7)
    again = Drafts("t")
    write(again, home / "d/c", 0)
    write(again, home / "z", 1)
    again.clear()
    assert seen(home) == ["d"]


def test_drafts_of_others_stay(tmp_path: Path) -> None:
    others = tmp_path / ".vmcapsule-other-0"
    others.touch()
    made = Drafts("t")
    write(made, tmp_path / "a", 0)
    made.clear()
    assert list(tmp_path.iterdir()) == [others]


def test_a_draft_that_is_a_link_is_not_followed(home: Path) -> None:
    (home / "target").write_text("mine")
    (home / ".vmcapsule-t-0").symlink_to("target")
    made = Drafts("t")
    write(made, home / "a", 0)
    made.put()
    assert (home / "target").read_text() == "mine"
    assert (home / "a").read_text() == "0"


def test_what_is_in_the_way_is_told(home: Path) -> None:
    (home / "folder").mkdir()
    os.mkfifo(home / "pipe")
    (home / "closed").touch(0o444)
    give(home)
    made = Drafts("t")
    for name, why in (
        ("folder", "is a folder"),
        ("pipe", "is no regular file"),
        ("closed", "is closed to writing"),
    ):
        with acting_as(), pytest.raises(Obstacle, match=f"{name}' {why}"):
            made.file(str(home / name), 0, 0o644)
    assert places.obstacle(str(home / "nothing")) == ""


def test_two_outputs_of_one_name(home: Path) -> None:
    """The later file wins, in a new folder, too; a folder is not replaced by a file."""
    made = Drafts("t")
    for number in (0, 1):
        write(made, home / "a", number)
        write(made, home / "d/b", 10 + number)
    made.folder(str(home / "d/e"), 20, 0o755)
    write(made, home / "d/e/kept", 21)
    with pytest.raises(Obstacle, match="d/e' is a folder"):
        made.file(str(home / "d/e"), 22, 0o644)
    made.put()
    assert [(home / name).read_text() for name in ("a", "d/b", "d/e/kept")] == ["1", "11", "21"]


def test_a_file_is_no_folder_for_others_to_come_into(home: Path) -> None:
    (home / "file").touch()
    (home / "link").symlink_to("nowhere")
    made = Drafts("t")
    for number, name in enumerate(("file", "link")):
        with pytest.raises(Obstacle, match=f"{name}' is no folder"):
            made.file(str(home / name / "x/y"), number, 0o644)
    write(made, home / "mine", 7)
    with pytest.raises(Obstacle, match="mine' is no folder"):
        made.file(str(home / "mine/x"), 8, 0o644)
    made.put()
    assert seen(home) == ["file", "link", "mine"]


def test_a_folder_comes_where_anything_else_is(home: Path) -> None:
    """HTCondor removes what is there, be it a link or a file that is closed to writing."""
    (home / "file").write_text("mine")
    (home / "file").chmod(0o444)
    (home / "kept").write_text("mine")
    (home / "link").symlink_to("kept")
    (home / "nowhere").symlink_to("nothing")
    os.mkfifo(home / "pipe")
    made = Drafts("t")
    for number, name in enumerate(("file", "link", "nowhere", "pipe")):
        made.folder(str(home / name), 2 * number, 0o750)
        write(made, home / name / "x", 2 * number + 1)
    assert (home / "file").read_text() == "mine", "nothing goes before all is there"
    assert made.put() == {}
    names = [name for name in ("file", "link", "nowhere", "pipe")]
    assert [(home / name / "x").read_text() for name in names] == ["1", "3", "5", "7"]
    assert {(home / name).stat().st_mode & 0o777 for name in names} == {0o750}
    assert (home / "kept").read_text() == "mine"


def test_what_a_folder_could_not_replace_stays(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("mine")
    made = Drafts("t")
    made.folder(str(home / "file"), 0, 0o755)
    write(made, home / "other", 1)
    real = os.replace

    def busy(source: str, target: str) -> None:
        if target == str(home / "file") and os.path.isdir(source):  # noqa: PTH112
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), target)
        real(source, target)

    monkeypatch.setattr(os, "replace", busy)
    assert made.put() == {str(home / "file"): f"'{home}/file': Device or resource busy"}
    assert (home / "file").read_text() == "mine"
    assert seen(home) == ["file", "other"]


def test_a_link_that_is_there_is_written_through(home: Path) -> None:
    (home / "d").mkdir()
    (home / "link").symlink_to("d/real")
    (home / "dlink").symlink_to("d")
    made = Drafts("t")
    write(made, home / "link", 0)
    write(made, home / "dlink/x", 1)
    made.put()
    assert (home / "link").is_symlink() and (home / "d/real").read_text() == "0"
    assert (home / "dlink").is_symlink() and (home / "d/x").read_text() == "1"


def test_a_folder_that_another_delivery_put_meanwhile_gets_ours_too(home: Path) -> None:
    """Jobs of one cluster deliver into one folder, which none of them finds."""
    both = [Drafts("a"), Drafts("b")]
    for number, made in enumerate(both):
        write(made, home / f"d/e/f{number}", number)
        write(made, home / f"d/only{number}/x", 10 + number)
        made.folder(str(home / "d/empty"), 20, 0o755)
    for made in both:
        made.put()
    assert seen(home) == [
        "d", "d/e", "d/e/f0", "d/e/f1", "d/empty",
        "d/only0", "d/only0/x", "d/only1", "d/only1/x",
    ]  # fmt: skip
    assert [(home / f"d/e/f{number}").read_text() for number in (0, 1)] == ["0", "1"]


def test_a_folder_under_two_names_is_one(home: Path) -> None:
    (home / "real").mkdir()
    (home / "link").symlink_to("real")
    made = Drafts("t")
    write(made, home / "real/n/a", 0)
    write(made, home / "link/n/b", 1)
    made.put()
    assert sorted(path.name for path in (home / "real/n").iterdir()) == ["a", "b"]


def test_a_place_where_a_file_came_meanwhile_is_named_and_the_rest_is_put(home: Path) -> None:
    made = Drafts("t")
    write(made, home / "d/b", 0)
    write(made, home / "e", 1)
    (home / "d").touch()
    assert made.put() == {str(home / "d"): f"'{home}/d': Not a directory"}
    assert seen(home) == ["d", "e"]


def test_what_came_into_a_new_folder_meanwhile_is_in_the_way_as_elsewhere(home: Path) -> None:
    made = Drafts("t")
    for number, name in enumerate(("d/pipe", "d/folder", "d/e/f", "d/g")):
        write(made, home / name, number)
    (home / "d/folder").mkdir(parents=True)
    (home / "d/e").touch()
    os.mkfifo(home / "d/pipe")
    assert sorted(made.put().values()) == [
        f"'{home}/d/e': Not a directory",
        f"'{home}/d/folder' is a folder",
        f"'{home}/d/pipe' is no regular file",
    ]
    assert seen(home) == ["d", "d/e", "d/folder", "d/g", "d/pipe"]


def test_a_file_in_the_place_of_a_new_folder_is_in_the_way(home: Path) -> None:
    made = Drafts("t")
    made.folder(str(home / "x"), 0, 0o755)
    with pytest.raises(Obstacle, match="x' is a folder"):
        made.file(str(home / "x"), 1, 0o644)
    write(made, home / "x/y", 2)
    made.put()
    assert seen(home) == ["x", "x/y"]


def test_modes_are_exact_where_an_access_control_list_rules(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "listxattr", lambda path: ["system.posix_acl_default"])
    changed: list[int] = []
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: changed.append(mode))
    before = os.umask(0)
    try:
        made = Drafts("t")
        write(made, home / "a", 0, 0o640)
        made.put()
    finally:
        os.umask(before)
    assert changed == [0o640]


def test_what_a_killed_process_began_goes_where_somebody_was_quicker(home: Path) -> None:
    killed = Drafts("t")
    write(killed, home / "a", 0)
    killed.folder(str(home / "d"), 1, 0o755)
    (home / "a").mkdir()
    (home / "d").mkdir()
    again = Drafts("t")
    with pytest.raises(Obstacle, match="a' is a folder"):
        again.file(str(home / "a"), 0, 0o644)
    again.folder(str(home / "d"), 1, 0o755)
    again.put()
    assert seen(home) == ["a", "d"]


def test_what_a_killed_process_began_in_a_folder_that_is_there_now(home: Path) -> None:
    write(Drafts("t"), home / "new/a", 5)
    (home / "new").mkdir()
    again = Drafts("t")
    write(again, home / "new/a", 5)
    again.put()
    assert seen(home) == ["new", "new/a"]


def test_folders_may_be_deeper_than_the_stack(home: Path) -> None:
    deep = home / "/".join("d" * 1200)
    made = Drafts("t")
    write(made, deep / "f", 0)
    made.put()
    assert (deep / "f").read_text() == "0"
    # pytest's own removal ends at the same stack.
    run(["rm", "-r", home / "d"], timeout_s=60)
