"""Which kernel modules an initrd needs, in loading order, and what devices ask for them.

Read from the files that depmod(8) writes: ``modules.dep``, ``modules.alias`` and
``modules.builtin``.
"""

from __future__ import annotations

import gzip
import lzma
import re
from pathlib import Path
from typing import Dict, List, Mapping, Sequence, Tuple

from vmcapsule.errors import TemplateError
from vmcapsule.named import NamedTuple
from vmcapsule.process import run

_ALIAS = re.compile(r"[A-Za-z0-9_:*?,.\[\]-]+\Z")
_SIGNATURE_MAGIC = b"~Module signature appended~\n"
_SIGNATURE_INFO_BYTES = 12
#: Only devices on these buses are looked at in the initrd.
_ALIAS_BUSES = ("pci:", "virtio:", "acpi")


class ModuleWish(NamedTuple):
    """One line of the recipe's module list.

    ``always``: load at every boot; else where a device asks for ``name``.  ``needed``:
    modules to load along with it (drivers of what hangs on a controller).
    """

    name: str
    always: bool
    needed: Tuple[str, ...] = ()


class ModuleIndex(NamedTuple):
    """What depmod knows of one kernel: names are normalized (``-`` as ``_``).

    ``files``: name to path relative to the kernel's module folder; ``needs``: name to
    the names it depends on, in the order in which they must be loaded; ``aliases``: name
    to the device patterns (shell globs) that it claims.
    """

    files: Mapping[str, str]
    needs: Mapping[str, Tuple[str, ...]]
    aliases: Mapping[str, Tuple[str, ...]]


def parse_wishes(text: str) -> Tuple[ModuleWish, ...]:
    """Parse a module list: ``always NAME`` or ``device NAME [NEEDED...]``, ``#`` comments."""
    wishes: List[ModuleWish] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if words[0] not in ("always", "device") or len(words) < 2:
            raise TemplateError(
                f"line {number} of the module list is '{line.strip()}'",
                "write 'always NAME' or 'device NAME [NEEDED...]'",
            )
        names = tuple(normalized(word) for word in words[1:])
        wishes.append(ModuleWish(names[0], words[0] == "always", names[1:]))
    return tuple(wishes)


def normalized(name: str) -> str:
    """Return a module's name as the kernel writes it: underscores for dashes."""
    return name.replace("-", "_")


def module_name(path: str) -> str:
    """Return the normalized name of the module in a file: ``a/b-c.ko.xz`` is ``b_c``."""
    return normalized(path.rsplit("/", 1)[-1].split(".ko", 1)[0])


def read_index(folder: Path) -> ModuleIndex:
    """Read depmod's files in ``folder``, ``/lib/modules/<version>`` of the guest."""
    return parse_index(
        (folder / "modules.dep").read_text(), (folder / "modules.alias").read_text()
    )


def parse_index(dep: str, alias: str) -> ModuleIndex:
    """Parse ``modules.dep`` (``file: needed...``) and ``modules.alias``."""
    files: Dict[str, str] = {}
    needs: Dict[str, Tuple[str, ...]] = {}
    for line in dep.splitlines():
        path, colon, rest = line.partition(":")
        if colon:
            files[module_name(path)] = path
            # depmod lists the whole closure, the one to load first at the end.
            needs[module_name(path)] = tuple(module_name(p) for p in reversed(rest.split()))
    aliases: Dict[str, List[str]] = {}
    for line in alias.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "alias" and words[1].startswith(_ALIAS_BUSES):
            aliases.setdefault(normalized(words[2]), []).append(words[1])
    return ModuleIndex(files, needs, {name: tuple(found) for name, found in aliases.items()})


def load_order(index: ModuleIndex, names: Sequence[str]) -> Tuple[str, ...]:
    """Return ``names`` and all they depend on, each once, dependencies first.

    Names that the kernel has no module for (built in, or absent) are left out.
    """
    order: Dict[str, None] = {}
    for name in names:
        if name in index.files:
            for needed in index.needs[name]:
                order.setdefault(needed)
            order.setdefault(name)
    return tuple(order)


def coldplug_script(index: ModuleIndex, wishes: Sequence[ModuleWish]) -> str:
    """Return the shell functions ``load_for ALIAS`` and ``load_always``.

    They call ``load MODULE...``.  A shell's ``case`` matches as modprobe matches aliases,
    and costs no process: a boot under emulation pays for each one.
    """
    lines = ["load_for() {", '    case "$1" in']
    for wish in wishes:
        patterns = index.aliases.get(wish.name, ())
        modules = load_order(index, [wish.name, *wish.needed])
        if wish.always or not patterns or not modules:
            continue
        for pattern in patterns:
            if not _ALIAS.match(pattern):
                raise TemplateError(
                    f"the kernel module '{wish.name}' claims devices as '{pattern}'",
                    "use another kernel package",
                )
        lines.append("        " + " | ".join(patterns) + ")")
        lines.append(f"            load {' '.join(modules)} ;;")
    always = load_order(index, [wish.name for wish in wishes if wish.always])
    lines += ["    esac", "}", "load_always() {", f"    load {' '.join(always)}", "}", ""]
    return "\n".join(lines)


def wanted(index: ModuleIndex, wishes: Sequence[ModuleWish]) -> Tuple[str, ...]:
    """Return all modules that the wishes can come to load, in loading order."""
    names = [name for wish in wishes for name in (wish.name, *wish.needed)]
    return load_order(index, names)


def module_bytes(path: Path) -> bytes:
    """Return a module's ELF file as a guest loads it fastest: plain and without signature.

    Decompressing and checking a signature are slow under emulation, and the kernel takes
    a module without one (marking itself as tainted) unless it was told to refuse.
    """
    data = path.read_bytes()
    if path.suffix == ".xz":
        data = lzma.decompress(data)
    elif path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        data = run(["zstd", "-dc"], stdin=data, timeout_s=60).stdout
    return without_signature(data)


def without_signature(module: bytes) -> bytes:
    """Cut off what the kernel's ``scripts/sign-file`` appended to a module, if anything.

    The end is: the signature, ``struct module_signature`` (12 bytes, the last four its
    length, big-endian), a magic line.
    """
    if not module.endswith(_SIGNATURE_MAGIC):
        return module
    end = len(module) - len(_SIGNATURE_MAGIC)
    size = int.from_bytes(module[end - 4 : end], "big")
    start = end - _SIGNATURE_INFO_BYTES - size
    return module[:start] if start > 0 else module
