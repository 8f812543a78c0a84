"""What is read of an ad that anybody may have written: plain literals, once each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.errors import AdError
from vmcapsule.slot.libvirt.asked import AD_BYTES_MAX, Asked, AskedDisk, read_asked

#: As HTCondor 23.9.6's vm-gahp prints one.
AD = """\
User = "alice@pool.test"
ClusterId = 4
Args = ""
JobVMMemory = 320
JobVM_VCPUS = 2
JobVMNetworking = false
VMPARAM_vm_Disk = "system.vmdk:vda:r:vmdk,data.vmdk:vdb:w:vmdk"
VmCapsuleKernel = "vmlinux"
VmCapsuleInitrd = "initrd.img"
VmCapsuleCmdline = "root=UUID=94263e29 rw console=ttyS0 a=1,2"
VmCapsuleRequireKVM = false
VM_WORKING_DIR = "/execute/dir_7"
VMPARAM_VM_NAME = "alice_pool.test_4.0"
VMPARAM_Xen_Bootloader = ""
VMPARAM_Xen_Initrd = ""
JobVMNetworkingType = ""
"""


def with_(name: str, value: str) -> bytes:
    """The ad with another value for one attribute."""
    lines = [line for line in AD.splitlines() if not line.startswith(f"{name} =")]
    return "\n".join([*lines, f"{name} = {value}"]).encode()


def test_an_ad_of_ours_says_all_that_a_machine_needs() -> None:
    assert read_asked(AD.encode()) == Asked(
        name="alice_pool.test_4.0",
        folder="/execute/dir_7",
        memory_mib=320,
        cpus=2,
        disks=(AskedDisk("system.vmdk", False, "vmdk"), AskedDisk("data.vmdk", True, "vmdk")),
        kernel="vmlinux",
        initrd="initrd.img",
        cmdline="root=UUID=94263e29 rw console=ttyS0 a=1,2",
    )


def test_what_is_undefined_is_not_there() -> None:
    ad = with_("VmCapsuleInitrd", "undefined")
    assert read_asked(ad).initrd == "" and read_asked(ad).kernel == "vmlinux"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VMPARAM_vm_Disk", '"/etc/shadow:vda:r:raw"'),
        ("VMPARAM_vm_Disk", '"../x:vda:r:raw"'),
        ("VMPARAM_vm_Disk", '"..:vda:r:raw"'),
        ("VMPARAM_vm_Disk", '"a.vmdk:vda:r"'),
        ("VMPARAM_vm_Disk", '"a.vmdk:vda:x:vmdk"'),
        ("VMPARAM_vm_Disk", '"a.vmdk:vda:r:luks"'),
        ("VMPARAM_vm_Disk", '"a.vmdk:vda:r:vmdk,a.vmdk:vdb:w:vmdk"'),
        ("VMPARAM_vm_Disk", '""'),
        ("VMPARAM_vm_Disk", "undefined"),
        ("VMPARAM_vm_Disk", 'strcat("a.vmdk", ":vda:r:raw")'),
        ("VMPARAM_vm_Disk", '"' + ",".join(f"d{n}:vda:r:raw" for n in range(17)) + '"'),
        ("JobVMMemory", "0"),
        ("JobVMMemory", "-1"),
        ("JobVMMemory", "320 * 2"),
        ("JobVMMemory", "4294967296"),
        ("JobVM_VCPUS", "289"),
        ("JobVM_VCPUS", "undefined"),
        ("JobVMNetworking", "1"),
        ("VmCapsuleKernel", '"/boot/vmlinuz"'),
        ("VmCapsuleKernel", "undefined"),
        ("VmCapsuleKernel", '"a\\"b"'),
        ("VmCapsuleCmdline", '"' + "x" * 2048 + '"'),
        ("VmCapsuleCmdline", '"\x1b[2J"'),
        ("VMPARAM_VM_NAME", '"a/b"'),
        ("VMPARAM_VM_NAME", "undefined"),
    ],
)
def test_what_is_no_plain_literal_or_leads_elsewhere_is_refused(name: str, value: str) -> None:
    with pytest.raises(AdError):
        read_asked(with_(name, value))


def test_a_line_break_in_a_string_adds_nothing_that_counts() -> None:
    """vm-gahp prints it as it is: the rest of the string looks like an attribute then."""
    for line in AD.splitlines():
        name = line.split(" = ")[0]
        if name.startswith(("VM", "Vm")) and "Xen" not in name:
            with pytest.raises(AdError, match=f"has {name} twice"):
                read_asked(f'X = "\n{name.upper()} = 5\n"\n{AD}'.encode())


def test_no_other_network_than_libvirts_own() -> None:
    network = with_("JobVMNetworking", "true").decode()
    assert read_asked(network.replace('Type = ""', 'Type = "NAT"').encode()).network
    with pytest.raises(AdError, match="JobVMNetworkingType"):
        read_asked(network.replace('Type = ""', 'Type = "bridge"').encode())


def test_more_than_an_ad_can_be_is_not_looked_at() -> None:
    with pytest.raises(AdError, match="more than"):
        read_asked(AD.encode() + bytes(AD_BYTES_MAX))


_NAMES = [line.split(" = ")[0] for line in AD.splitlines()]
_TEXT = st.text(st.sampled_from('a/.:,"\\ \n\r=0é\0'), max_size=12)
_VALUES = st.one_of(
    st.binary(max_size=30), _TEXT.map(str.encode), _TEXT.map(lambda text: f'"{text}"'.encode())
)


@given(st.lists(st.tuples(st.sampled_from(_NAMES), _VALUES), max_size=4))
def test_whatever_an_ad_says_names_stay_in_the_folder(said: list[tuple[str, bytes]]) -> None:
    changed = {name for name, _ in said}
    lines = [line.encode() for line in AD.splitlines() if line.split(" = ")[0] not in changed]
    ad = b"\n".join([*lines, *(name.encode() + b" = " + value for name, value in said)])
    try:
        asked = read_asked(ad)
    except AdError as error:
        assert str(error).isprintable()
        return
    for file in asked.files:
        assert file.isprintable() and not set('/:,"\\') & set(file)
        assert not file.startswith(".") and len(file) <= 200
    assert "/" not in asked.name and asked.memory_mib > 0 and 0 < asked.cpus <= 1024
    assert asked.cmdline.isascii() and asked.cmdline.isprintable()
