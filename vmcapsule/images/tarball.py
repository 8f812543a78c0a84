"""The HTCondor tarball: Debian's package made to run in a guest of any distribution.

It unpacks in ``/`` to ``/condor-<version>`` with every shared library that its programs
need, glibc and its loader among them; each program names that loader as its interpreter
and finds its libraries by an rpath relative to itself.  Nothing is said through the
environment, so jobs do not inherit it, and the guest's own libraries are never mixed in.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Callable, Dict, List, Mapping, Sequence, Tuple, Union

from vmcapsule.atomic import publish
from vmcapsule.errors import ToolError
from vmcapsule.images.guest_root import debian_packages
from vmcapsule.named import NamedTuple
from vmcapsule.process import Arg, run
from vmcapsule.resources import resource

LOADER = "ld-linux-x86-64.so.2"
_FOLDERS = ("bin", "sbin", "libexec")
_LIBRARY_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "lib",
)
_SOURCES: Mapping[str, Tuple[str, ...]] = {
    "bin": ("usr/bin",),
    "sbin": ("usr/sbin", "usr/bin"),
    "libexec": ("usr/libexec/condor", "usr/lib/condor/libexec"),
}
#: OpenSSL's loadable ciphers, which HTCondor encrypts datagrams with.
_OPENSSL_MODULES = "usr/lib/x86_64-linux-gnu/ossl-modules"
_UTILS = re.compile(r"libcondor_utils_(\d+)_(\d+)_(\d+)\.so\Z")
#: A library in what the loader lists, and where it was found.
_FOUND = re.compile(r"^\s*(\S+) => (.+?)(?: \(0x[0-9a-f]+\))?$", re.MULTILINE)
_OPTIONS = ('--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Retries "3"')
_GZIP_LEVEL = 6
_TOOL_TIMEOUT_S = 60

Progress = Callable[[str], None]


class TarballInfo(NamedTuple):
    """A finished tarball: HTCondor's version (``23.9.6``) and the glibc it carries."""

    path: Path
    version: str
    glibc: str


class TarballList(NamedTuple):
    """The recipe: program names by folder, and libraries loaded by name at run time."""

    programs: Mapping[str, Tuple[str, ...]]
    dlopen: Tuple[str, ...]


def build_tarball(
    target: Path, *, suite: str = "trixie", package: str = "condor", progress: Progress
) -> TarballInfo:
    """Build the tarball at ``target``, replacing one that is there.

    A ``target`` that is a folder gets ``condor-<version>.tar``: not compressed, since an
    emulated guest takes a second longer to unpack a compressed one.  Else its name
    decides: ``.tar`` is not compressed, all else is gzip.  The same packages give the
    same bytes.
    Raises `ToolError` where a program is missing, fails, or does not run from the
    finished tree.
    """
    folder = target if target.is_dir() else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tarball-", dir=folder) as name:
        scratch = Path(name)
        root = scratch / "root"
        progress(f"fetching '{package}' from Debian {suite}")
        debian_packages(
            root, suite=suite, packages=[package], options=_OPTIONS, variant="extract"
        )
        progress("collecting programs and libraries")
        version = _version(root)
        tree = scratch / f"condor-{version}"
        wish = parse_list(resource("templates/tarball.list").read_text())
        _programs(root, tree, wish)
        _libraries(root, tree, wish.dlopen)
        _openssl_modules(root, tree)
        _patch(tree)
        check_libraries(tree)
        glibc = _verify(tree, version)
        progress("packing")
        path = folder / f"condor-{version}.tar" if target.is_dir() else target
        pack(tree, scratch / path.name)
        publish(scratch / path.name, path)
        return TarballInfo(path, version, glibc)


def parse_list(text: str) -> TarballList:
    """Parse the recipe's lines ``FOLDER NAME...``; ``#`` begins a comment."""
    found: Dict[str, List[str]] = {folder: [] for folder in (*_FOLDERS, "dlopen")}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if words[0] not in found:
            raise ToolError(
                f"line {number} of the tarball's list begins with '{words[0]}'",
                f"begin it with one of: {', '.join(found)}",
            )
        found[words[0]] += words[1:]
    programs = {folder: tuple(found[folder]) for folder in _FOLDERS}
    return TarballList(programs, tuple(found["dlopen"]))


def pack(tree: Path, target: Path) -> None:
    """Write the folder ``tree`` under its own name: sorted, owned by root, times zero."""
    with target.open("wb") as file:
        if target.suffix == ".tar":
            _write_tar(file, tree)
        else:
            with gzip.GzipFile(
                filename="", fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0
            ) as packed:
                _write_tar(packed, tree)


def _write_tar(file: Union[IO[bytes], gzip.GzipFile], tree: Path) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in [tree, *sorted(tree.rglob("*"))]:
            member = archive.gettarinfo(path, arcname=str(path.relative_to(tree.parent)))
            member.mtime = 0
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            if member.isreg():
                with path.open("rb") as data:
                    archive.addfile(member, data)
            else:
                archive.addfile(member)


def _version(root: Path) -> str:
    for folder in _LIBRARY_FOLDERS:
        for path in sorted((root / folder).glob("libcondor_utils_*.so")):
            match = _UTILS.match(path.name)
            if match:
                return ".".join(match.groups())
    raise ToolError(
        "the package holds no libcondor_utils_<version>.so", "name a suite that has 'condor'"
    )


