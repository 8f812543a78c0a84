"""The ``VM_CAPSULE_*`` knobs, read through HTCondor's configuration into one `Config`.

``condor_config`` files, their macros and ``_CONDOR_VM_CAPSULE_...`` variables in the
environment all work, since HTCondor itself reads them.  With nothing configured the
defaults suit one user on one machine: everything below ``~/.cache/vmcapsule``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Mapping, Optional

from vmcapsule.errors import ConfigError, ToolError
from vmcapsule.files import why_unsafe
from vmcapsule.named import NamedTuple
from vmcapsule.params import PIPE_BUFFER_MAX, PREFIX, condor_params, expand_home
from vmcapsule.resources import resource

SECTOR_BYTES = 512

DEFAULT_MEMORY_OVERHEAD_MIB = 256
#: A folder that the user who runs HTCondor's daemons can make, where Debian's HTCondor is.
DEFAULT_TEMPLATE_CACHE = Path("/var/lib/condor/vmcapsule")
DEFAULT_TEMPLATE_CACHE_GIB = 20
DEFAULT_AD_TEMPLATE = "vmware.classad"
#: HTCondor's own default.
DEFAULT_PIPE_BUFFER_MAX_BYTES = 10240
_TARBALL_NAME = re.compile(r"condor-(\d[\w.+~-]*?)\.(?:tar|tgz|txz)(?:\.\w+)?\Z")
_MEMORY_OVERHEAD_MIB_MAX = 1 << 20
_TEMPLATE_CACHE_GIB_MAX = 1 << 20
_TIMEOUT_S_MAX = 366 * 86400


class Config(NamedTuple):
    """Every knob, checked.  What a path names need not exist yet unless said so."""

    #: VM_CAPSULE_TEMPLATE: the folder that holds ``condor_vm_capsule/``.
    template: Path
    #: VM_CAPSULE_SCRATCH_DIR_PREFIX: capsules are made below it.
    scratch_dir_prefix: Path
    #: VM_CAPSULE_TRANSLATE_LOG, VM_CAPSULE_EXIT_LOG: no log where None.
    translate_log: Optional[Path]
    exit_log: Optional[Path]
    #: VM_CAPSULE_DISK_PART_OFFSET: of the vfat partition; None: ask the partition table.
    disk_part_offset_bytes: Optional[int]
    #: VM_CAPSULE_CONDOR_TARBALL: by default the newest in the cache; None: there is none.
    condor_tarball: Optional[Path]
    #: VM_CAPSULE_CONDOR_TARBALL_VERSION: by default what the tarball's file name says.
    condor_tarball_version: Optional[str]
    #: VM_CAPSULE_INIT_SCRIPT_PATH: an existing file.
    init_script: Path
    #: VM_CAPSULE_DATA_DISK_MOUNT_POINT: absolute, in the guest.
    data_disk_mount_point: str
    #: VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE: an existing file; None where nobody chose one.
    classad_template: Optional[Path]
    #: VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE_<ROUTE>: (route in upper case, file), of routes
    #: that have one of their own.
    route_templates: tuple[tuple[str, Path], ...]
    #: VM_CAPSULE_MEMORY_OVERHEAD_MIB: what the guest needs beside the job.
    memory_overhead_mib: int
    #: VM_CAPSULE_TIMEOUT: how long a guest may run, seconds; None: for ever.
    timeout_s: Optional[float]
    #: VM_CAPSULE_NETWORK: does the guest get a network?
    network: bool
    #: VM_CAPSULE_REQUIRE_KVM: is a guest that would be emulated not to run at all?
    require_kvm: bool
    #: VM_CAPSULE_TEMPLATE_STORE: where templates are published for execute points, a full
    #: path or a URL; None: they are copied there by hand.
    template_store: Optional[str]
    #: VM_CAPSULE_TEMPLATE_CACHE, VM_CAPSULE_TEMPLATE_CACHE_GIB: where execute points keep what
    #: they fetch from it, and how much of that.
    template_cache: Path
    template_cache_gib: int
    #: VM_CAPSULE_CACHE_DIR: templates, tarballs and programs that were unpacked.
    cache: Path
    #: HTCondor's PIPE_BUFFER_MAX: how much of a hook's output a daemon reads.
    pipe_buffer_max_bytes: int = DEFAULT_PIPE_BUFFER_MAX_BYTES
    #: Knobs that do not exist, each with the nearest that does, in words.
    unknown: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should hear of though it stops nothing."""
        return self.unknown

    def ad_template_of(self, route: Optional[str]) -> Path:
        """The ad template that a route's jobs are made from."""
        chosen = self.chosen_template_of(route)
        return resource(f"templates/{DEFAULT_AD_TEMPLATE}") if chosen is None else chosen

    def chosen_template_of(self, route: Optional[str]) -> Optional[Path]:
        """The same, None where nobody chose one."""
        return dict(self.route_templates).get((route or "").upper(), self.classad_template)


