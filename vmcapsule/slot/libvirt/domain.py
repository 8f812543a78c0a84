"""The document that libvirt makes a machine of, or refuses to.

It is rendered by an XML library out of checked values only (https://libvirt.org/formatdomain.html).
The machine is the one of `vmcapsule.vm.boot`, and QEMU runs as the job's user, whatever libvirt
is configured for: so it opens no file that this user could not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional
from xml.etree.ElementTree import Element, SubElement, tostring

from vmcapsule.errors import one_line
from vmcapsule.named import NamedTuple
from vmcapsule.slot.libvirt.asked import Asked, AskedDisk
from vmcapsule.vm.boot import MACHINE

#: By these words in libvirt's answer vm-gahp tells a fault of the job's from one of the
#: machine's (``condor_vm-gahp/xen_type.linux.cpp``).  Such a job is held; with any other
#: answer HTCondor takes the VM universe of the whole machine out of service.
_BLAMES_THE_JOB = "image is not in qcow2 format"
_REASON_CHARS_MAX = 400


class Host(NamedTuple):
    """What the machine that runs it, and its administrator, decide."""

    #: The job's, and whose it is.
    folder: Path
    uid: int
    gid: int
    #: Does KVM work, and may that user use it with this group?
    kvm: bool
    #: The file for what the guest says, or none.  libvirt opens it as root, and follows
    #: links: it is in no folder of the job's.
    console: Optional[Path] = None
    #: The address at which consoles are shown by VNC, or none.
    vnc: Optional[str] = None


def domain(asked: Asked, host: Host) -> str:
    """The document for a machine, in ASCII."""
    top = Element("domain", type="kvm" if host.kvm else "qemu")
    _text(top, "name", asked.name)
    _text(top, "memory", str(asked.memory_mib), unit="MiB")
    _text(top, "vcpu", str(asked.cpus))
    _boot(SubElement(top, "os"), asked, host.folder)
    features = SubElement(top, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    _cpu(top, host)
    SubElement(top, "clock", offset="utc")
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        _text(top, event, "destroy")
    devices = SubElement(top, "devices")
    for number, disk in enumerate(asked.disks):
        _disk(devices, asked, host.folder, disk, "abcdefghijklmnop"[number])
    _others(devices, asked, host)
    label = SubElement(top, "seclabel", type="static", model="dac", relabel="no")
    # The plus sign has the numbers taken as numbers, never as names.
    _text(label, "label", f"+{host.uid}:+{host.gid}")
    return _printed(top)


def refusal(reason: str, *, of_job: bool) -> str:
    """A document that libvirt rejects, and says ``reason`` as it does.

    ``of_job``: it is the job's own fault, for which HTCondor is to hold it.
    """
    said = f"vmcapsule: {one_line(reason, _REASON_CHARS_MAX)}"
    top = Element("domain", type=f"{said} ({_BLAMES_THE_JOB})" if of_job else said)
    # libvirt looks for a name before it complains of the type.
    _text(top, "name", "refused")
    return _printed(top)


def _printed(top: Element) -> str:
    text: str = tostring(top, encoding="unicode", xml_declaration=False)
    return text.encode("ascii", errors="xmlcharrefreplace").decode("ascii")


def _text(parent: Element, name: str, text: str, **attributes: str) -> None:
    SubElement(parent, name, attributes).text = text


def _boot(os: Element, asked: Asked, folder: Path) -> None:
    _text(os, "type", "hvm", arch="x86_64", machine=MACHINE)
    if not asked.kernel:
        SubElement(os, "boot", dev="hd")
        return
    _text(os, "kernel", str(folder / asked.kernel))
    if asked.initrd:
        _text(os, "initrd", str(folder / asked.initrd))
    _text(os, "cmdline", asked.cmdline)


def _cpu(top: Element, host: Host) -> None:
    if host.kvm:
        SubElement(top, "cpu", mode="host-passthrough")
        return
    # As `boot.TCG_CPU` has it.
    cpu = SubElement(top, "cpu", mode="maximum")
    SubElement(cpu, "feature", policy="disable", name="la57")


def _disk(devices: Element, asked: Asked, folder: Path, disk: AskedDisk, letter: str) -> None:
    made = SubElement(devices, "disk", type="file", device="disk")
    SubElement(made, "driver", name="qemu", type=disk.form)
    SubElement(made, "source", file=str(folder / disk.name))
    # A guest that boots from its boot sector may be old: it gets the disks it knows.
    prefix, bus = ("vd", "virtio") if asked.kernel else ("sd", "sata")
    SubElement(made, "target", dev=prefix + letter, bus=bus)
    if not disk.writable:
        SubElement(made, "readonly")


def _others(devices: Element, asked: Asked, host: Host) -> None:
    SubElement(devices, "controller", type="usb", index="0", model="none")
    serial = SubElement(devices, "serial", type="file" if host.console else "pty")
    if host.console:
        SubElement(serial, "source", path=str(host.console))
    SubElement(serial, "target", port="0")
    SubElement(devices, "memballoon", model="none")
    rng = SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    if asked.network:
        network = SubElement(devices, "interface", type="network")
        SubElement(network, "source", network="default")
        SubElement(network, "model", type="virtio")
    if asked.vnc and host.vnc:
        SubElement(devices, "graphics", type="vnc", port="-1", autoport="yes", listen=host.vnc)
        video = SubElement(devices, "video")
        SubElement(video, "model", type="vga")