def _programs(root: Path, tree: Path, wish: TarballList) -> None:
    for folder, names in wish.programs.items():
        (tree / folder).mkdir(parents=True)
        for name in names:
            source = _find(root, _SOURCES[folder], name)
            target = tree / folder / name
            if source.is_symlink():
                target.symlink_to(source.readlink())
            else:
                shutil.copyfile(source, target)
                target.chmod(0o755)
    shutil.copyfile(root / "usr/share/doc/condor/copyright", tree / "LICENSE")
    (tree / "LICENSE").chmod(0o644)


def _libraries(root: Path, tree: Path, dlopen: Sequence[str]) -> None:
    """Copy into ``lib/`` all that the programs need, under the names they ask for."""
    library = tree / "lib"
    library.mkdir()
    pending = [name for path in _elf_files(tree) for name in _needed(path)]
    pending += [LOADER, *dlopen]
    while pending:
        name = pending.pop()
        target = library / name
        if target.exists():
            continue
        shutil.copyfile(_find(root, _LIBRARY_FOLDERS, name).resolve(), target)
        target.chmod(0o755 if name == LOADER else 0o644)
        pending += _needed(target)


def _openssl_modules(root: Path, tree: Path) -> None:
    """Carry OpenSSL's modules too, where there are any, and have them found.

    Their folder is compiled into libcrypto; the other way to name it, a variable in the
    environment, would be inherited by jobs.  Without them HTCondor's tools crash.
    """
    source = root / _OPENSSL_MODULES
    if not source.is_dir():
        return
    target = tree / "lib/ossl-modules"
    target.mkdir()
    for module in sorted(source.glob("*.so")):
        shutil.copyfile(module, target / module.name)
        (target / module.name).chmod(0o644)
    for library in sorted((tree / "lib").glob("libcrypto.so.*")):
        library.write_bytes(
            moved_string(
                library.read_bytes(), f"/{_OPENSSL_MODULES}", f"/{tree.name}/lib/ossl-modules"
            )
        )


def moved_string(data: bytes, old: str, new: str) -> bytes:
    """Replace a string constant of a program by one that is not longer.

    Raises `ToolError` where it is longer, or the program has no such constant.
    """
    before = b"\0" + old.encode() + b"\0"
    if len(new) > len(old) or before not in data:
        raise ToolError(f"the path '{old}' in a library cannot become '{new}'")
    return data.replace(before, b"\0" + new.encode().ljust(len(old) + 1, b"\0"))


def _patch(tree: Path) -> None:
    """Point each program at the loader and the libraries of the tree."""
    interpreter = f"/{tree.name}/lib/{LOADER}"
    for folder in _FOLDERS:
        for path in _elf_files(tree / folder):
            run(["patchelf", "--set-interpreter", interpreter, path], timeout_s=_TOOL_TIMEOUT_S)
            # DT_RPATH, not RUNPATH: it holds for libraries' own needs and for dlopen too,
            # and comes before a job's LD_LIBRARY_PATH.
            run(
                ["patchelf", "--force-rpath", "--set-rpath", "$ORIGIN/../lib", path],
                timeout_s=_TOOL_TIMEOUT_S,
            )


def check_libraries(tree: Path) -> None:
    """Have the tree's loader find what each program needs; `ToolError` for what it lacks.

    What this machine would lend of its own libraries is lacking in a guest.
    """
    library = (tree / "lib").resolve()
    for program in (path for folder in _FOLDERS for path in _elf_files(tree / folder)):
        found = _FOUND.findall(_output([library / LOADER, "--list", program]))
        lent = [name for name, path in found if Path(path).resolve().parent != library]
        if lent or not found:
            raise ToolError(
                f"the tarball's '{program.name}' lacks {lent[0] if lent else 'every library'}",
                "name a suite whose package is consistent",
            )


def _verify(tree: Path, version: str) -> str:
    """Run a program from the tree with the tree's own loader; return glibc's version."""
    library = tree / "lib"
    said = _output([library / LOADER, "--library-path", library, tree / "bin/condor_version"])
    if version not in said:
        raise ToolError(
            f"condor_version of the tarball said '{said.strip()}', not '{version}'",
            "name a suite whose package is consistent",
        )
    glibc = re.search(r"release version (\d+\.\d+)", _output([library / LOADER, "--version"]))
    if glibc is None:
        raise ToolError("the tarball's loader does not tell its version", "name another suite")
    return glibc.group(1)


def _output(command: Sequence[Arg]) -> str:
    env = {"CONDOR_CONFIG": "ONLY_ENV"}
    return run(command, env=env, timeout_s=_TOOL_TIMEOUT_S).stdout.decode(errors="replace")


def _elf_files(folder: Path) -> List[Path]:
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    found.append(path)
    return found


def _needed(path: Path) -> List[str]:
    output = run(["patchelf", "--print-needed", path], timeout_s=_TOOL_TIMEOUT_S).stdout
    return output.decode().split()


def _find(root: Path, folders: Sequence[str], name: str) -> Path:
    for folder in folders:
        path = root / folder / name
        if path.is_symlink() or path.is_file():
            return path
    raise ToolError(
        f"the package and what it depends on hold no '{name}'",
        "take it from templates/tarball.list, or name another suite",
    )
