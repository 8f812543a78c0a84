"""``vmcapsule config``: the JobRouter's configuration, and what HTCondor makes of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.cli.test_cli import vmcapsule
from vmcapsule import errors
from vmcapsule.classad.ads import parse_ad


def printed(folder: Path, **knobs: object) -> str:
    named = {"CONDOR_TARBALL": "/srv/condor-1.tar", **knobs}
    env = {f"_CONDOR_VM_CAPSULE_{name}": str(value) for name, value in named.items()}
    done = vmcapsule("config", cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def setting(text: str, name: str) -> str:
    """A parameter's value, lines that go on with a backslash joined."""
    match = re.search(rf"^{name} = (.*)$", text.replace("\\\n", " "), re.MULTILINE)
    assert match, name
    return match[1]


ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.VmCapsuleError)
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_only_what_passes_or_an_administrator_mends_is_tried_again(
    tmp_path: Path, kind: type[errors.VmCapsuleError]
) -> None:
    """A job that is more than a capsule can carry will not be less in a quarter of an hour."""
    held = (
        f'WantJobRouter = true\nHoldReason = "vmcapsule: x"\nEnteredCurrentStatus = 5\n'
        f"HoldReasonCode = {kind.hold_code}\nHoldReasonSubCode = {kind.exit_status}\n"
    )
    release = setting(printed(tmp_path), "SYSTEM_PERIODIC_RELEASE_VmCapsule")
    is_released = parse_ad(held + f"Released = {release}\n").boolean("Released")
    passing = {"TemplateError", "ToolError", "SystemFailure", "SpaceError", "ConfigError"}
    assert is_released is (kind.__name__ in passing)


@pytest.mark.parametrize(
    ("knobs", "named", "universe"),
    [
        ({}, "slot", "VANILLA"),
        ({"CONDOR_CLASSAD_TEMPLATE": "slot.classad"}, "slot", "VANILLA"),
        ({"CONDOR_CLASSAD_TEMPLATE": "vmware"}, "vmware", "VM"),
        ({"CONDOR_CLASSAD_TEMPLATE": "kvm"}, "kvm", "VM"),
        ({"CONDOR_CLASSAD_TEMPLATE": "{own}"}, "{own}", "VM"),
        ({"CONDOR_CLASSAD_TEMPLATE_capsule": "vmware"}, "vmware", "VM"),
        ({"CONDOR_CLASSAD_TEMPLATE_other": "vmware"}, "slot", "VANILLA"),
    ],
)
def test_the_route_fits_the_ad_template(
    tmp_path: Path, knobs: dict[str, str], named: str, universe: str
) -> None:
    own = tmp_path / "own.classad"
    own.write_text('JobUniverse = 13\nJobVMType = "vmware"\n')
    given = {name: value.format(own=own) for name, value in knobs.items()}
    text = printed(tmp_path, **given)
    assert setting(text, "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE") == named.format(own=own)
    assert re.findall(r"^  UNIVERSE (\w+)$", text, re.MULTILINE) == [universe]


def test_what_is_packed_in_its_slot_needs_nothing_here_and_is_not_kept_few(
    tmp_path: Path,
) -> None:
    env = {"_CONDOR_VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": "vmware"}
    done = vmcapsule("config", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (78, "")
    assert "there is no HTCondor tarball" in done.stderr
    done = vmcapsule("config", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "TARBALL" not in done.stdout
    here = printed(tmp_path, CONDOR_CLASSAD_TEMPLATE="vmware")
    assert setting(here, "VM_CAPSULE_CONDOR_TARBALL") == "/srv/condor-1.tar"
    for name in ("MaxJobs", "MaxIdleJobs"):
        most, few = (
            re.findall(rf"^  {name} = (\d+)$", text, re.M) for text in (done.stdout, here)
        )
        assert int(*most) > int(*few) > 0


def test_no_route_is_printed_for_an_ad_template_of_no_known_kind(tmp_path: Path) -> None:
    own = tmp_path / "own.classad"
    own.write_text("JobUniverse = 7\n")
    env = {
        "_CONDOR_VM_CAPSULE_CONDOR_TARBALL": "/srv/condor-1.tar",
        "_CONDOR_VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": str(own),
    }
    done = vmcapsule("config", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (78, "")
    assert "JobUniverse = 7" in done.stderr


def hooks_of(text: str, status: int) -> dict[str, str]:
    """Which hooks the JobRouter runs for a source job of that JobStatus."""
    (keyword,) = re.findall(r"^  SET HookKeyword (.*)$", text, re.MULTILINE)
    source = parse_ad(f"JobStatus = {status}\nHookKeyword = {keyword}\n")
    name = source.string("HookKeyword")
    return dict(re.findall(rf"^{name}_HOOK_(\w+) = .*/(\w+)$", text, re.MULTILINE))


def test_no_hook_is_run_at_every_poll_while_a_job_runs(tmp_path: Path) -> None:
    text = printed(tmp_path)
    ends = {"JOB_FINALIZE": "finalize", "JOB_CLEANUP": "cleanup"}
    assert hooks_of(text, 2) == ends
    all_of_them = {"TRANSLATE_JOB": "translate", "UPDATE_JOB_INFO": "update", **ends}
    # Idle, removed, completed, held: what the job router looks at is its copy of the source.
    for status in (1, 3, 4, 5):
        assert hooks_of(text, status) == all_of_them
    assert setting(text, "JOB_ROUTER_HOOK_KEYWORD") == "CAPSULE"


def test_a_job_asks_for_a_capsule_with_a_command_like_any_other(tmp_path: Path) -> None:
    """Without a plus sign condor_submit would take it for a typing error."""
    text = printed(tmp_path)
    found = re.search(r"^EXTENDED_SUBMIT_COMMANDS @=(\w+)\n(.*?)^@\1$", text, re.M | re.S)
    assert found, text
    # What the access point has of its own stays.
    own, command = found[2].split("\n", 1)
    assert own.strip() == "$(EXTENDED_SUBMIT_COMMANDS)"
    assert parse_ad(command).boolean("WantJobRouter") is True
