"""From a job to its end without a VM: what is kept and what is removed on each way out.

A program of QEMU's name stands for the guest: it may write to the data disk and ends.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.unit.returned import small_template, with_capsule
from vmcapsule.capsule import making
from vmcapsule.capsule.record import Capsule
from vmcapsule.classad.ads import Ad, parse_ad
from vmcapsule.config import Config, load_config
from vmcapsule.disk.data_disk import DataDisk
from vmcapsule.disk.empty_disk import build_data_disk
from vmcapsule.disk.vmdk.vmdk import create_vmdk, read_vmdk
from vmcapsule.errors import AdError, ConfigError, DiskError, GuestError, TooLarge
from vmcapsule.job.source import read_job
from vmcapsule.local import run
from vmcapsule.router import translate
from vmcapsule.template.template import load


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A template without a kernel (so nothing is probed) and a scratch folder."""
    return load_config(small_template(tmp_path))


def job_ad(tmp_path: Path) -> str:
    return (
        f'Iwd = "{tmp_path}"\nCmd = "/bin/true"\nJobUniverse = 5\nClusterId = 7\nProcId = 0\n'
    )


def run_in(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, guest: str) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "qemu-system-x86_64").write_text("#!/bin/sh\n" + guest)
    (programs / "qemu-system-x86_64").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    job = read_job(parse_ad(job_ad(tmp_path)))
    run.run_job(job, load(config.template), config, tarball=None, timeout_s=60)


def test_a_capsule_that_cannot_be_read_is_kept(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DiskError, match="the capsule is kept: .*/run-7.0-"):
        # QEMU's TMPDIR is the capsule's folder.
        run_in(tmp_path, config, monkeypatch, ': >"$TMPDIR/data-flat.vmdk"\n')
    (kept,) = config.scratch_dir_prefix.iterdir()
    assert (kept / "capsule.json").exists()


