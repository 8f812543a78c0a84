"""The script that runs the job in the guest: written in parts, shipped as one file."""

from __future__ import annotations

from pathlib import Path

from vmcapsule.errors import ConfigError

_FOLDER = "init"
_IMPORT = b"\nfrom init."


def joined(script: Path) -> bytes:
    """Return the text of ``script`` with the parts that it is made of.

    A line ``from init.NAME import ...`` at the margin stands for the whole of
    ``init/NAME.py`` beside the script.  Each part comes once, after those that it needs
    itself; all of them where the script has the first such line.  A script without any
    comes back as it is.  Raises `ConfigError` where one of the files cannot be read.
    """
    head, names, body = _taken_apart(_read(script, script))
    if not names:
        return head
    parts: dict[bytes, bytes] = {}
    _collect(names, script, parts)
    texts = [_titled(b"init/" + name + b".py", text) for name, text in parts.items()]
    return head + b"".join([*texts, _titled(script.name.encode(), body)])


def _collect(names: list[bytes], script: Path, parts: dict[bytes, bytes]) -> None:
    """Add parts to ``parts``, each after what it needs."""
    for name in names:
        if name not in parts:
            head, needed, body = _taken_apart(_read(_part(script, name), script))
            _collect(needed, script, parts)
            parts[name] = head + body


def _taken_apart(text: bytes) -> tuple[bytes, list[bytes], bytes]:
    """What is before the imports of parts, the parts' names, and the rest."""
    head, *pieces = (b"\n" + text).split(_IMPORT)
    names, bodies = [], []
    for piece in pieces:
        name, _, rest = piece.partition(b" import ")
        names.append(name)
        bodies.append(rest.partition(b")\n" if rest.startswith(b"(") else b"\n")[2])
    return head[1:], names, b"".join(b"\n" + body for body in bodies if body)


def _part(script: Path, name: bytes) -> Path:
    return script.parent / _FOLDER / f"{name.decode()}.py"


def _titled(name: bytes, text: bytes) -> bytes:
    return b"\n\n" + (b"# --- " + name + b" ").ljust(88, b"-") + b"\n\n" + text


def _read(path: Path, script: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"VM_CAPSULE_INIT_SCRIPT_PATH: '{script}' cannot be used: '{path}': "
            f"{error.strerror}",
            f"keep the folder '{_FOLDER}' with its parts beside it, or correct "
            "VM_CAPSULE_INIT_SCRIPT_PATH",
        ) from error
