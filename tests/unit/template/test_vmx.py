"""A disk added to a machine that somebody made: at the next free place after the data disk."""

from __future__ import annotations

import pytest

from vmcapsule.errors import TemplateError
from vmcapsule.resources import resource
from vmcapsule.template.template import parse_vmx, vmx_disks
from vmcapsule.template.vmx import with_disk


def vmx(*devices: str, data: str) -> str:
    lines = [f'{device}.fileName = "{device}.vmdk"' for device in devices]
    return "\r\n".join([*lines, f'{data}.FILENAME = "data.vmdk"'])


@pytest.mark.parametrize(
    ("devices", "data", "place"),
    [
        (["ide0:0"], "ide0:1", "ide1:0"),
        (["ide0:1", "ide1:0"], "ide0:0", "ide1:1"),
        (["scsi0:0"], "scsi0:1", "scsi0:2"),
        (["scsi0:0"], "scsi0:6", "scsi0:8"),
        (["ide0:0", "scsi0:3"], "scsi0:2", "scsi0:4"),
        (["sata0:0"], "sata0:1", "sata0:2"),
        (["nvme0:0"], "nvme1:3", "nvme1:4"),
    ],
)
def test_it_comes_after_the_disks_that_the_guest_knows(
    devices: list[str], data: str, place: str
) -> None:
    before = vmx(*devices, data=data)
    after = with_disk(before, "work.vmdk", "data.vmdk")
    assert after.startswith(before)
    settings = parse_vmx(after)
    assert settings[f"{place}.filename"] == "work.vmdk"
    assert settings[f"{place}.mode"] == "independent-nonpersistent"
    assert set(vmx_disks(settings)) == {*vmx_disks(parse_vmx(before)), "work.vmdk"}


def test_the_place_of_a_cd_drive_is_not_taken() -> None:
    text = vmx("ide0:0", data="ide0:1") + '\nide1:0.present = "FALSE"\n'
    assert "ide1:1.filename" in parse_vmx(with_disk(text, "w", "data.vmdk"))


def test_a_machine_without_a_free_place_is_said_to_have_none() -> None:
    with pytest.raises(TemplateError, match="no free place after its disk ide1:1"):
        with_disk(vmx("ide0:0", data="ide1:1"), "work.vmdk", "data.vmdk")


def test_our_own_machine_has_one() -> None:
    text = resource("templates/capsule.vmx").read_text().replace("${data_disk}", "data.vmdk")
    assert "ide1:0.filename" in parse_vmx(with_disk(text, "work.vmdk", "data.vmdk"))
