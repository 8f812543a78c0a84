"""The guest's root file system as a folder, made from Debian packages by mmdebstrap."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

from vmcapsule.errors import TemplateError, UsageError
from vmcapsule.images.recipe import Recipe
from vmcapsule.named import NamedTuple
from vmcapsule.process import run
from vmcapsule.template.tarball import PREFIX, HTCondorTarball

#: Downloading and unpacking 200 MB over a slow link.
BUILD_TIMEOUT_S = 1800
_UNPACK_TIMEOUT_S = 600
#: The job's owner in the guest may be anybody; HTCondor wants a user 'condor'.
CONDOR_UID = 990
_MACHINE_NAME = "capsule"
#: What mmdebstrap and apt heed of the caller's environment, beside the proxies.
_VARIABLES = ("PATH", "HOME", "TMPDIR", "APT_CONFIG")
#: What no package holds: a script makes it as the package is set up.
_MADE_BY_SCRIPTS = ("etc/ssl/certs/ca-certificates.crt",)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.:~_-]*\Z")


class GuestRoot(NamedTuple):
    """A finished root folder and what is in it.

    ``modules`` is ``/lib/modules/<kernel>`` in it, ``kernel_image`` the bzImage.
    """

    folder: Path
    kernel: str
    kernel_image: Path
    modules: Path
    python: str
    glibc: str
    packages: Tuple[str, ...]


def debian_packages(
    folder: Path,
    *,
    suite: str,
    packages: Sequence[str],
    options: Sequence[str],
    variant: str = "minbase",
) -> None:
    """Install Debian's minimal system and ``packages`` into the new ``folder``.

    ``variant`` is mmdebstrap's: ``extract`` unpacks the packages and what they depend on
    without setting anything up.

    No mirror is named: mmdebstrap's default and this machine's apt configuration decide.
    Of the caller's environment the packages' own scripts see `_environment` alone.
    Raises `ToolError` with the end of mmdebstrap's output, `UsageError` for a name that
    cannot be a suite or package.
    """
    if os.geteuid() != 0:
        raise UsageError(
            "building from Debian packages needs root, who owns what they install",
            "run it with sudo, XDG_CACHE_HOME (or VM_CAPSULE_CACHE_DIR) as yours",
        )
    for word in (suite, *packages):
        if not _WORD.match(word):
            raise UsageError(f"'{word}' is not the name of a suite or package")
    run(
        [
            *_own_mounts(),
            "mmdebstrap",
            "--mode=root",
            f"--variant={variant}",
            "--format=directory",
            *options,
            f"--include={','.join(packages)}",
            suite,
            folder,
        ],
        timeout_s=BUILD_TIMEOUT_S,
        env=_environment(),
    )


def _own_mounts() -> Sequence[str]:
    """What has a program mount things for itself alone, where that is permitted.

    A builder that is killed would leave them, and who removes what it has built would come
    into the machine's own /sys.
    """
    own = ("unshare", "--mount", "--propagation", "private")
    can = run([*own, "true"], timeout_s=20, check=False).returncode == 0
    return own if can else ()


def _environment() -> Dict[str, str]:
    """What of our environment the builder is given.

    The rest would reach the scripts that set packages up.  Debian's 'condor' makes the
    folder that ``condor_config_val LOG`` prints, and CONDOR_CONFIG, which HTCondor's Python
    module sets as it is imported where there is no configuration, has that be another one.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _VARIABLES or name.lower().endswith("_proxy")
    }


def build_guest_root(
    folder: Path,
    recipe: Recipe,
    *,
    suite: str,
    packages: Sequence[str],
    mount_point: str,
    condor: Optional[HTCondorTarball],
) -> GuestRoot:
    """Make the guest's root in the new ``folder``; raises `TemplateError`, `ToolError`.

    With ``condor`` that is unpacked in it, as the guest would do.
    """
    every = tuple(dict.fromkeys([*recipe.packages, *packages]))
    debian_packages(folder, suite=suite, packages=every, options=recipe.options)
    check_set_up(folder)
    _add_ours(folder, recipe, mount_point)
    _add_user(folder)
    if condor is not None:
        _add_condor(folder, condor)
    modules = _only(folder / "usr/lib/modules", "*")
    image = _only(folder / "boot", "vmlinuz-*")
    for extra in (folder / "boot").glob("initrd.img-*"):
        extra.unlink()
    return GuestRoot(
        folder=folder,
        kernel=modules.name,
        kernel_image=image,
        modules=modules,
        python=_installed(folder, "python3"),
        glibc=_installed(folder, "libc6"),
        packages=every,
    )


