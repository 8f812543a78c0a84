"""LIBVIRT_XML_SCRIPT as vm-gahp runs it: a document in any case, never a failure."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Mapping, Optional
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.slot.libvirt.test_asked import AD
from tests.unit.users import open_way
from vmcapsule.disk.vmdk.vmdk import create_vmdk
from vmcapsule.errors import AdError, ToolError
from vmcapsule.slot import entry
from vmcapsule.slot.libvirt import disks, script
from vmcapsule.slot.libvirt.asked import AD_BYTES_MAX, read_asked
from vmcapsule.slot.libvirt.domain import Host, domain, refusal
from vmcapsule.slot.program import write_program
from vmcapsule.vm import accelerator, boot

CHECKOUT = Path(__file__).resolve().parents[4]
FILES = ("system.vmdk", "data.vmdk", "vmlinux", "initrd.img")
#: As little of one as is looked at.
KERNEL = b"\x7fELF\x02"
#: Somebody: no job is root's.
UID, GID = 60101, 60102
#: What vm-gahp looks for in libvirt's answer, to tell the job's fault from the machine's.
BLAMES_THE_JOB = "image is not in qcow2 format"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder with what was transferred, as a starter of root's leaves it."""
    made = tmp_path / "dir_7"
    made.mkdir()
    (tmp_path / "raw").write_bytes(bytes(1 << 20))
    for name in FILES:
        if name.endswith(".vmdk"):
            create_vmdk(tmp_path / "raw", made / name, "monolithicSparse")
        else:
            (made / name).write_bytes(KERNEL)
    chown_all(made)
    open_way(made)
    return made


def chown_all(folder: Path) -> None:
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, UID, GID, follow_symlinks=False)


def environment(folder: Path) -> dict[str, str]:
    about = folder.stat()
    return {
        "PATH": os.environ["PATH"],
        "VMGAHP_WORKING_DIR": str(folder),
        "VMGAHP_USER_UID": str(about.st_uid),
        "VMGAHP_USER_GID": str(about.st_gid),
    }


def ad_of(folder: Path) -> bytes:
    return AD.replace("/execute/dir_7", str(folder)).encode()


