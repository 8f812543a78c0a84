"""A .vmx as one job's machine wants it: its settings, and a disk more."""

from __future__ import annotations

import re
from itertools import chain
from typing import Collection, Iterator, Mapping, Tuple

from vmcapsule.errors import TemplateError
from vmcapsule.template.template import parse_vmx

#: How many units a controller has; unit 7 of SCSI is the controller itself.
_UNITS = {"ide": 2, "scsi": 16, "sata": 30, "nvme": 15}
_IDE_CONTROLLERS = 2
_SCSI_OWN = 7


def with_settings(vmx: str, settings: Mapping[str, str]) -> str:
    """Return the .vmx text with these settings, in the place of those of the same names."""
    names = {name.lower() for name in settings}
    lines = [
        line for line in vmx.split("\n") if line.partition("=")[0].strip().lower() not in names
    ]
    text = "\n".join(lines)
    added = [f'{name} = "{value}"\n' for name, value in settings.items()]
    return "".join([text if text.endswith("\n") or not text else text + "\n", *added])


def machine_settings(memory_mib: int, cpus: int, network: bool) -> dict[str, str]:
    """The settings of a machine of this size, which can call out if ``network``.

    VMware takes memory in steps of four MiB.
    """
    settings = {
        "memsize": str(-(-memory_mib // 4) * 4),
        "numvcpus": str(cpus),
        "ethernet0.present": "TRUE" if network else "FALSE",
    }
    if network:
        settings.update({"ethernet0.connectionType": "nat", "ethernet0.virtualDev": "e1000"})
    return settings


def never_written(vmx: str, disks: Collection[str]) -> dict[str, str]:
    """The settings by which nothing that a guest writes on ``disks`` stays, by file name."""
    return {
        key[: -len("filename")] + "mode": "independent-nonpersistent"
        for key, value in parse_vmx(vmx).items()
        if key.endswith(".filename") and value in disks
    }


def with_disk(vmx: str, name: str, beside: str) -> str:
    """Return the .vmx text with one more disk, ``name``, on the bus of the disk ``beside``.

    It has the next place that is free, so that no other disk has another name for it in the
    guest.  What is written there is thrown away as the machine is switched off, so the file
    stays as it is.  Raises `TemplateError` where no place is free.
    """
    settings = parse_vmx(vmx)
    device = next(
        key[: -len(".filename")]
        for key, value in settings.items()
        if key.endswith(".filename") and value == beside
    )
    place = next((p for p in _places_after(device) if not _is_taken(p, settings)), None)
    if place is None:
        raise TemplateError(
            f"the template's .vmx has no free place after its disk {device} ('{beside}') for "
            "the disk that the job works on",
            "free one, or request less than 2 GiB of disk",
        )
    added = {
        "present": "TRUE",
        "deviceType": "disk",
        "fileName": name,
        "mode": "independent-nonpersistent",
    }
    lines = [f'{place}.{key} = "{value}"\n' for key, value in added.items()]
    return "".join([vmx if vmx.endswith("\n") else vmx + "\n", *lines])


def _places_after(device: str) -> Iterator[str]:
    bus, controller, unit = _parts(device)
    controllers = range(controller, _IDE_CONTROLLERS if bus == "ide" else controller + 1)
    places = chain.from_iterable(
        ((each, number) for number in range(_UNITS[bus])) for each in controllers
    )
    return (
        f"{bus}{each}:{number}"
        for each, number in places
        if (each, number) > (controller, unit) and not (bus == "scsi" and number == _SCSI_OWN)
    )


def _parts(device: str) -> Tuple[str, int, int]:
    match = re.fullmatch(r"(ide|scsi|sata|nvme)(\d+):(\d+)", device)
    assert match is not None  # the template has the disk on one of them
    return match[1], int(match[2]), int(match[3])


def _is_taken(place: str, settings: Mapping[str, str]) -> bool:
    """Also by a device that is not present: somebody may want it back."""
    return any(key.startswith(place + ".") for key in settings)
