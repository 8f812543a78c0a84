"""vmcapsule installed in a pool as an admin would do it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Dict, List, Mapping, Optional

from tests.pool.space import Space
from vmcapsule.cli.snippet import execute_snippet, job_wrapper, router_snippet
from vmcapsule.config import Config, default_cache, load_config, newest_tarball, tarball_version
from vmcapsule.process import run
from vmcapsule.slot.program import PROGRAM_HOME, write_program
from vmcapsule.template.template import load

CHECKOUT = Path(__file__).resolve().parents[2]
#: Inside: the program, what it works with, and where capsules are made.
HOME = "/opt/vmcapsule"
DATA = "/var/lib/vmcapsule"
SCRATCH = "/var/scratch/vmcapsule"
#: What stands in for jobs on execute points that are configured so.
WRAPPER = "/usr/local/libexec/vmcapsule-job-wrapper"

#: Of the checkout; what an installation consists of.
PARTS = ("vmcapsule", "hooks", "guest", "templates")


def install(
    space: Space,
    knobs: Optional[Mapping[str, object]] = None,
    cache: Optional[Path] = None,
    templates: Optional[Path] = None,
) -> str:
    """Put the checkout and the cache's template and tarball inside; return configuration.

    ``templates`` is a folder to take the template from instead.  ``knobs`` are
    VM_CAPSULE_<name>s that replace the ones here.  Works before `Space.boot` and while
    the pool runs.
    """
    for part in PARTS:
        _copy_part(space, part)
    cache = cache or default_cache()
    templates = templates or cache / "templates"
    given = {**_data(space, cache, templates), **(knobs or {})}
    space.make_folder(SCRATCH)
    space.path(SCRATCH).chmod(0o1777)
    lines = [f"VM_CAPSULE_{name} = {value}" for name, value in given.items()]
    config = _config(given)
    return "\n".join([_router(config), *lines, _execute(space, templates, config)])


def wrapped() -> str:
    """What 'vmcapsule config --execute --wrapper' prints beside the rest."""
    text = (CHECKOUT / "templates/execute-wrapper.config").read_text(encoding="utf-8")
    return text.replace("${wrapper}", WRAPPER)


def left_in(scratch: Path) -> List[str]:
    """What there is in a scratch folder, but for the files in which events wait: they stay."""
    return [path.name for path in scratch.iterdir() if not path.name.startswith("events-")]


def _copy_part(space: Space, part: str) -> None:
    """Copy a folder of the checkout, owned by root and writable by nobody else."""
    target = space.path(f"{HOME}/{part}")
    space.make_folder(HOME)
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(CHECKOUT / part, target, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [target, *target.rglob("*")]:
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)
        shutil.chown(path, 0, 0)


def _data(space: Space, cache: Path, templates: Path) -> Dict[str, object]:
    """Copy what the cache has been built; return the knobs that name the copies."""
    knobs: Dict[str, object] = {"SCRATCH_DIR_PREFIX": SCRATCH}
    space.make_folder(DATA)
    if templates.is_dir():
        _copy_data(templates, space.path(f"{DATA}/templates"))
        knobs["TEMPLATE"] = f"{DATA}/templates"
    tarball = newest_tarball(cache)
    if tarball is not None:
        _copy_data(tarball, space.path(f"{DATA}/{tarball.name}"))
        knobs["CONDOR_TARBALL"] = f"{DATA}/{tarball.name}"
        knobs["CONDOR_TARBALL_VERSION"] = tarball_version(tarball)
    return knobs


def _copy_data(source: Path, target: Path) -> None:
    """Copy with holes, and shared blocks where the file system can; readable by all."""
    if target.is_dir():
        shutil.rmtree(target)
    # Not links: a job that could change the copy would change the cache.
    # The tarball's time tells that it is the one that the template was built with.
    options = ["-R", "--preserve=timestamps", "--reflink=auto", "--sparse=always"]
    run(["cp", *options, source, target], timeout_s=300)
    run(["chmod", "-R", "u=rwX,go=rX", target], timeout_s=60)


def _config(given: Mapping[str, object]) -> Config:
    knobs = {f"VM_CAPSULE_{name}": str(value) for name, value in given.items()}
    knobs.setdefault("VM_CAPSULE_CONDOR_TARBALL", f"{DATA}/condor.tar")
    return load_config(knobs)


def _router(config: Config) -> str:
    """What 'vmcapsule config' prints, with the paths that hold inside."""
    snippet = router_snippet(config)
    changes = {
        str(CHECKOUT): HOME,
        # The pool has a router already, with the plugin or without.
        "JOB_ROUTER CAPSULE_GC": "CAPSULE_GC",
        # So that a test need not wait for minutes.
        "--every 600": "--every 3 --min-age 2",
    }
    for old, new in changes.items():
        assert old in snippet, old
        snippet = snippet.replace(old, new)
    return snippet


def _execute(space: Space, templates: Path, config: Config) -> str:
    """What 'vmcapsule config --execute --program' prints and writes."""
    kernel = load(templates).kernel if templates.is_dir() else None
    space.make_folder(str(PROGRAM_HOME.parent))
    write_program(space.path(str(PROGRAM_HOME)), kernel)
    # For whoever configures it: `wrapped`.
    wrapper = space.path(WRAPPER)
    wrapper.write_text(job_wrapper(config, PROGRAM_HOME))
    wrapper.chmod(0o755)
    return execute_snippet(config, PROGRAM_HOME, None)