def run(
    ad: bytes,
    env: Mapping[str, str],
    *arguments: str,
    program: Path = CHECKOUT / "vmcapsule/slot/entry.py",
) -> tuple[ElementTree.Element, str]:
    """The document that is printed, and what is said on stderr."""
    done = subprocess.run(
        [sys.executable, program, "libvirt-xml", *arguments],
        input=ad,
        capture_output=True,
        env={**env, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and done.stdout.count(b"\n") == 1
    return ElementTree.fromstring(done.stdout), done.stderr.decode()


def is_refusal(document: ElementTree.Element) -> bool:
    """libvirt knows no such type, and there is nothing else in it."""
    parts = [each.tag for each in document]
    return document.get("type", "").startswith("vmcapsule: ") and parts == ["name"]


def text(document: ElementTree.Element, path: str) -> Optional[str]:
    found = document.find(path)
    assert found is not None, path
    return found.text


def test_a_job_of_ours_gets_the_machine_that_its_capsule_needs(folder: Path) -> None:
    made, _ = run(ad_of(folder), environment(folder))
    assert made.get("type") == "qemu"
    assert text(made, "name") == "alice_pool.test_4.0"
    memory = made.find("memory")
    assert memory is not None and (memory.text, memory.get("unit")) == ("320", "MiB")
    assert text(made, "vcpu") == "2"
    assert text(made, "os/kernel") == str(folder / "vmlinux")
    assert text(made, "os/initrd") == str(folder / "initrd.img")
    assert text(made, "os/cmdline") == "root=UUID=94263e29 rw console=ttyS0 a=1,2"
    disks = [
        [disk.find(part).attrib for part in ("driver", "source", "target")]
        for disk in made.iterfind("devices/disk")
    ]
    assert disks == [
        [
            {"name": "qemu", "type": "vmdk"},
            {"file": str(folder / name)},
            {"dev": device, "bus": "virtio"},
        ]
        for name, device in (("system.vmdk", "vda"), ("data.vmdk", "vdb"))
    ]
    read_only = [disk.find("readonly") is not None for disk in made.iterfind("devices/disk")]
    assert read_only == [True, False]


def test_qemu_is_the_jobs_user(folder: Path) -> None:
    made, _ = run(ad_of(folder), environment(folder))
    label, about = made.find("seclabel"), folder.stat()
    assert label is not None
    assert label.attrib == {"type": "static", "model": "dac", "relabel": "no"}
    assert text(label, "label") == f"+{about.st_uid}:+{about.st_gid}"


def test_the_machine_is_the_one_that_capsules_are_made_for() -> None:
    asked = read_asked(AD.encode())
    made = ElementTree.fromstring(domain(asked, Host(Path("/x"), UID, GID, kvm=False)))
    kind = made.find("os/type")
    assert kind is not None and kind.get("machine") == boot.MACHINE
    feature = made.find("cpu/feature")
    assert feature is not None
    assert f"max,{feature.get('name')}=off" == boot.TCG_CPU
    with_kvm = ElementTree.fromstring(domain(asked, Host(Path("/x"), UID, GID, kvm=True)))
    cpu = with_kvm.find("cpu")
    assert cpu is not None and cpu.attrib == {"mode": "host-passthrough"}
    assert with_kvm.get("type") == "kvm"


def test_a_capsule_without_a_kernel_boots_from_its_first_disk() -> None:
    lines = [line for line in AD.splitlines() if "VmCapsule" not in line]
    asked = read_asked("\n".join(lines).encode())
    made = ElementTree.fromstring(domain(asked, Host(Path("/x"), UID, GID, kvm=False)))
    assert [each.tag for each in made.iterfind("os/*")] == ["type", "boot"]
    targets = [each.attrib for each in made.iterfind("devices/disk/target")]
    assert targets == [{"dev": "sda", "bus": "sata"}, {"dev": "sdb", "bus": "sata"}]


def test_a_display_is_shown_where_job_and_administrator_want_it(folder: Path) -> None:
    wanted = ad_of(folder) + b"JobVMVNCConsole = true\n"
    for ad, arguments, shown in (
        (wanted, ("vnc=127.0.0.1",), ["127.0.0.1"]),
        (wanted, (), []),
        (ad_of(folder), ("vnc=127.0.0.1",), []),
    ):
        made, _ = run(ad, environment(folder), *arguments)
        found = [each.get("listen") for each in made.iterfind("devices/graphics")]
        assert found == shown


@pytest.mark.parametrize(
    ("conf", "kept"),
    [
        ('#stdio_handler = "file"\n', True),
        ('stdio_handler = "logd"\n', True),
        (None, True),
        ('stdio_handler = "file"\n', False),
        ('# of ours:\n  stdio_handler="file"  # so\n', False),
        ('stdio_handler = "file"\nstdio_handler = "logd"\n', False),
    ],
)
def test_a_console_is_kept_only_where_it_stays_small(
    tmp_path: Path, conf: Optional[str], kept: bool
) -> None:
    path = tmp_path / "qemu.conf"
    if conf is not None:
        path.write_text(conf)
    assert script.is_bounded(path) is kept


def test_no_console_lies_in_the_jobs_folder(folder: Path) -> None:
    """libvirt opens it as root, and a link may be put in its place."""
    made, _ = run(ad_of(folder), environment(folder))
    paths = [each.get("path") for each in made.iterfind("devices/serial/source")]
    assert paths == ["/var/log/libvirt/qemu/alice_pool.test_4.0.console.log"]
    host = Host(folder, UID, GID, kvm=False)
    made = ElementTree.fromstring(domain(read_asked(AD.encode()), host))
    assert [each.get("type") for each in made.iterfind("devices/serial")] == ["pty"]


def test_where_its_user_cannot_run_qemu_no_machine_is_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "qemu"
    home.mkdir()
    home.chmod(0o750)
    monkeypatch.setattr(script, "QEMU_HOME", home)
    with pytest.raises(ToolError, match=f"chmod o.x {home}"):
        script.document(ad_of(folder), [], environment(folder))
    home.chmod(0o751)
    assert script.document(ad_of(folder), [], environment(folder)).startswith("<domain")


def blamed(document: ElementTree.Element) -> bool:
    assert is_refusal(document)
    return BLAMES_THE_JOB in (document.get("type") or "")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["link", "hard link", "folder", "missing", "stranger's"])
def test_a_file_that_is_not_the_jobs_own_is_refused(
    folder: Path, tmp_path: Path, name: str, kind: str
) -> None:
    path, other = folder / name, tmp_path / "other"
    other.write_bytes(b"secret")
    if kind == "stranger's" and os.geteuid() != 0:
        pytest.skip("only root can make a file of a stranger's")
    if kind == "stranger's":
        os.chown(path, 0, 0)
    else:
        path.unlink()
    if kind == "link":
        path.symlink_to(other)
    elif kind == "hard link":
        os.link(other, path)
        os.chown(path, folder.stat().st_uid, folder.stat().st_gid)
    elif kind == "folder":
        path.mkdir()
    made, said = run(ad_of(folder), environment(folder))
    assert blamed(made) and f"'{name}'" in said


def qcow2(version: int = 3, backing_at: int = 0) -> bytes:
    return struct.pack(">4sIQ", b"QFI\xfb", version, backing_at) + bytes(100)


@pytest.mark.parametrize(
    ("name", "form", "content", "is_fine"),
    [
        ("data.vmdk", "vmdk", b"garbage", False),
        ("data.vmdk", "vmdk", b"KDMV" + b"\xff" * 2000, False),
        ("data.vmdk", "vmdk", b"", False),
        ("data.vmdk", "raw", b"garbage", True),
        ("data.vmdk", "qcow2", b"garbage", False),
        ("data.vmdk", "qcow2", b"", False),
        ("data.vmdk", "qcow2", qcow2(), True),
        ("data.vmdk", "qcow2", qcow2(version=9), False),
        ("data.vmdk", "qcow2", qcow2(backing_at=500), False),
        ("vmlinux", "vmdk", b"garbage", False),
        ("vmlinux", "vmdk", bytes(0x202) + b"HdrS", True),
    ],
)
def test_a_file_that_qemu_would_not_start_with_is_the_jobs_fault(
    folder: Path, name: str, form: str, content: bytes, is_fine: bool
) -> None:
    """Else HTCondor takes the VM universe of machine after machine out of service."""
    (folder / name).write_bytes(content)
    ad = ad_of(folder).replace(b"data.vmdk:vdb:w:vmdk", f"data.vmdk:vdb:w:{form}".encode())
    made, said = run(ad, environment(folder))
    if is_fine:
        assert made.get("type") == "qemu", said
    else:
        assert blamed(made) and name in said


def test_a_disk_that_can_only_be_read_is_not_written_to(folder: Path, tmp_path: Path) -> None:
    (folder / "data.vmdk").unlink()
    create_vmdk(tmp_path / "raw", folder / "data.vmdk", "streamOptimized")
    chown_all(folder)
    made, said = run(ad_of(folder), environment(folder))
    assert blamed(made) and "compressed" in said
    made, _ = run(ad_of(folder).replace(b"vdb:w:", b"vdb:r:"), environment(folder))
    assert made.get("type") == "qemu"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could open what the user cannot")
def test_root_opens_no_disk_itself(folder: Path, tmp_path: Path) -> None:
    (folder / "data.vmdk").chmod(0o000)
    assert blamed(run(ad_of(folder), environment(folder))[0])
    (folder / "data.vmdk").chmod(0o600)
    # Where the user cannot get in at all the machine is at fault.
    tmp_path.chmod(0o700)
    made, said = run(ad_of(folder), environment(folder))
    assert is_refusal(made) and not blamed(made) and "cannot get into" in said


def test_a_look_that_does_not_end_is_the_jobs_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "LOOK_TIMEOUT_S", 0.5)
    monkeypatch.setattr(disks, "read_vmdk", lambda path: time.sleep(600))
    begun = time.monotonic()
    with pytest.raises(AdError, match="in time"):
        script.document(ad_of(folder), [], environment(folder))
    assert time.monotonic() - begun < 30


