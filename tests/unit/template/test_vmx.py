"""A machine that somebody made, as a job wants it: a disk more, and other settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.errors import TemplateError
from vmcapsule.resources import resource
from vmcapsule.template.template import parse_vmx, vmx_disks
from vmcapsule.template.vmx import machine_settings, never_written, with_disk, with_settings


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


def test_settings_take_the_place_of_those_of_the_same_name() -> None:
    text = 'memsize = "1024"\n# memsize\nMemSize="7"\nother = "1"'
    changed = with_settings(text, {"memsize": "512", "new": "x"})
    assert changed == '# memsize\nother = "1"\nmemsize = "512"\nnew = "x"\n'
    assert with_settings("", {"a": "b"}) == 'a = "b"\n'


@given(st.lists(st.sampled_from(["memsize", "A.b", "c"])), st.sampled_from(["\n", "\r\n"]))
def test_other_settings_stay_and_none_is_there_twice(names: list[str], end: str) -> None:
    text = end.join(f'{name} = "old"' for name in names)
    changed = parse_vmx(with_settings(text, {"memsize": "new"}))
    assert changed == {**{name.lower(): "old" for name in names}, "memsize": "new"}
    assert with_settings(text, {"memsize": "new"}).lower().count("memsize") == 1


def test_a_machine_has_the_size_that_is_asked_for() -> None:
    assert machine_settings(510, 2, network=False) == {
        "memsize": "512",
        "numvcpus": "2",
        "ethernet0.present": "FALSE",
    }
    assert machine_settings(512, 1, network=True)["ethernet0.connectionType"] == "nat"


def test_what_is_written_on_a_shared_disk_does_not_stay() -> None:
    text = vmx("ide0:0", data="ide0:1")
    assert never_written(text, ["ide0:0.vmdk"]) == {"ide0:0.mode": "independent-nonpersistent"}