def test_a_capsule_interrupted_while_delivering_is_kept_and_named(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt(15)

    monkeypatch.setattr(run, "deliver_from", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        run_in(tmp_path, config, monkeypatch, "exit 0\n")
    (kept,) = config.scratch_dir_prefix.iterdir()
    assert caught.value.args == (15, f"the capsule is kept: {kept}")


def test_the_capsule_of_a_silent_guest_is_removed(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GuestError, match="no exit record"):
        run_in(tmp_path, config, monkeypatch, "exit 0\n")
    assert list(config.scratch_dir_prefix.iterdir()) == []


def routed(
    tmp_path: Path,
    config: Config,
    scratch: Path,
    classad: str,
    *,
    ad: str = "",
    route: str = "",
    universe: Optional[int] = None,
    **more: str,
) -> translate.Routed:
    knobs = {
        "VM_CAPSULE_TEMPLATE": str(config.template),
        "VM_CAPSULE_SCRATCH_DIR_PREFIX": str(scratch),
        "VM_CAPSULE_CACHE_DIR": str(config.cache),
        "VM_CAPSULE_CONDOR_TARBALL": str(config.condor_tarball),
        "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": classad,
    }
    target = "" if universe is None else f"; TargetUniverse = {universe}"
    text = f'[ Name = "{route}"{target} ]\n------\n' if route else ""
    return translate.translate(text + job_ad(tmp_path) + ad, load_config({**knobs, **more}))


def translated(*folders_and_kind: Any, **more: Any) -> tuple[Ad, Capsule]:
    return with_capsule(routed(*folders_and_kind, **more))


@pytest.mark.parametrize("form", ["monolithicFlat", "twoGbMaxExtentSparse"])
@pytest.mark.parametrize("offset", [1 << 20, 32256])
def test_a_data_disk_has_room_for_what_the_job_asks(
    tmp_path: Path, config: Config, form: str, offset: int
) -> None:
    folder = config.template / "condor_vm_capsule"
    for old in folder.glob("data*.vmdk"):
        old.unlink()
    build_data_disk(tmp_path / "small", size_bytes=16 << 20, offset_bytes=offset, label="MINE")
    create_vmdk(tmp_path / "small", folder / "data.vmdk", form, adapter="lsilogic")
    _, made = translated(
        tmp_path, config, tmp_path / "s", "vmware", ad="RequestDisk = 5 * 1024 * 1024\n"
    )
    disk = read_vmdk(made.data_disk)
    assert disk.capacity_bytes == made.data_bytes >= 5 << 30
    assert disk.adapter == "lsilogic"
    with DataDisk(made.data_disk).opened(tmp_path, made.data_bytes) as volume:
        assert volume.label == "MINE"
        assert volume.free_bytes >= 5 << 30
        assert volume.lookup("condor-init.py") is not None
    used = sum(file.stat().st_blocks * 512 for file in disk.files)
    assert used < 2 << 20, "it takes room only as it is filled"


def test_a_disk_that_no_fat_can_be_is_refused(tmp_path: Path, config: Config) -> None:
    with pytest.raises(TooLarge, match="request less disk"):
        translated(
            tmp_path, config, tmp_path / "s", "kvm-gahp", ad="RequestDisk = 3000000000\n"
        )
    assert list((tmp_path / "s").glob("*")) == []


def test_a_route_may_have_an_ad_template_of_its_own(tmp_path: Path, config: Config) -> None:
    own = {"VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE_OldPool": "vmware"}
    for route, vm_type in (("oldpool", "vmware"), ("other", "kvm"), ("", "kvm")):
        ad, made = translated(tmp_path, config, tmp_path / "s", "kvm-gahp", route=route, **own)
        assert ad.string("JobVMType") == vm_type
        making.remove(made.folder)


def test_only_the_router_clears_away_what_an_earlier_translation_made(
    tmp_path: Path, config: Config
) -> None:
    scratch = tmp_path / "s"
    _, running = translated(tmp_path, config, scratch, "kvm-gahp", route="capsule")
    _, by_hand = translated(tmp_path, config, scratch, "kvm-gahp")
    assert running.folder.exists(), "its routed job may be running"
    _, again = translated(tmp_path, config, scratch, "kvm-gahp", route="capsule")
    assert set(scratch.iterdir()) == {by_hand.folder, again.folder}


def test_an_ad_that_the_router_would_cut_off_is_refused(tmp_path: Path, config: Config) -> None:
    note = {"ad": f'Note = "{"x" * 20_000}"\n', "route": "capsule"}
    with pytest.raises(TooLarge, match="PIPE_BUFFER_MAX = 10240"):
        translated(tmp_path, config, tmp_path / "s", "kvm-gahp", **note)
    assert not (tmp_path / "s").exists(), "nothing is packed for it"
    more = {"PIPE_BUFFER_MAX": "65536"}
    ad, _ = translated(tmp_path, config, tmp_path / "s", "kvm-gahp", **note, **more)
    assert len(ad.string("Note") or "") == 20_000


@pytest.mark.parametrize("classad", ["vmware", "kvm-gahp"])
def test_an_ad_that_just_fits_is_taken(tmp_path: Path, config: Config, classad: str) -> None:
    """Before anything is packed it is known how long the ad is, but for a few digits."""
    note = {"ad": f'Note = "{"x" * 5000}"\n', "route": "capsule"}
    ad, made = translated(tmp_path, config, tmp_path / "s", classad, **note)
    size_bytes = len(ad.long_form())
    assert (
        ad.integer("TransferInputSizeMB")
        == ((ad.integer("DiskUsage") or 0) - 1024 * (ad.integer("RequestMemory") or 0) + 1023)
        // 1024
    )
    for limit, is_taken in ((size_bytes - 1, False), (size_bytes + 16, True)):
        more = {**note, "PIPE_BUFFER_MAX": str(limit)}
        if is_taken:
            again, _ = translated(tmp_path, config, tmp_path / "s", classad, **more)
            assert len(again.long_form()) == size_bytes
        else:
            with pytest.raises(TooLarge):
                translated(tmp_path, config, tmp_path / "s", classad, **more)


@pytest.mark.parametrize(
    ("classad", "fits", "name"), [("vmware", 13, "VM"), ("slot", 5, "VANILLA")]
)
@pytest.mark.parametrize("universe", [5, 9, 13])
def test_a_route_and_an_ad_template_that_do_not_fit_are_both_named(
    tmp_path: Path, config: Config, classad: str, fits: int, name: str, universe: int
) -> None:
    def made() -> Ad:
        return routed(
            tmp_path, config, tmp_path / "s", classad, route="slow", universe=universe
        ).ad

    if universe == fits:
        assert made().integer("JobUniverse") == universe
        return
    with pytest.raises(ConfigError) as failed:
        made()
    said = str(failed.value)
    for word in ("'slow'", f"TargetUniverse = {universe}", f"{classad}.classad'"):
        assert word in said, said
    assert f"JobUniverse = {fits}" in said and f"UNIVERSE {name}" in said
    assert not (tmp_path / "s").exists()


def test_nothing_is_packed_for_a_kind_of_job_that_is_not_known(
    tmp_path: Path, config: Config
) -> None:
    classad = tmp_path / "mine.classad"
    classad.write_text("A = 1\n")
    with pytest.raises(ConfigError, match="no JobUniverse"):
        translated(tmp_path, config, tmp_path / "scratch", str(classad))
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("classad", ["vmware", "kvm-gahp"])
def test_a_translation_whose_ad_cannot_be_made_leaves_no_capsule(
    tmp_path: Path, config: Config, classad: str
) -> None:
    scratch = tmp_path / "a,b"
    with pytest.raises(AdError, match="comma"):
        translated(tmp_path, config, scratch, classad)
    assert not scratch.exists()