def test_another_folder_than_the_starters_is_refused(folder: Path, tmp_path: Path) -> None:
    """The ad is the job's to write, and vm-gahp believes it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert blamed(run(ad_of(elsewhere), environment(folder))[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"VMGAHP_USER_UID": "0"},
        {"VMGAHP_USER_GID": "0"},
        {"VMGAHP_USER_UID": "12345"},
        {"VMGAHP_USER_UID": "x"},
        {"VMGAHP_WORKING_DIR": "/nonexistent"},
        {"VMGAHP_WORKING_DIR": ""},
    ],
)
def test_without_an_owner_no_machine_is_made_and_no_job_is_blamed(
    folder: Path, changes: dict[str, str]
) -> None:
    made, said = run(ad_of(folder), {**environment(folder), **changes})
    assert not blamed(made)
    assert "the job gets no machine" in said


@pytest.mark.parametrize("arguments", [("vnc",), ("vnc=host name",), ("vnc=::1", "y"), ("v=",)])
def test_arguments_that_are_not_understood_make_no_machine(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    assert not blamed(run(ad_of(folder), environment(folder), *arguments)[0])


def test_all_of_an_ad_is_read_however_long_it_is(folder: Path) -> None:
    # A writer to a pipe that nobody reads to its end would fail.
    made, _ = run(ad_of(folder) + bytes(AD_BYTES_MAX + (1 << 20)), environment(folder))
    assert blamed(made)


def test_the_one_file_of_execute_points_does_it(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "execute.pyz"
    write_program(program)
    made, said = run(ad_of(folder), environment(folder), program=program)
    assert made.get("type") == "qemu" and "without a kernel" in said


def test_a_python_that_is_too_old_makes_no_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """HTCondor would make one of its own where the script fails."""
    monkeypatch.setattr(sys, "argv", ["execute.pyz", "libvirt-xml"])
    monkeypatch.setattr(sys, "version_info", (3, 6))
    assert entry.begin() == 0
    made = ElementTree.fromstring(capsys.readouterr().out)
    assert not blamed(made) and "Python 3.6 is too old" in made.get("type", "")


def test_a_reason_of_any_kind_is_one_document() -> None:
    for of_job in (True, False):
        document = ElementTree.fromstring(refusal('<&"\x00\n\ud800é' * 200, of_job=of_job))
        assert blamed(document) is of_job


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(accelerator, "DEVICE", path)
    return path


@pytest.mark.parametrize(
    ("mode", "in_group", "group"),
    [
        (0o666, False, "own"),
        (0o660, True, "own"),
        (0o660, False, "device's"),
        (0o600, False, None),
        (0o640, True, None),
    ],
)
def test_kvm_is_used_with_a_group_that_may(
    device: Path, mode: int, in_group: bool, group: Optional[str]
) -> None:
    device.chmod(mode)
    theirs = device.stat().st_gid
    own = theirs if in_group else theirs + 7
    # Nobody's number: its groups are the one that it is given.
    found = script.kvm_group(3_999_999_999, own)
    assert found == {"own": own, "device's": theirs, None: None}[group]


def test_no_device_no_kvm(device: Path) -> None:
    device.unlink()
    assert script.kvm_group(UID, GID) is None


def test_root_tries_kvm_in_no_folder_of_the_jobs(
    device: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTCondor has temporary files in the job's folder, where a link could wait for root."""
    cache, used = tmp_path / "cache", []

    def run(argv: list[str], **_: object) -> None:
        used.append(next(word for word in argv if word.startswith("file:")))
        raise ToolError("QEMU ended")

    monkeypatch.setattr(script, "CACHE", cache)
    monkeypatch.setattr(script.pkgutil, "get_data", lambda *_: b"a kernel")
    monkeypatch.setattr(accelerator, "is_permitted", lambda: True)
    monkeypatch.setattr(accelerator.process, "find", lambda program: "/bin/true")
    monkeypatch.setattr(accelerator.process, "run", run)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert script.kvm_works() is False
    assert [name.startswith(f"file:{cache}/") for name in used] == [True]
    # It is remembered.
    assert script.kvm_works() is False and len(used) == 1
    assert (cache / accelerator.PROBE_KERNEL).read_bytes() == b"a kernel"