def check_set_up(folder: Path) -> None:
    """Raise `TemplateError` where the packages' scripts did not make what they should."""
    for name in _MADE_BY_SCRIPTS:
        path = folder / name
        if not path.is_file() or not path.stat().st_size:
            raise TemplateError(
                f"the guest's system has no '/{name}': a package was not set up",
                "build the template again, or use another suite",
            )


def _add_ours(folder: Path, recipe: Recipe, mount_point: str) -> None:
    init = folder / "usr/sbin/init"
    init.unlink(missing_ok=True)
    _write(init, recipe.init, 0o755)
    _write(folder / "usr/share/vmcapsule/udhcpc", recipe.udhcpc, 0o755)
    _write(folder / "etc/vmcapsule.conf", f"mount_point='{mount_point}'\n".encode(), 0o644)
    _write(folder / "etc/hostname", f"{_MACHINE_NAME}\n".encode(), 0o644)
    hosts = f"127.0.0.1 localhost\n127.0.1.1 {_MACHINE_NAME}\n::1 localhost\n"
    _write(folder / "etc/hosts", hosts.encode(), 0o644)
    # The build machine's name servers are no business of the guest's.
    (folder / "etc/resolv.conf").unlink(missing_ok=True)
    _write(folder / "etc/resolv.conf", b"", 0o644)
    (folder / mount_point.lstrip("/")).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "var/cache/apt", ignore_errors=True)


def _add_user(folder: Path) -> None:
    """Add the user and group 'condor' where no package did; what useradd would write."""
    if any(
        line.startswith("condor:") for line in (folder / "etc/passwd").read_text().splitlines()
    ):
        return
    home = "/var/lib/condor"
    lines = {
        "passwd": f"condor:x:{CONDOR_UID}:{CONDOR_UID}:HTCondor:{home}:/usr/sbin/nologin",
        "shadow": "condor:*:19000::::::",
        "group": f"condor:x:{CONDOR_UID}:",
        "gshadow": "condor:!::",
    }
    for name, line in lines.items():
        with (folder / "etc" / name).open("a") as file:
            file.write(f"{line}\n")
    home_folder = folder / home.lstrip("/")
    home_folder.mkdir(parents=True, exist_ok=True)
    os.chown(home_folder, CONDOR_UID, CONDOR_UID)


def _add_condor(folder: Path, condor: HTCondorTarball) -> None:
    run(["tar", "-x", "-o", "-f", condor.path, "-C", folder], timeout_s=_UNPACK_TIMEOUT_S)
    home = f"{PREFIX}{condor.version}"
    if not (folder / home).is_dir():
        raise TemplateError(
            f"the HTCondor tarball '{condor.path}' has no folder '{home}'",
            "set VM_CAPSULE_CONDOR_TARBALL_VERSION to what it unpacks to",
        )


def _installed(folder: Path, package: str) -> str:
    """Return the version of a package, upstream's part: ``2.41`` of ``2.41-12``."""
    status = (folder / "var/lib/dpkg/status").read_text(errors="replace")
    for block in status.split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0] == f"Package: {package}":
            for line in lines:
                if line.startswith("Version: "):
                    return re.split(r"[-+]", line[len("Version: ") :].split(":")[-1])[0]
    raise TemplateError(
        f"the guest's system lacks the package '{package}'", "use another suite"
    )


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if len(found) != 1:
        raise TemplateError(
            f"the guest's system has {len(found)} of '{pattern}' in {folder.name}, not one",
            "name one kernel package",
        )
    return found[0]


def _write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
