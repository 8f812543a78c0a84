"""Which hypervisor an execute point's configuration chooses."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmcapsule.errors import ConfigError, ToolError
from vmcapsule.slot import hypervisor


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH; there is nothing in it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("_CONDOR_VM_CAPSULE_HYPERVISOR", raising=False)
    return tmp_path


def put(folder: Path, name: str, text: str = "") -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_vmware_is_chosen_where_it_is(programs: Path) -> None:
    assert hypervisor.chosen() == "qemu"
    put(programs, "vmrun")
    assert hypervisor.chosen() == "ws"


@pytest.mark.parametrize("said", ["qemu", "ws", "player", "server1", "Player "])
def test_htcondors_configuration_is_asked(programs: Path, said: str) -> None:
    put(programs, "vmrun")
    put(programs, "condor_config_val", f'test "$*" = VM_CAPSULE_HYPERVISOR && echo "{said}"')
    assert hypervisor.chosen() == said.strip().lower()


def test_what_htcondor_does_not_define_is_not_chosen(programs: Path) -> None:
    put(programs, "condor_config_val", "echo Not defined: VM_CAPSULE_HYPERVISOR; exit 1")
    assert hypervisor.chosen() == "qemu"


@pytest.mark.parametrize("end", ["echo cannot read it >&2; exit 1", "kill -9 $$"])
def test_what_htcondor_cannot_say_is_not_guessed(programs: Path, end: str) -> None:
    put(programs, "condor_config_val", end)
    with pytest.raises(ToolError, match="condor_config_val VM_CAPSULE_HYPERVISOR"):
        hypervisor.chosen()


def test_the_environment_is_htcondors_configuration(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(programs, "condor_config_val", "echo qemu")
    monkeypatch.setenv("_CONDOR_VM_CAPSULE_HYPERVISOR", "ws")
    assert hypervisor.chosen() == "ws"


def test_another_one_is_refused_by_name(programs: Path) -> None:
    put(programs, "condor_config_val", "echo xen")
    with pytest.raises(ConfigError, match="VM_CAPSULE_HYPERVISOR = xen") as refused:
        hypervisor.chosen()
    assert "'qemu'" in (refused.value.remedy or "")
