"""The VM_CAPSULE_* knobs: defaults, HTCondor's own reading of them, and wrong values."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Mapping

import pytest

from vmcapsule.config import (
    default_cache,
    load_config,
    newest_tarball,
    tarball_version,
)
from vmcapsule.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]


def ask(code: str, environment: Mapping[str, str], home: Path) -> dict[str, object]:
    """Run ``code`` in a Python of its own, which reads HTCondor's configuration anew."""
    bare = {k: v for k, v in os.environ.items() if not k.upper().startswith("_CONDOR_")}
    bare.pop("CONDOR_CONFIG", None)
    bare.pop("XDG_CACHE_HOME", None)
    program = f"import json, os\nfrom vmcapsule.config import load_config\n{code}"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**bare, "HOME": str(home), "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    answer = json.loads(result.stdout)
    assert isinstance(answer, dict)
    return answer


SHOW = """
c = load_config()
print(json.dumps({"template": str(c.template), "offset": c.disk_part_offset_bytes,
    "log": str(c.translate_log), "unknown": c.unknown, "network": c.network,
    "left": os.environ.get("CONDOR_CONFIG")}))
"""


def test_nothing_configured_is_silent_and_leaves_no_trace(tmp_path: Path) -> None:
    answer = ask(SHOW, {}, tmp_path)
    assert answer["template"] == str(tmp_path / ".cache/vmcapsule/templates")
    assert answer["offset"] is None
    assert answer["left"] is None


def test_variables_of_the_environment_are_read(tmp_path: Path) -> None:
    variables = {
        "_CONDOR_VM_CAPSULE_DISK_PART_OFFSET": "32256",
        "_CONDOR_LOCAL_DIR": "/opt/pool",
        "_CONDOR_VM_CAPSULE_TEMPLATE": "$(LOCAL_DIR)/vmware-capsule",
        "_CONDOR_VM_CAPSULE_NETWORK": "True",
    }
    answer = ask(SHOW, variables, tmp_path)
    assert answer["offset"] == 32256
    assert answer["template"] == "/opt/pool/vmware-capsule"
    assert answer["network"] is True


def test_each_reading_is_a_fresh_one(tmp_path: Path) -> None:
    code = "load_config()\nos.environ['_CONDOR_VM_CAPSULE_DISK_PART_OFFSET'] = '512'\n" + SHOW
    assert ask(code, {}, tmp_path)["offset"] == 512


def test_a_condor_config_file_is_read_and_its_macros_expanded(tmp_path: Path) -> None:
    file = tmp_path / "condor_config"
    file.write_text(
        "LOCAL_DIR = /srv/condor\nLOG = $(LOCAL_DIR)/log\n"
        "VM_CAPSULE_TEMPLATE = $(LOCAL_DIR)/vmware-capsule\n"
        "VM_CAPSULE_TRANSLATE_LOG = $(LOG)/VmCapsuleTransLog\n"
        "VM_CAPSULE_DISK_PART_OFFSET = 32256\n"
        "VM_CAPSULE_TEMPLAT = /typo\n"
    )
    answer = ask(SHOW, {"CONDOR_CONFIG": str(file)}, tmp_path)
    assert answer["template"] == "/srv/condor/vmware-capsule"
    assert answer["log"] == "/srv/condor/log/VmCapsuleTransLog"
    assert answer["offset"] == 32256
    assert answer["unknown"] == [
        "VM_CAPSULE_TEMPLAT is no knob of vmcapsule; did you mean VM_CAPSULE_TEMPLATE?"
    ]
    assert answer["left"] == str(file)


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "condor_config"
    file.write_text("VM_CAPSULE_DISK_PART_OFFSET = 32256\n")
    override = {"CONDOR_CONFIG": str(file), "_CONDOR_VM_CAPSULE_DISK_PART_OFFSET": "1048576"}
    assert ask(SHOW, override, tmp_path)["offset"] == 1048576


def test_a_configuration_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDOR_CONFIG", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=r"^CONDOR_CONFIG = .*/absent: there is no such file"):
        load_config()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vmcapsule"


def test_defaults_suit_one_user_on_one_machine(cache: Path) -> None:
    config = load_config({})
    assert config.template == cache / "templates"
    assert config.scratch_dir_prefix == cache / "scratch"
    assert config.init_script.name == "condor-init.py"
    assert config.classad_template is None
    assert config.ad_template_of(None).name == "vmware.classad"
    assert config.data_disk_mount_point == "/condor-data"
    assert (config.condor_tarball, config.condor_tarball_version) == (None, None)
    assert (config.translate_log, config.exit_log, config.timeout_s) == (None, None, None)
    assert (config.memory_overhead_mib, config.network, config.require_kvm) == (
        256,
        False,
        False,
    )
    assert config.warnings == ()


def test_a_relative_cache_folder_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache() == Path.home() / ".cache" / "vmcapsule"


def test_the_newest_tarball_of_the_cache_is_used(cache: Path) -> None:
    cache.mkdir()
    for age, name in enumerate(["condor-24.0.1.tar.gz", "condor-23.9.6.tar.gz"]):
        (cache / name).touch()
        os.utime(cache / name, (1000 - age, 1000 - age))
    (cache / "condor-25.tar.gz").symlink_to("nowhere")
    (cache / "condor-init.py").touch()
    config = load_config({})
    assert config.condor_tarball == cache / "condor-24.0.1.tar.gz"
    assert config.condor_tarball_version == "24.0.1"
    assert newest_tarball(cache / "nothing") is None


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("condor-7.2.0.tar.gz", "7.2.0"),
        ("condor-23.9.6+dfsg-2.1.tar", "23.9.6+dfsg-2.1"),
        ("condor-25.14.1.tgz", "25.14.1"),
        ("condor-8.9.tar.xz", "8.9"),
        ("condor.tar.gz", None),
        ("condor-latest.tar.gz", None),
    ],
)
def test_a_tarballs_name_says_its_version(name: str, version: object) -> None:
    assert tarball_version(Path("/x") / name) == version


