"""``vmcapsule config --execute``: a snippet for execute points, and the file it names."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from tests.unit.cli.test_cli import vmcapsule
from vmcapsule.slot.program import PROGRAM_HOME


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    folder = tmp_path / "templates" / "condor_vm_capsule"
    folder.mkdir(parents=True)
    disks = "".join(f'scsi0:{n}.fileName = "{d}.vmdk"\n' for n, d in enumerate(["sys", "data"]))
    (folder / "vm.vmx").write_text(disks)
    for name in ("sys.vmdk", "data.vmdk", "initrd.img"):
        (folder / name).touch()
    (folder / "vmlinuz").write_bytes(b"a kernel")
    return folder.parent


def printed(
    cwd: Path, *arguments: object, ad_template: str = "", **knobs: object
) -> dict[str, str]:
    env = {
        **{f"_CONDOR_VM_CAPSULE_{name}": str(value) for name, value in knobs.items()},
        "_CONDOR_VM_CAPSULE_TEMPLATE": str(cwd / "templates"),
        "_CONDOR_VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": ad_template,
    }
    done = vmcapsule("config", "--execute", *map(str, arguments), cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    assert "${" not in done.stdout and "$$" not in done.stdout
    return dict(re.findall(r"^(\w+) = (.*)$", done.stdout, re.MULTILINE))


def test_the_snippet_alone_names_the_usual_place(tmp_path: Path) -> None:
    assert printed(tmp_path) == {
        "STARTD_CRON_JOBLIST": "$(STARTD_CRON_JOBLIST) VMCAPSULE VMCAPSULE_TEMPLATES",
        "STARTD_CRON_VMCAPSULE_EXECUTABLE": str(PROGRAM_HOME),
        "STARTD_CRON_VMCAPSULE_ARGS": "probe",
        "STARTD_CRON_VMCAPSULE_MODE": "Periodic",
        "STARTD_CRON_VMCAPSULE_PERIOD": "1h",
        "STARTD_CRON_VMCAPSULE_RECONFIG_RERUN": "True",
        "STARTD_CRON_VMCAPSULE_TEMPLATES_EXECUTABLE": str(PROGRAM_HOME),
        "STARTD_CRON_VMCAPSULE_TEMPLATES_ARGS": f"templates {tmp_path / 'templates'}",
        "STARTD_CRON_VMCAPSULE_TEMPLATES_MODE": "Periodic",
        "STARTD_CRON_VMCAPSULE_TEMPLATES_PERIOD": "10m",
        "STARTD_CRON_VMCAPSULE_TEMPLATES_RECONFIG_RERUN": "True",
    }


def test_where_templates_are_published_it_says_from_where_to_where(tmp_path: Path) -> None:
    store = "https://www.example.org/vm%20capsule/"
    words = printed(tmp_path, TEMPLATE_STORE=store)["STARTD_CRON_VMCAPSULE_TEMPLATES_ARGS"]
    assert words == (
        "templates --from https://www.example.org/vm%20capsule --into "
        f"/var/lib/condor/vmcapsule --at-most-gib 20 {tmp_path / 'templates'}"
    )
    found = printed(
        tmp_path, TEMPLATE_STORE="/nfs/x", TEMPLATE_CACHE="/scratch/x", TEMPLATE_CACHE_GIB=5
    )
    words = found["STARTD_CRON_VMCAPSULE_TEMPLATES_ARGS"]
    assert words.startswith("templates --from /nfs/x --into /scratch/x --at-most-gib 5 ")


def test_a_cache_that_cannot_stand_among_arguments_is_refused(tmp_path: Path) -> None:
    env = {"_CONDOR_VM_CAPSULE_TEMPLATE_CACHE": "/srv/a b"}
    done = vmcapsule("config", "--execute", cwd=tmp_path, env=env)
    assert done.returncode == 78 and "VM_CAPSULE_TEMPLATE_CACHE = /srv/a b" in done.stderr


@pytest.mark.parametrize(
    "store",
    [
        "relative",
        "ftp://host/x",
        "/a b",
        "http://h/$(X)",
        "x:/y",
        "https://u:p@h/",
        "https://h/?t=1",
    ],
)
def test_a_store_that_is_none_is_refused(tmp_path: Path, store: str) -> None:
    env = {"_CONDOR_VM_CAPSULE_TEMPLATE_STORE": store.replace("$", "$(DOLLAR)")}
    done = vmcapsule("config", "--execute", cwd=tmp_path, env=env)
    assert done.returncode == 78 and "VM_CAPSULE_TEMPLATE_STORE" in done.stderr


def test_a_full_path_is_written_and_named(tmp_path: Path, templates: Path) -> None:
    target = tmp_path / "the program"
    found = printed(tmp_path, "--program", target)
    assert found["STARTD_CRON_VMCAPSULE_EXECUTABLE"] == str(target)
    assert target.stat().st_mode & 0o777 == 0o755
    with zipfile.ZipFile(target) as archive:
        assert archive.read("vmcapsule/probe-kernel") == b"a kernel"
        assert not [name for name in archive.namelist() if "/images/" in name]


def test_a_name_alone_is_written_here_for_the_usual_place(
    tmp_path: Path, templates: Path
) -> None:
    found = printed(tmp_path, "--program", "p.pyz")
    assert found["STARTD_CRON_VMCAPSULE_EXECUTABLE"] == str(PROGRAM_HOME.parent / "p.pyz")
    assert (tmp_path / "p.pyz").is_file()


def test_a_program_is_for_execute_points_only(tmp_path: Path) -> None:
    done = vmcapsule("config", "--program", "p", cwd=tmp_path)
    assert done.returncode == 64 and "--execute" in done.stderr
    assert not (tmp_path / "p").exists()


def test_machines_for_kvm_jobs_are_told_of_vm_gahp_and_of_our_script(tmp_path: Path) -> None:
    found, alone = printed(tmp_path, ad_template="kvm"), printed(tmp_path)
    assert {name: found.pop(name) for name in alone} == alone
    assert found == {
        "VM_TYPE": "kvm",
        "VM_GAHP_SERVER": "$(SBIN)/condor_vm-gahp",
        "VM_MEMORY": "$(DETECTED_MEMORY) * 2",
        "VM_STATUS_INTERVAL": "30",
        "VM_RECHECK_INTERVAL": "60",
        "LIBVIRT_XML_SCRIPT": str(PROGRAM_HOME),
        "LIBVIRT_XML_SCRIPT_ARGS": "libvirt-xml",
        "HasVMCapsuleLibvirt": "True",
        "STARTD_ATTRS": "$(STARTD_ATTRS) HasVMCapsuleLibvirt",
    }


@pytest.mark.parametrize(
    ("ad_template", "vm_type"), [("vmware", "vmware"), ("kvm-gahp", "kvm")]
)
def test_machines_whose_gahp_is_ours_are_told_whose_jobs_it_runs(
    tmp_path: Path, ad_template: str, vm_type: str
) -> None:
    found, alone = printed(tmp_path, ad_template=ad_template), printed(tmp_path)
    assert {name: found.pop(name) for name in alone} == alone
    assert found == {
        "VM_TYPE": vm_type,
        "VM_GAHP_SERVER": str(PROGRAM_HOME),
        "VM_GAHP_SEND_ALL_CLASSAD": "False",
        "VM_STATUS_INTERVAL": "30",
        "VM_SOFT_SUSPEND": "True",
    }
