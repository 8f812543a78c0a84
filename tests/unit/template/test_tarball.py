"""Which HTCondor a template holds is told by its digest, and what a capsule then carries."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.guest_place import load_guest
from tests.unit.returned import small_template
from vmcapsule import contract
from vmcapsule.capsule import naming, packing
from vmcapsule.classad.ads import parse_ad
from vmcapsule.config import Config, load_config
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.job.source import read_job
from vmcapsule.template import tarball
from vmcapsule.template.tarball import HTCondorTarball, described, is_in, tarball_of
from vmcapsule.template.template import Template, load


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(small_template(tmp_path))


def built_with(config: Config, **changes: object) -> Template:
    """The template as its builder leaves it: with the configured HTCondor in it."""
    record = {"format": 1, "condor": {**described(tarball_of(config)), **changes}}
    (config.template / "condor_vm_capsule/template.json").write_text(json.dumps(record))
    return load(config.template)


def test_the_tarball_that_the_template_was_built_with_is_not_read_again(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = built_with(config)

    def unexpected(_: Path) -> str:
        raise AssertionError("a hook has no time to read it")

    monkeypatch.setattr(tarball, "_sha256", unexpected)
    assert is_in(template, tarball_of(config))


def test_a_copy_of_that_tarball_is_known_by_its_digest(config: Config, tmp_path: Path) -> None:
    template, given = built_with(config), tarball_of(config)
    copy = HTCondorTarball(tmp_path / "copy.tar", given.version)
    shutil.copyfile(given.path, copy.path)
    os.utime(copy.path, (1, 1))
    assert is_in(template, copy)


@pytest.mark.parametrize("longer", [False, True])
def test_another_tarball_of_the_same_version_is_another(config: Config, longer: bool) -> None:
    template, given = built_with(config), tarball_of(config)
    data = given.path.read_bytes()
    given.path.write_bytes(data + b"x" if longer else data[:-1] + b"x")
    os.utime(given.path, (1, 1))
    assert not is_in(template, given)


def test_another_version_is_another_whatever_the_file(config: Config) -> None:
    template = built_with(config)
    assert not is_in(template, tarball_of(config)._replace(version="1.1"))


@pytest.mark.parametrize("held", [None, "1.0", [], {}, {"version": "1.0"}])
def test_a_record_that_says_too_little_holds_none(config: Config, held: Any) -> None:
    record = {"format": 1, "condor": held}
    (config.template / "condor_vm_capsule/template.json").write_text(json.dumps(record))
    assert not is_in(load(config.template), tarball_of(config))


@pytest.mark.parametrize("held", [True, False])
def test_the_tarball_is_staged_only_where_the_template_lacks_it(
    tmp_path: Path, config: Config, held: bool
) -> None:
    template = built_with(config) if held else load(config.template)
    text = f'Iwd = "{tmp_path}"\nCmd = "/bin/true"\nJobUniverse = 5\n'
    job, condor = read_job(parse_ad(text)), tarball_of(config)
    made = packing.pack(packing.plan(job, template, config, condor, naming.RUN))
    with DataDisk(made.data_disk).opened(tmp_path, made.data_bytes) as volume:
        assert (volume.lookup(contract.TARBALL) is None) == held
        record = json.loads(volume.read(contract.JOB_RECORD, 1 << 16))
    assert (record["runner"], record["condor_version"]) == ("condor", "1.0")


class Machine:
    """The guest's side: where HTCondor is, or is to be unpacked from."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.guest = load_guest()
        self.data, self.home = folder / "data", folder / "condor-1.0"
        (self.data / contract.RECORD_DIR).mkdir(parents=True)
        self.spawned: list[list[str]] = []

        def spawn(argv: list[str], *_: object) -> int:
            self.spawned.append(argv)
            return 1

        monkeypatch.setattr(self.guest, "spawn", spawn)
        place = SimpleNamespace(work=str(folder), data_dir=str(self.data), log=print)
        self.condor = self.guest.Condor({"condor_version": "1.0"}, place)
        self.condor.home = str(self.home)

    def send(self) -> None:
        (self.data / contract.TARBALL).write_bytes(b"")

    def hold(self) -> None:
        self.home.mkdir()
        (self.home / "old").touch()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_the_guest_starts_the_templates_htcondor_where_none_was_sent(machine: Machine) -> None:
    machine.hold()
    machine.condor.prepare()
    machine.condor.wait_tar()
    assert machine.spawned == [] and (machine.home / "old").exists()


def test_a_tarball_that_was_sent_wins_over_the_templates_folder(machine: Machine) -> None:
    machine.hold()
    machine.send()
    machine.condor.prepare()
    assert not machine.home.exists(), "nothing of the other one stays"
    ((*_, unpacked),) = machine.spawned
    assert unpacked == str(machine.data / contract.TARBALL)


def test_a_link_to_an_htcondor_elsewhere_gives_way_too(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    machine.home.symlink_to(tmp_path / "elsewhere")
    machine.send()
    machine.condor.prepare()
    assert not machine.home.is_symlink() and (tmp_path / "elsewhere").is_dir()


def test_a_guest_without_any_htcondor_says_so(machine: Machine) -> None:
    with pytest.raises(machine.guest.Failure, match="neither .*condor.tar nor .*condor-1.0"):
        machine.condor.prepare()