def test_every_knob_is_used(tmp_path: Path) -> None:
    script, ad = tmp_path / "init.py", tmp_path / "classad.template"
    script.touch()
    ad.touch()
    config = load_config(
        {
            "vm_capsule_template": "/t",
            "VM_CAPSULE_SCRATCH_DIR_PREFIX": "/scratch/jr",
            "VM_CAPSULE_TRANSLATE_LOG": "/log/t",
            "VM_CAPSULE_EXIT_LOG": "/log/e",
            "VM_CAPSULE_DISK_PART_OFFSET": "32256",
            "VM_CAPSULE_CONDOR_TARBALL": "/c/condor.tar.gz",
            "VM_CAPSULE_CONDOR_TARBALL_VERSION": "7.2.0",
            "VM_CAPSULE_INIT_SCRIPT_PATH": str(script),
            "VM_CAPSULE_DATA_DISK_MOUNT_POINT": "/data/",
            "VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": str(ad),
            "VM_CAPSULE_MEMORY_OVERHEAD_MIB": "0",
            "VM_CAPSULE_TIMEOUT": "60",
            "VM_CAPSULE_NETWORK": "yes",
            "VM_CAPSULE_REQUIRE_KVM": "true",
            "VM_CAPSULE_CACHE_DIR": "/cache",
            "OTHER": "1",
        }
    )
    assert (config.template, config.scratch_dir_prefix) == (Path("/t"), Path("/scratch/jr"))
    assert (config.translate_log, config.exit_log) == (Path("/log/t"), Path("/log/e"))
    assert config.disk_part_offset_bytes == 32256
    assert config.condor_tarball == Path("/c/condor.tar.gz")
    assert config.condor_tarball_version == "7.2.0"
    assert (config.init_script, config.classad_template) == (script, ad)
    assert config.data_disk_mount_point == "/data"
    assert (config.memory_overhead_mib, config.timeout_s, config.network) == (0, 60.0, True)
    assert config.require_kvm is True
    assert config.cache == Path("/cache")
    assert config.unknown == ()


@pytest.mark.parametrize(
    ("knob", "value", "what"),
    [
        ("DISK_PART_OFFSET", "63s", "is not a whole number"),
        ("DISK_PART_OFFSET", "-512", "is negative"),
        ("DISK_PART_OFFSET", "32257", "is not a multiple of 512"),
        ("DISK_PART_OFFSET", "9" * 20, "is more than"),
        ("DISK_PART_OFFSET", "٣", "is not a whole number"),
        ("TEMPLATE", "relative/folder", "is not an absolute path"),
        ("SCRATCH_DIR_PREFIX", "x", "is not an absolute path"),
        ("INIT_SCRIPT_PATH", "/nowhere/init.py", "is not a file"),
        ("CONDOR_CLASSAD_TEMPLATE", "/nowhere/ad", "is not a file"),
        ("CONDOR_CLASSAD_TEMPLATE", "xen", "is not an ad template of vmcapsule"),
        ("CONDOR_CLASSAD_TEMPLATE", "..", "is not an ad template of vmcapsule"),
        ("CONDOR_TARBALL_VERSION", "../7", "is no version"),
        ("DATA_DISK_MOUNT_POINT", "condor-data", "is not an absolute path of plain names"),
        ("DATA_DISK_MOUNT_POINT", "/a/../b", "is not an absolute path of plain names"),
        ("DATA_DISK_MOUNT_POINT", "/a b", "is not an absolute path of plain names"),
        ("DATA_DISK_MOUNT_POINT", "/", "is not an absolute path of plain names"),
        ("MEMORY_OVERHEAD_MIB", "1.5", "is not a whole number"),
        ("TIMEOUT", "0", "leaves a guest no time"),
        ("NETWORK", "maybe", "is neither true nor false"),
    ],
)
def test_a_wrong_value_is_named_with_its_knob_and_the_remedy(
    knob: str, value: str, what: str
) -> None:
    message = re.escape(f"VM_CAPSULE_{knob} = {value}: {what}")
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        load_config({f"VM_CAPSULE_{knob}": value})
    assert f"VM_CAPSULE_{knob}" in caught.value.remedy
    assert "\n" not in str(caught.value)


def test_an_empty_value_counts_as_unset() -> None:
    assert load_config({"VM_CAPSULE_DISK_PART_OFFSET": " "}).disk_part_offset_bytes is None


def test_one_of_our_ad_templates_can_be_named() -> None:
    for name in ("vmware", "vmware.classad"):
        config = load_config({"VM_CAPSULE_CONDOR_CLASSAD_TEMPLATE": name})
        assert config.classad_template == config.ad_template_of(None)
        assert config.ad_template_of(None).name == "vmware.classad"


def test_an_unknown_knob_far_from_all_is_told_what_there_is() -> None:
    (warning,) = load_config({"VM_CAPSULE_ZZZZZZZZZZZZZZZZZZZZZZZZ": "1"}).warnings
    assert "VM_CAPSULE_TEMPLATE" in warning