_HOSTILE = st.text(
    st.sampled_from("ab/.:,\"\\ \n=<>&'é\0\x1b]"), max_size=20
) | st.sampled_from(["system.vmdk:vda:r:vmdk", "../../etc/shadow", "/etc/passwd", "undefined"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from([line.split(" = ")[0] for line in AD.splitlines()]),
        st.one_of(_HOSTILE, _HOSTILE.map(lambda text: f'"{text}"')),
        max_size=3,
    )
)
def test_whatever_the_ad_says_only_checked_files_of_the_folder_are_named(
    folder: Path, changes: dict[str, str]
) -> None:
    said = dict(line.split(" = ", 1) for line in ad_of(folder).decode().splitlines())
    ad = "".join(f"{name} = {value}\n" for name, value in {**said, **changes}.items())
    uid = folder.stat().st_uid
    try:
        asked = read_asked(ad.encode())
        script.check_files(asked, folder, uid)
    except AdError as error:
        assert is_refusal(ElementTree.fromstring(refusal(str(error), of_job=True)))
        return
    made = ElementTree.fromstring(domain(asked, Host(folder, uid, GID, False, vnc="127.0.0.1")))
    named = [each.text for each in made.iterfind("os/kernel")]
    named += [each.text for each in made.iterfind("os/initrd")]
    named += [each.get("file") for each in made.iterfind("devices//source")]
    for name in named:
        assert name is not None and Path(name).parent == folder
        assert Path(name).name in FILES and stat.S_ISREG(os.lstat(name).st_mode)
    # Nothing else can name a file, a program or another machine.
    assert {each.tag for each in made} <= {
        *("name", "memory", "vcpu", "os", "features", "cpu", "clock", "devices", "seclabel"),
        *("on_poweroff", "on_reboot", "on_crash"),
    }
