"""A template folder as `template.load` sees it: each way it can be wrong has its message."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.errors import TemplateError
from vmcapsule.template.template import load, parse_vmx, vmx_disks

VMX = """\
.encoding = "UTF-8"
# a comment = "not a setting"
ide0:0.present = "TRUE"
ide0:0.fileName = "system.vmdk"
IDE0:1.PRESENT = "true"
IDE0:1.FILENAME = "data.vmdk"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-image"
ide1:0.fileName = "tools.iso"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A template 'sl9' made by hand: a .vmx and two disks."""
    folder = tmp_path / "sl9" / "condor_vm_capsule"
    folder.mkdir(parents=True)
    (folder / "vm.vmx").write_text(VMX)
    for name in ("system.vmdk", "data.vmdk"):
        (folder / name).touch()
    return tmp_path / "sl9"


def refused(root: Path) -> str:
    with pytest.raises(TemplateError) as caught:
        load(root)
    assert caught.value.message.startswith("template 'sl9': ")
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_handmade_template(root: Path) -> None:
    template = load(root)
    assert template.vmx.name == "vm.vmx"
    assert template.system_disk == root / "condor_vm_capsule/system.vmdk"
    assert template.data_disk == root / "condor_vm_capsule/data.vmdk"
    assert template.other_disks == ()
    assert (template.kernel, template.initrd, template.cmdline) == (None, None, "")
    assert dict(template.record) == {}


def test_kernel_initrd_and_record_of_ours(root: Path) -> None:
    folder = root / "condor_vm_capsule"
    (folder / "vmlinuz").touch()
    (folder / "initrd.img").touch()
    (folder / "template.json").write_text('{"format": 1, "cmdline": "quiet", "suite": "x"}')
    template = load(root)
    assert template.kernel == folder / "vmlinuz"
    assert template.initrd == folder / "initrd.img"
    assert template.cmdline == "quiet"
    assert template.record["suite"] == "x"


def test_plain_kernel_comes_before_the_compressed_one(root: Path) -> None:
    (root / "condor_vm_capsule/vmlinuz").touch()
    (root / "condor_vm_capsule/vmlinux").touch()
    assert load(root).kernel == root / "condor_vm_capsule/vmlinux"


def test_no_folder(tmp_path: Path) -> None:
    assert f"no folder {tmp_path}/sl9/condor_vm_capsule" in refused(tmp_path / "sl9")


def test_no_vmx(root: Path) -> None:
    (root / "condor_vm_capsule/vm.vmx").unlink()
    assert "no .vmx file" in refused(root)


def test_two_vmx(root: Path) -> None:
    (root / "condor_vm_capsule/copy.VMX").touch()
    assert "'copy.VMX', 'vm.vmx'" in refused(root)


def test_missing_data_disk_has_the_message_of_the_architecture(root: Path) -> None:
    path = root / "condor_vm_capsule/data.vmdk"
    path.unlink()
    assert refused(root) == (
        f"template 'sl9': no disk at {path}; "
        "build it with 'vmcapsule template build' or fix VM_CAPSULE_TEMPLATE"
    )


def test_missing_system_disk(root: Path) -> None:
    (root / "condor_vm_capsule/system.vmdk").unlink()
    assert "no disk at" in refused(root)


def test_data_disk_that_the_vmx_does_not_name(root: Path) -> None:
    vmx = root / "condor_vm_capsule/vm.vmx"
    vmx.write_text(VMX.replace('"data.vmdk"', '"system.vmdk"'))
    assert "does not name data.vmdk" in refused(root)


def test_data_disk_alone(root: Path) -> None:
    vmx = root / "condor_vm_capsule/vm.vmx"
    vmx.write_text(VMX.replace('"system.vmdk"', '"data.vmdk"'))
    assert "names no disk but data.vmdk" in refused(root)


@pytest.mark.parametrize("name", ["../system.vmdk", "/abs/system.vmdk", "a\\b.vmdk", "..", ""])
def test_disk_outside_the_folder(root: Path, name: str) -> None:
    vmx = root / "condor_vm_capsule/vm.vmx"
    vmx.write_text(VMX.replace('"system.vmdk"', f'"{name}"'))
    assert f"names the disk '{name}'" in refused(root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a template's record"),
        ('{"format": 1, "cmdline": 7}', "is not a template's record"),
        ('{"format": 99}', "format 99"),
        ("{}", "format None"),
    ],
)
def test_damaged_record(root: Path, text: str, said: str) -> None:
    (root / "condor_vm_capsule/template.json").write_text(text)
    assert said in refused(root)


def test_vmx_that_is_not_a_text(root: Path) -> None:
    (root / "condor_vm_capsule/vm.vmx").write_bytes(b"\xff" * ((1 << 20) + 1))
    assert "larger than" in refused(root)


def test_vmx_in_another_encoding_still_names_its_disks(root: Path) -> None:
    text = 'displayName = "Rechner f\xfcr Jobs"\n'.encode("latin-1") + VMX.encode()
    (root / "condor_vm_capsule/vm.vmx").write_bytes(text)
    assert load(root).system_disk.name == "system.vmdk"


def test_boot_order_is_by_bus_then_number() -> None:
    settings = parse_vmx(
        'scsi0:0.fileName = "c.vmdk"\nide0:10.fileName = "b.vmdk"\nide0:2.fileName = "a.vmdk"\n'
        'ide1:0.fileName = "gone.vmdk"\nide1:0.present = "FALSE"\n'
    )
    assert vmx_disks(settings) == ("a.vmdk", "b.vmdk", "c.vmdk")


def test_vmx_values_are_unescaped() -> None:
    assert parse_vmx('a = "say |22hi|22 |7C"')["a"] == 'say "hi" |'


@given(st.text())
def test_no_vmx_text_breaks_the_parser(text: str) -> None:
    disks = vmx_disks(parse_vmx(text))
    assert all(isinstance(disk, str) for disk in disks)


KEYS = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
VALUES = st.text().map(lambda text: text.replace("|", "").replace('"', "").replace("\n", ""))


@given(st.dictionaries(KEYS, VALUES))
def test_vmx_settings_survive(settings: dict[str, str]) -> None:
    text = "".join(f'{key.upper()}  = "{value}"\r\n' for key, value in settings.items())
    assert parse_vmx(text) == settings