def load_config(param: Optional[Mapping[str, str]] = None) -> Config:
    """Read and check the configuration; `ConfigError` names knob, value and remedy.

    ``param`` stands for HTCondor's configuration (name to expanded value, names in any
    case); by default HTCondor is asked.
    """
    values = condor_params() if param is None else param
    read = _Reader(values)
    cache = read.path("CACHE_DIR") or default_cache()
    tarball = read.path("CONDOR_TARBALL") or newest_tarball(cache)
    return Config(
        template=read.path("TEMPLATE") or cache / "templates",
        scratch_dir_prefix=read.path("SCRATCH_DIR_PREFIX") or cache / "scratch",
        translate_log=read.path("TRANSLATE_LOG"),
        exit_log=read.path("EXIT_LOG"),
        disk_part_offset_bytes=read.offset("DISK_PART_OFFSET"),
        condor_tarball=tarball,
        condor_tarball_version=read.version("CONDOR_TARBALL_VERSION")
        or tarball_version(tarball),
        init_script=read.existing_file("INIT_SCRIPT_PATH") or resource("guest/condor-init.py"),
        data_disk_mount_point=read.mount_point("DATA_DISK_MOUNT_POINT") or "/condor-data",
        classad_template=read.ad_template("CONDOR_CLASSAD_TEMPLATE"),
        route_templates=read.route_templates("CONDOR_CLASSAD_TEMPLATE_"),
        memory_overhead_mib=read.integer(
            "MEMORY_OVERHEAD_MIB", DEFAULT_MEMORY_OVERHEAD_MIB, _MEMORY_OVERHEAD_MIB_MAX
        ),
        timeout_s=read.seconds("TIMEOUT"),
        network=read.boolean("NETWORK", False),
        require_kvm=read.boolean("REQUIRE_KVM", False),
        template_store=read.store("TEMPLATE_STORE"),
        template_cache=read.plain_path("TEMPLATE_CACHE") or DEFAULT_TEMPLATE_CACHE,
        template_cache_gib=read.integer(
            "TEMPLATE_CACHE_GIB", DEFAULT_TEMPLATE_CACHE_GIB, _TEMPLATE_CACHE_GIB_MAX
        ),
        cache=cache,
        pipe_buffer_max_bytes=_pipe_buffer_max(values),
        unknown=read.unknown(),
    )


def check_scratch(folder: Path) -> None:
    """Raise `ConfigError` where others could meddle with our capsules in ``folder``."""
    why = why_unsafe(folder, is_shared=True)
    if why:
        raise _wrong(
            "SCRATCH_DIR_PREFIX",
            str(folder),
            why,
            "give it to root ('chown root') and let all make folders of their own there "
            "('chmod 1777'), or name a folder of yours in",
        )


def check_cache(folder: Path) -> None:
    """Raise `ConfigError` where others could choose what is taken from ``folder``."""
    why = why_unsafe(folder, is_shared=False)
    if why:
        raise _wrong(
            "CACHE_DIR",
            str(folder),
            why,
            "give it to root ('chown root') and let nobody else write to it "
            "('chmod go-w'), or name a folder of yours in",
        )


