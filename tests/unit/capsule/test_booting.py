"""What a capsule's record demands of the machine that boots it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.returned import make_capsule, make_job, small_template
from vmcapsule.capsule import booting
from vmcapsule.capsule.packing import plan
from vmcapsule.config import load_config
from vmcapsule.errors import ToolError
from vmcapsule.template.template import load
from vmcapsule.vm.accelerator import KVM, TCG


@pytest.mark.parametrize(
    ("requires", "kind", "boots"),
    [(True, TCG, False), (True, KVM, True), (False, TCG, True), (False, KVM, True)],
)
def test_where_kvm_is_required_nothing_is_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requires: bool, kind: str, boots: bool
) -> None:
    made = make_capsule(tmp_path, make_job(tmp_path), {})._replace(require_kvm=requires)
    booted = []
    monkeypatch.setattr(booting.accelerator, "choose", lambda *_: kind)
    monkeypatch.setattr(booting.boot, "boot", lambda *_, **__: booted.append(kind))
    if boots:
        assert booting.boot_capsule(made, cache=tmp_path, timeout_s=None) == kind
    else:
        with pytest.raises(ToolError, match="KVM is required") as caught:
            booting.boot_capsule(made, cache=tmp_path, timeout_s=None)
        assert "/dev/kvm" in caught.value.remedy
    assert booted == [kind] * boots


@pytest.mark.parametrize(
    ("administrator", "job", "required"),
    [("false", {}, False), ("true", {}, True), ("true", {"VmCapsuleRequireKVM": "false"}, True),
     ("false", {"VmCapsuleRequireKVM": "true"}, True)],
)  # fmt: skip
def test_administrator_or_job_require_kvm(
    tmp_path: Path, administrator: str, job: dict[str, str], required: bool
) -> None:
    knobs = {**small_template(tmp_path), "VM_CAPSULE_REQUIRE_KVM": administrator}
    config = load_config({**knobs, "VM_CAPSULE_TIMEOUT": "60", "VM_CAPSULE_NETWORK": "true"})
    source = make_job(tmp_path, **job)
    made = plan(source, load(config.template), config, None, "run").capsule
    assert made.require_kvm is required
    assert (made.timeout_s, made.network) == (60.0, True)
