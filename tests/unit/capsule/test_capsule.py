"""A capsule is there whole or not at all, and its record says where everything is."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.edits import put_files, raw_edit
from tests.unit.returned import OFFSET_BYTES, make_disk, make_job, small_template
from tests.unit.users import acting_as, give
from vmcapsule.capsule import making, packing, record
from vmcapsule.capsule.record import (
    RECORD,
    TEXT_BYTES_MAX,
    Capsule,
    load_capsule,
    save_capsule,
    save_source_ad,
    source_ad,
)
from vmcapsule.config import load_config
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.fat.tree import lay_out
from vmcapsule.disk.fat.volume import FatVolume
from vmcapsule.disk.vmdk.vmdk import FORMS, raw_view, read_vmdk
from vmcapsule.errors import InputError, SpaceError, TooLarge, UsageError
from vmcapsule.guest import staging
from vmcapsule.template.template import load


def make(folder: Path) -> Capsule:
    return Capsule(
        folder=folder,
        data_disk=folder / "data.vmdk",
        system_disk=folder.parent / "template" / "system.vmdk",
        data_bytes=4096,
        cpus=2,
        memory_mib=512,
        kernel=folder.parent / "template" / "vmlinuz",
        cmdline="root=UUID=1",
        part_offset_bytes=32256,
        job_id="11.0",
    )


def test_a_record_reads_back(tmp_path: Path) -> None:
    made = make(tmp_path / "c")
    with making.draft(made.folder) as aside:
        save_capsule(made, aside)
    assert load_capsule(tmp_path / "c") == made


def test_a_capsule_that_was_moved_is_found_where_it_is(tmp_path: Path) -> None:
    made = make(tmp_path / "c")
    with making.draft(made.folder) as aside:
        save_capsule(made, aside)
    (tmp_path / "c").rename(tmp_path / "moved")
    moved = load_capsule(tmp_path / "moved")
    assert moved.data_disk == tmp_path / "moved" / "data.vmdk"
    assert moved.system_disk == made.system_disk


def test_what_fails_while_it_is_built_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError), making.draft(tmp_path / "s" / "c") as aside:
        (aside / "data.vmdk").write_text("half")
        raise InputError("gone")
    assert list((tmp_path / "s").iterdir()) == []


def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="No space left.*VM_CAPSULE_SCRATCH_DIR_PREFIX"):
        with making.draft(tmp_path / "s" / "c") as aside:
            (aside / "data.vmdk").write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list((tmp_path / "s").iterdir()) == []


def test_scratch_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpaceError, match="VM_CAPSULE_SCRATCH_DIR_PREFIX"):
        with making.draft(tmp_path / "file" / "c"):
            pass


def test_a_draft_is_private(tmp_path: Path) -> None:
    with making.draft(tmp_path / "c") as aside:
        assert aside.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "[" * 70_000, "\0"])
def test_a_record_that_is_none_is_explained(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(UsageError, match="is no capsule"):
        load_capsule(tmp_path)


def test_a_source_ad_may_hold_any_bytes(tmp_path: Path) -> None:
    made = make(tmp_path)
    save_source_ad('Cmd = "\udcff"\n', tmp_path)
    assert source_ad(made) == 'Cmd = "\udcff"\n'


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("size", [20 << 20, 64 << 20])
@pytest.mark.parametrize("travels", [False, True])
def test_a_data_disk_is_of_its_own_form_whatever_the_templates_is(
    tmp_path: Path, form: str, size: int, travels: bool
) -> None:
    """It has the template's files only where it is no larger."""
    (tmp_path / "t").mkdir()
    (tmp_path / "c").mkdir()
    source = make_disk(tmp_path / "t" / "the data.vmdk", form)
    stale = os.urandom(6 << 20)
    with raw_edit(source, tmp_path) as raw:
        put_files(FatVolume.open(raw.fd, OFFSET_BYTES), {"stale": stale, "tools/file": b"kept"})
        volume = FatVolume.open(raw.fd, OFFSET_BYTES)
        lay_out(volume, {}, remove=["stale"]).write()
    load = staging.packed([], texts=[("staged", b"new")])
    made = staging.stage(load, DataDisk(source), tmp_path / "c", size, travels=travels)
    disk = read_vmdk(made.path)
    assert disk.path == tmp_path / "c" / "the data.vmdk"
    wanted = "monolithicSparse" if travels else "monolithicFlat"
    assert (disk.form, disk.capacity_bytes) == (wanted, size)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        path.name for path in disk.files
    }
    assert sum(file.stat().st_blocks * 512 for file in disk.files) < 2 << 20
    with raw_view(disk.path, tmp_path) as raw:
        volume = FatVolume.open(raw.fd, OFFSET_BYTES)
        kept = volume.lookup("tools/file") is not None
        assert volume.read("staged", 9) == b"new"
        assert (volume.label, kept) == ("CONDOR-DATA", size == 20 << 20)