def default_cache() -> Path:
    """``vmcapsule`` in the user's cache folder (XDG Base Directory Specification)."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The specification says to ignore a relative path.
    if not named.is_absolute():
        named = expand_home(Path("~/.cache"))
    if not named.is_absolute():
        raise ConfigError(
            "this user has no home folder to keep templates and tarballs in",
            f"set HOME or {PREFIX}CACHE_DIR",
        )
    return named / "vmcapsule"


def newest_tarball(cache: Path) -> Optional[Path]:
    """Return the last modified ``condor-<version>.tar*`` in a folder, or None."""
    # Not Path.is_dir, which raises for one in a home folder that is closed to us.
    if not os.path.isdir(cache):  # noqa: PTH112
        return None
    found = [
        path for path in cache.glob("condor-*") if tarball_version(path) and path.is_file()
    ]
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


def tarball_version(tarball: Optional[Path]) -> Optional[str]:
    """Return the version in a file name such as ``condor-23.9.6.tar.gz``, or None."""
    match = _TARBALL_NAME.match(tarball.name) if tarball else None
    return match.group(1) if match else None


class _Reader:
    """Looks knobs up, keeps count of which were asked for, and checks their values."""

    def __init__(self, param: Mapping[str, str]) -> None:
        self._values = {
            name.upper(): value.strip()
            for name, value in param.items()
            if name.upper().startswith(PREFIX)
        }
        # Of execute points, which read it by themselves.
        self._known = [PREFIX + "HYPERVISOR"]

    def _get(self, knob: str) -> Optional[str]:
        self._known.append(PREFIX + knob)
        return self._values.get(PREFIX + knob) or None

    def unknown(self) -> tuple[str, ...]:
        found = []
        for name in sorted(set(self._values) - set(self._known)):
            import difflib  # seldom needed

            near = difflib.get_close_matches(name, self._known, 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(self._known)}"
            found.append(f"{name} is no knob of vmcapsule; {hint}")
        return tuple(found)

    def path(self, knob: str) -> Optional[Path]:
        value = self._get(knob)
        if value is None:
            return None
        path = expand_home(Path(value))
        if not path.is_absolute():
            raise _wrong(knob, value, "is not an absolute path", "begin it with '/'")
        return path

    def store(self, knob: str) -> Optional[str]:
        value = self._get(knob)
        if value is None:
            return None
        if not re.fullmatch(r"(https?:/)?/[%+,./0-9:=A-Z_a-z~-]+", value):
            raise _wrong(
                knob,
                value,
                "is neither a full path nor an http or https URL without a password or query, "
                "in plain characters",
                "correct",
            )
        return value.rstrip("/")

    def plain_path(self, knob: str) -> Optional[Path]:
        """A path that can stand among arguments in HTCondor's configuration."""
        path = self.path(knob)
        if path is not None and not re.fullmatch(r"[%+./0-9:=A-Z_a-z~-]+", str(path)):
            raise _wrong(knob, str(path), "has characters that are not plain", "choose another")
        return path

    def existing_file(self, knob: str) -> Optional[Path]:
        path = self.path(knob)
        if path is not None and not path.is_file():
            raise _wrong(knob, str(path), "is not a file", "create it, or correct")
        return path

    def ad_template(self, knob: str) -> Optional[Path]:
        value = self._get(knob)
        if value is None:
            return None
        if "/" in value or value.startswith("~"):
            return self.existing_file(knob)
        name = value if value.endswith(".classad") else value + ".classad"
        try:
            return resource("templates/" + name)
        except ToolError as error:
            ours = resource(f"templates/{DEFAULT_AD_TEMPLATE}").parent.glob("*.classad")
            names = ", ".join(sorted(path.stem for path in ours))
            raise _wrong(
                knob,
                value,
                "is not an ad template of vmcapsule",
                f"name one of {names}, or give a full path, in",
            ) from error

    def route_templates(self, prefix: str) -> tuple[tuple[str, Path], ...]:
        names = [name for name in self._values if name.startswith(PREFIX + prefix)]
        knobs = [(name[len(PREFIX) :], name[len(PREFIX + prefix) :]) for name in sorted(names)]
        found = ((route, self.ad_template(knob)) for knob, route in knobs)
        return tuple((route, path) for route, path in found if path is not None)

    def mount_point(self, knob: str) -> Optional[str]:
        value = self._get(knob)
        if value is None:
            return None
        if not re.fullmatch(r"(/(?!\.{1,2}(/|\Z))[\w.+-]+)+/?", value, re.ASCII):
            raise _wrong(
                knob, value, "is not an absolute path of plain names", "use '/condor-data' in"
            )
        return value.rstrip("/")

    def version(self, knob: str) -> Optional[str]:
        value = self._get(knob)
        if value is not None and not re.fullmatch(r"\w[\w.+~-]*", value, re.ASCII):
            raise _wrong(
                knob,
                value,
                "is no version; the tarball unpacks to /condor-<version>",
                "correct",
            )
        return value

    def integer(self, knob: str, default: int, maximum: int) -> int:
        value = self._get(knob)
        if value is None:
            return default
        return _integer(knob, value, maximum)

    def offset(self, knob: str) -> Optional[int]:
        value = self._get(knob)
        if value is None:
            return None
        number = _integer(knob, value, 1 << 62)
        if number % SECTOR_BYTES:
            raise _wrong(
                knob,
                value,
                f"is not a multiple of {SECTOR_BYTES}",
                "multiply the partition's first sector by 512 and set",
            )
        return number

    def seconds(self, knob: str) -> Optional[float]:
        value = self._get(knob)
        if value is None:
            return None
        number = _integer(knob, value, _TIMEOUT_S_MAX)
        if number == 0:
            raise _wrong(knob, value, "leaves a guest no time", "give more, or unset")
        return float(number)

    def boolean(self, knob: str, default: bool) -> bool:
        value = self._get(knob)
        if value is None:
            return default
        words = {"true": True, "t": True, "yes": True, "1": True}
        words.update({"false": False, "f": False, "no": False, "0": False})
        if value.lower() not in words:
            raise _wrong(knob, value, "is neither true nor false", "use true or false in")
        return words[value.lower()]


def _pipe_buffer_max(param: Mapping[str, str]) -> int:
    """HTCondor's parameter; a value that is no number is HTCondor's to complain about."""
    text = {name.upper(): value for name, value in param.items()}.get(PIPE_BUFFER_MAX, "")
    is_plain = text.isascii() and text.isdigit() and len(text) < 10
    return int(text) if is_plain else DEFAULT_PIPE_BUFFER_MAX_BYTES


def _integer(knob: str, value: str, maximum: int) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", value):
        raise _wrong(knob, value, "is not a whole number", "correct")
    number = int(value)
    if number < 0:
        raise _wrong(knob, value, "is negative", "correct")
    if number > maximum:
        raise _wrong(knob, value, f"is more than {maximum}", "correct")
    return number


def _wrong(knob: str, value: str, what: str, remedy: str) -> ConfigError:
    return ConfigError(f"{PREFIX}{knob} = {value}: {what}", f"{remedy} {PREFIX}{knob}")
