"""The guest's recipe: declarative files, read once into a frozen value."""

from __future__ import annotations

import string
from typing import Mapping, Tuple

from vmcapsule.errors import TemplateError
from vmcapsule.images.modules import ModuleWish, parse_wishes
from vmcapsule.named import NamedTuple
from vmcapsule.resources import resource

DEFAULT_KERNEL = "linux-image-cloud-amd64"


class Recipe(NamedTuple):
    """What the files in ``templates/`` say.

    ``packages`` are Debian's names, the kernel's among them; ``options`` are arguments
    of mmdebstrap; ``init``, ``initrd_init`` and ``udhcpc`` are scripts of the guest;
    ``vmx`` and ``syslinux`` still have ``${...}`` to be filled in by `filled`.
    """

    packages: Tuple[str, ...]
    options: Tuple[str, ...]
    modules: Tuple[ModuleWish, ...]
    init: bytes
    initrd_init: bytes
    udhcpc: bytes
    vmx: str
    syslinux: str


def load_recipe(kernel: str = DEFAULT_KERNEL) -> Recipe:
    """Read the recipe; ``kernel`` is the package that stands for ``%kernel`` in it."""
    packages = tuple(
        kernel if name == "%kernel" else name for name in _lines("guest/packages.list")
    )
    return Recipe(
        packages=packages,
        options=_lines("guest/mmdebstrap.list"),
        modules=parse_wishes(_read("guest/initrd-modules.list").decode()),
        init=_read("guest/init"),
        initrd_init=_read("guest/initrd-init"),
        udhcpc=_read("guest/udhcpc"),
        vmx=_read("capsule.vmx").decode(),
        syslinux=_read("guest/syslinux.cfg").decode(),
    )


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return ``text`` with each ``${name}`` replaced; `TemplateError` for a stray one."""
    try:
        return string.Template(text).substitute(values)
    except (KeyError, ValueError) as error:
        raise TemplateError(
            f"a file of the recipe asks for {error}, which the builder does not know",
            f"known are: {', '.join(sorted(values))}",
        ) from error


def _lines(name: str) -> Tuple[str, ...]:
    """Return the lines of a list without comments and blank ones."""
    lines = (line.strip() for line in _read(name).decode().splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _read(name: str) -> bytes:
    return resource(f"templates/{name}").read_bytes()