def test_removing_takes_the_folder_whole(tmp_path: Path) -> None:
    made = make(tmp_path / "c")
    with making.draft(made.folder) as aside:
        save_capsule(made, aside)
    making.remove(made.folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("data_disk", 5), ("cpus", "2"), ("kernel", []), ("cmdline", None), ("vmx", "a\0b")],
)
def test_a_record_of_other_types_is_no_record(tmp_path: Path, name: str, value: object) -> None:
    made = make(tmp_path / "c")
    with making.draft(made.folder) as aside:
        save_capsule(made, aside)
    path = made.folder / RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(UsageError, match=f"not a record: {name} is"):
        load_capsule(made.folder)


def whole(**more: Any) -> st.SearchStrategy[Capsule]:
    """Any capsule: what is its own lies in its folder, the rest wherever it likes."""
    name = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=20).filter(
        lambda text: text not in (".", "..")
    )
    folder = Path("/scratch/capsule")
    place = st.builds(lambda parts: Path("/", *parts), st.lists(name, min_size=1, max_size=3))
    path = st.one_of(place, st.builds(lambda inside: folder / inside, name))
    hints = get_type_hints(Capsule)
    known = {Path: path, str: st.text(), int: st.integers(0, 1 << 63), bool: st.booleans()}
    known[float] = st.floats(0, 1e9)
    fields = {
        field: known[hint] if hint in known else st.none() | known[get_args(hint)[0]]
        for field, hint in hints.items()
    }
    return st.builds(Capsule, **{**fields, "folder": st.just(folder), **more})


@given(whole())
def test_what_is_saved_of_any_capsule_is_read_again(made: Capsule) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_capsule(made, Path(folder))
        there = Path(folder).absolute()
        moved = {
            field: there / value.relative_to(made.folder)
            for field, value in made._asdict().items()
            if isinstance(value, Path) and value.is_relative_to(made.folder)
        }
        assert load_capsule(Path(folder)) == made._replace(**moved)


def listed(count: int) -> str:
    return ",".join(f"results/part-{number:05}/histogram.root" for number in range(count))


def test_a_capsule_of_two_thousand_listed_outputs_can_be_read(tmp_path: Path) -> None:
    made = make(tmp_path)._replace(wanted_outputs=listed(2000))
    save_capsule(made, tmp_path)
    assert load_capsule(tmp_path) == made


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    made = make(tmp_path)._replace(wanted_outputs="x" * TEXT_BYTES_MAX)
    with pytest.raises(TooLarge, match="the list of its outputs.*of at most"):
        save_capsule(made, tmp_path)
    with pytest.raises(TooLarge, match="its ad.*of at most"):
        save_source_ad("x" * (TEXT_BYTES_MAX + 1), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "attributes",
    [{"TransferOutput": f'"{listed(3000)}"'}, {"Note": f'"{"x" * 100_000}"'}],
)
def test_a_job_of_which_too_much_is_to_be_kept_is_refused_before_it_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attributes: dict[str, str]
) -> None:
    config = load_config(small_template(tmp_path))
    monkeypatch.setattr(record, "TEXT_BYTES_MAX", 100_000)
    job = make_job(tmp_path, **attributes)
    with pytest.raises(TooLarge):
        packing.plan(job, load(config.template), config, None, "run")
    assert not config.scratch_dir_prefix.exists()


def test_a_folder_that_nobody_may_look_into_goes_too(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    (folder / "returned/closed/inner").mkdir(parents=True)
    (folder / "returned/elsewhere").symlink_to(tmp_path / "mine")
    (tmp_path / "mine").mkdir(mode=0o750)
    for path in ("returned/closed/inner", "returned/closed", "returned"):
        (folder / path).chmod(0)
    give(tmp_path)
    with acting_as():
        making.remove(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o750
