"""HTCondor's own parameters, as far as they are for us, wherever they are configured."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from vmcapsule.errors import ConfigError, ToolError

PREFIX = "VM_CAPSULE_"
#: The one parameter of HTCondor's itself that is looked at.
PIPE_BUFFER_MAX = "PIPE_BUFFER_MAX"

#: Where HTCondor looks for its configuration when CONDOR_CONFIG does not say.
CONFIG_FILES = (
    Path("/etc/condor/condor_config"),
    Path("/usr/local/etc/condor_config"),
    Path("~condor/condor_config"),
    Path("~/.condor/condor_config"),
    Path("~/.condor/user_config"),
)


def expand_home(path: Path) -> Path:
    """A path with its user's home folder, where that is known."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def machine_has_condor_config() -> bool:
    """Is there a configuration of HTCondor's on this machine, or does the caller name one?"""
    if os.environ.get("CONDOR_CONFIG"):
        return True
    # One in a home folder that is closed to us (a hook's HOME may be root's) is none.
    return any(os.path.exists(expand_home(path)) for path in CONFIG_FILES)  # noqa: PTH110


def condor_params() -> dict[str, str]:
    """Return HTCondor's ``VM_CAPSULE_*`` parameters, macros expanded.

    Raises `ConfigError` when ``CONDOR_CONFIG`` names a file that is not there or that
    HTCondor cannot read, `ToolError` when HTCondor's Python modules are not installed.
    """
    named = os.environ.get("CONDOR_CONFIG", "")
    if named and named != "ONLY_ENV" and not Path(named).exists():
        # HTCondor would print a page on stderr and go on with nothing.
        raise ConfigError(
            f"CONDOR_CONFIG = {named}: there is no such file", "correct or unset CONDOR_CONFIG"
        )
    if named == "ONLY_ENV" or not machine_has_condor_config():
        found = _of_the_environment()
        if not any("$" in value or _is_odd(value) for value in found.values()):
            return found
    with _environment_alone_if_unconfigured():
        htcondor, error_class = _htcondor()
        try:
            htcondor.reload_config()
            param = htcondor.param
            wanted = [name for name in param if name.upper().startswith(PREFIX)]
            found = {name: str(param[name]) for name in wanted}
            found[PIPE_BUFFER_MAX] = str(param.get(PIPE_BUFFER_MAX, ""))
            return found
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"a {PREFIX}... parameter is not UTF-8: {error}", "use such names only"
            ) from error
        except error_class as error:
            raise ConfigError(
                f"HTCondor cannot read its configuration: {error}",
                "see what 'condor_config_val -summary' says",
            ) from error


def _of_the_environment() -> dict[str, str]:
    """The parameters that the environment gives, as they stand.

    Where it is all there is and no value has a macro, HTCondor would say the same; its
    module would be the most of what a small job's hook imports.
    """
    prefix = "_CONDOR_"
    named = {
        name[len(prefix) :]: value.strip()
        for name, value in os.environ.items()
        if name.upper().startswith(prefix)
    }
    return {
        name: value
        for name, value in named.items()
        if name.upper().startswith(PREFIX) or name.upper() == PIPE_BUFFER_MAX
    }


def _is_odd(value: str) -> bool:
    """Whether a value holds bytes that are not UTF-8, of which HTCondor's module complains."""
    return any("\ud800" <= char <= "\udfff" for char in value)


@contextmanager
def _environment_alone_if_unconfigured() -> Iterator[None]:
    """Keep HTCondor from complaining where no configuration is, and from saying so for good.

    Its Python module sets CONDOR_CONFIG in our environment as it is imported, which would
    reach every program that we start.
    """
    before = os.environ.get("CONDOR_CONFIG")
    if not machine_has_condor_config():
        os.environ["CONDOR_CONFIG"] = "ONLY_ENV"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("CONDOR_CONFIG", None)
        else:
            os.environ["CONDOR_CONFIG"] = before


def _htcondor() -> tuple[Any, type[Exception]]:
    """HTCondor's Python module, version 2 or else 1, and the error that it raises."""
    try:
        import htcondor2 as module
    except ImportError:
        try:
            import htcondor as module
        except ImportError as error:
            raise ToolError(
                "HTCondor's Python module 'htcondor2' is not installed",
                "install the Python package 'htcondor' (on Debian: python3-htcondor)",
            ) from error
    # HTCondor 23's version 2 module has no error class of its own yet.
    return module, getattr(module, "HTCondorException", RuntimeError)
