"""Which kind of routed job an ad template makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.returned import small_template
from vmcapsule.classad.ads import parse_ad
from vmcapsule.config import load_config
from vmcapsule.errors import ConfigError
from vmcapsule.resources import resource
from vmcapsule.router.route import Route
from vmcapsule.router.routes import MODULES, read_ad_template, route_of
from vmcapsule.router.translate import translate


@pytest.mark.parametrize(("told", "module"), MODULES.items())
def test_each_kind_is_the_one_that_its_module_makes(
    told: tuple[int, str, str], module: str
) -> None:
    universe, vm_type, mark = told
    marks = {name: name == mark for name in ("VmCapsuleGahp", "VmCapsuleInSlot")}
    told_ad = parse_ad(f'JobUniverse = {universe}\nJobVMType = "{vm_type.upper()}"')
    route = route_of(told_ad.with_(marks))
    assert (route.universe, route.vm_type, route.mark) == told
    ours = resource(f"templates/{module.replace('_', '-')}.classad")
    assert route_of(read_ad_template(ours)) == route


def test_what_no_capsule_is_made_for_is_told_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="JobUniverse = 13, JobVMType = xen") as caught:
        route_of(parse_ad('JobUniverse = 13\nJobVMType = "xen"'))
    for known in (
        "JobUniverse = 5",
        "vmware",
        "kvm",
        "VmCapsuleGahp = true",
        "VmCapsuleInSlot = true",
    ):
        assert known in caught.value.remedy


@pytest.mark.parametrize("classad", ["vmware", "kvm", "kvm-gahp"])
def test_an_ad_template_without_requirements_has_those_of_the_one_that_we_ship(
    classad: str,
) -> None:
    template = read_ad_template(resource(f"templates/{classad}.classad"))
    route = route_of(template)
    assert isinstance(route, Route)
    assert route.requirements == template.expr("Requirements")


@pytest.mark.parametrize(
    ("classad", "network"),
    [
        ("kvm-gahp", "TARGET.VMCapsuleNetwork =?= true"),
        (
            "vmware",
            "TARGET.VMCapsuleNetwork =?= true"
            ' || regexp("^vmware ", TARGET.VMCapsuleHypervisor)',
        ),
        ("kvm", "TARGET.VM_Networking =?= true"),
    ],
)
@pytest.mark.parametrize("demanded", [True, False])
def test_what_a_capsule_demands_of_its_machine(
    tmp_path: Path, classad: str, network: str, demanded: bool
) -> None:
    param = {**small_template(tmp_path), "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": classad}
    wanted = {"VM_CAPSULE_NETWORK": "true", "VM_CAPSULE_REQUIRE_KVM": "true"}
    text = (
        f'ClusterId = 7\nProcId = 0\nCmd = "/bin/true"\nIwd = "{tmp_path}"\nJobUniverse = 5\n'
    )
    ad = translate(text, load_config({**param, **(wanted if demanded else {})})).ad
    required = ad.expr("Requirements") or ""
    assert required.endswith(f" && ({network}) && (TARGET.VMCapsuleKVM =?= true)") is demanded
    assert (network in required, "VMCapsuleKVM" in required) == (demanded, demanded)
