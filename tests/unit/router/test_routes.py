"""Which kind of routed job an ad template makes."""

from __future__ import annotations

import pytest

from vmcapsule.classad.ads import parse_ad
from vmcapsule.errors import ConfigError
from vmcapsule.resources import resource
from vmcapsule.router.routes import MODULES, read_ad_template, route_of


@pytest.mark.parametrize(("told", "module"), MODULES.items())
def test_each_kind_is_the_one_that_its_module_makes(
    told: tuple[int, str, bool], module: str
) -> None:
    universe, vm_type, own_gahp = told
    text = (
        f'JobUniverse = {universe}\nJobVMType = "{vm_type.upper()}"\nVmCapsuleGahp = {own_gahp}'
    )
    route = route_of(parse_ad(text))
    assert (route.universe, route.vm_type, route.own_gahp) == told
    ours = resource(f"templates/{module.replace('_', '-')}.classad")
    assert route_of(read_ad_template(ours)) == route


def test_what_no_capsule_is_made_for_is_told_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="JobUniverse = 13, JobVMType = xen") as caught:
        route_of(parse_ad('JobUniverse = 13\nJobVMType = "xen"'))
    for known in ("JobUniverse = 5", "vmware", "kvm", "VmCapsuleGahp = true"):
        assert known in caught.value.remedy
