"""Whatever a stranger does in scratch, root's ``gc`` ends, and sweeps for everybody else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Callable, Sequence

import pytest

from tests.unit.returned import make_capsule, make_job, put_into
from tests.unit.users import NOBODY, another, give, open_way
from vmcapsule.capsule import naming, states
from vmcapsule.capsule.record import RECORD, SOURCE_AD, Capsule
from vmcapsule.capsule.states import State
from vmcapsule.router import sweep
from vmcapsule.router.owners import Say, Task

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root sweeps for others")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """As on an access point: all may make folders there, none may touch another's."""
    scratch = tmp_path / "s"
    scratch.mkdir()
    scratch.chmod(0o1777)
    open_way(scratch)
    return scratch


def capsule_of(uid: int, scratch: Path, state: State) -> Capsule:
    """A capsule that has run, of ``vmcapsule run``, which no queue need be asked about."""
    home = scratch.parent / f"home-{uid}"
    home.mkdir(exist_ok=True)
    made = make_capsule(scratch, make_job(home), {"out": b"x"}, naming.RUN)
    put_into(made, state)
    give(home, uid)
    give(made.folder, uid)
    return made


def folder_of(uid: int, scratch: Path) -> Path:
    """An empty folder of a capsule's name."""
    folder = scratch / naming.new_name(naming.RUN, "1.0", None)
    folder.mkdir()
    os.chown(folder, uid, uid)
    return folder


def swept(scratch: Path) -> list[str]:
    lines: list[str] = []
    sweep.sweep(scratch, 0.0, lines.append, deadline_s=60)
    return lines


def put_fifo(path: Path) -> None:
    os.mkfifo(path, 0o666)


def put_socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name)
    os.chdir(here)
    os.close(here)


def put_terabytes(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def put_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [put_fifo, put_socket, put_terabytes, put_link, Path.mkdir])
@pytest.mark.parametrize(
    "name", [RECORD, SOURCE_AD, states.LOCK, states.STATE, states.LEFT_OVER, "data.vmdk"]
)
def test_what_lies_in_the_place_of_a_file_keeps_nobody_waiting(
    scratch: Path, name: str, put: Callable[[Path], None]
) -> None:
    hostile = capsule_of(NOBODY, scratch, State.DELIVERING)
    honest = capsule_of(another().pw_uid, scratch, State.DELIVERED)
    (hostile.folder / name).unlink(missing_ok=True)
    put(hostile.folder / name)
    give(hostile.folder, NOBODY)
    said = swept(scratch)
    assert len(said) == 2 and any(line.endswith(": delivered") for line in said), said
    assert "too long" not in "".join(said)
    assert not honest.folder.exists()


def test_folders_without_number_cost_their_owner_a_bounded_log(scratch: Path) -> None:
    honest = capsule_of(another().pw_uid, scratch, State.DELIVERED)
    for _ in range(1500):
        folder_of(NOBODY, scratch)
    said = swept(scratch)
    assert f"user {NOBODY}: and 500 lines more" in said
    assert len(said) == 1002 and not honest.folder.exists()


def test_what_cannot_be_looked_into_or_is_too_deep_is_its_owners_loss(scratch: Path) -> None:
    closed, deep = (folder_of(NOBODY, scratch) for _ in range(2))
    closed.chmod(0)
    deep = deep.rename(deep.with_name(f".{deep.name}.gone"))
    here = os.open(".", os.O_RDONLY)
    os.chdir(deep)
    for _ in range(3000):
        Path("d").mkdir()
        os.chdir("d")
    os.chdir(here)
    os.close(here)
    subprocess.run(["chown", "-R", str(NOBODY), deep], check=True)
    honest = capsule_of(another().pw_uid, scratch, State.DELIVERED)
    try:
        said = swept(scratch)
    finally:
        # Python cannot, and pytest would try.
        subprocess.run(["rm", "-rf", deep], check=True)
    assert not honest.folder.exists()
    assert any(f"kept {closed}: " in line and "Permission denied" in line for line in said)


def test_a_folder_that_becomes_a_link_leads_to_nothing_of_others(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between root's look at it and the work with its owner's rights."""
    victim = capsule_of(another().pw_uid, scratch, State.DELIVERED)
    (victim.folder / states.KEPT).touch()
    begun = folder_of(NOBODY, scratch)
    real = sweep.work_for_all

    def swap(tasks: Sequence[Task], say: Say, *, deadline_s: float) -> None:
        begun.rmdir()
        begun.symlink_to(victim.folder)
        real(tasks, say, deadline_s=deadline_s)

    monkeypatch.setattr(sweep, "work_for_all", swap)
    before = tree(victim.folder)
    said = swept(scratch)
    assert len(said) == 1 and "Permission denied" in said[0]
    assert tree(victim.folder) - before <= {(victim.folder / states.LOCK, 0o100600, 0)}
    assert before <= tree(victim.folder)


def tree(folder: Path) -> set[tuple[Path, int, int]]:
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {(path, status.st_mode, status.st_size) for path, status in found.items()}


def test_the_name_of_a_folder_moves_no_cursor(scratch: Path) -> None:
    name = os.fsencode(folder_of(NOBODY, scratch).name)
    odd = os.fsencode(scratch) + b"/." + name + b".\x1b[2J\n\xff"
    os.mkdir(odd)  # noqa: PTH102 - bytes
    os.chown(odd, NOBODY, NOBODY)
    removed = [line for line in swept(scratch) if "removed" in line]
    assert len(removed) == 1 and removed[0].isprintable()
    assert r"\x1b[2J" in removed[0] and r"\xff" in removed[0].replace(r"\udcff", r"\xff")


def test_what_a_user_has_mounted_there_is_not_asked(scratch: Path) -> None:
    """A program of his would answer, or not."""
    outside, inside = (capsule_of(NOBODY, scratch, State.DELIVERED) for _ in range(2))
    (inside.folder / "re turned").mkdir()
    code = (
        "import sys; from pathlib import Path; from vmcapsule.router.sweep import sweep\n"
        "sweep(Path(sys.argv[1]), 0.0, print)"
    )
    script = 'mount -t tmpfs none "$1/re turned" && exec "$2" -c "$3" "$4"'
    private = ["unshare", "-m", "sh", "-c", script, "-"]
    argv = [*private, inside.folder, sys.executable, code, scratch]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(outside.folder) in done.stdout and str(inside.folder) not in done.stdout
    assert inside.folder.exists() and not outside.folder.exists()
