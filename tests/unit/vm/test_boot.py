"""The machine that is booted: what it is given, and what it never gets."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from vmcapsule.disk.vmdk.vmdk import create_vmdk
from vmcapsule.errors import GuestTimeout, ToolError
from vmcapsule.vm import accelerator, confinement
from vmcapsule.vm.boot import Machine, boot, qemu_command

MACHINE = Machine(
    system_disk=Path("/t/system.vmdk"),
    data_disk=Path("/c/data.vmdk"),
    cpus=2,
    memory_mib=384,
    accelerator=accelerator.TCG,
    kernel=Path("/t/vmlinuz"),
    initrd=Path("/t/initrd.img"),
    cmdline="root=x quiet",
)


def options(machine: Machine) -> dict[str, list[str]]:
    argv = qemu_command(machine, Path("/c/console.log"))
    argv = argv[len(argv) - argv[::-1].index("--") + 1 :]
    found: dict[str, list[str]] = {}
    for position, word in enumerate(argv):
        if word.startswith("-"):
            found.setdefault(word, []).append(
                argv[position + 1] if position + 1 < len(argv) else ""
            )
    return found


def test_the_machine_has_what_it_was_given() -> None:
    found = options(MACHINE)
    assert found["-smp"] == ["2"] and found["-m"] == ["384"]
    assert found["-kernel"] == ["/t/vmlinuz"] and found["-append"] == ["root=x quiet"]
    system, data = found["-drive"]
    assert "/t/system.vmdk" in system and "snapshot=on" in system
    assert "/c/data.vmdk" in data and "snapshot" not in data
    # Otherwise a guest goes on whose writing fails, and ends well with wrong outputs.
    assert all("werror=stop,rerror=stop" in drive for drive in found["-drive"])


@pytest.mark.parametrize(("kernel", "bus"), [(MACHINE.kernel, "virtio"), (None, "ide")])
def test_a_work_disk_comes_last_and_nothing_of_it_is_flushed(
    kernel: Optional[Path], bus: str
) -> None:
    machine = MACHINE._replace(work_disk=Path("/c/work,.raw"), kernel=kernel)
    *_, work = options(machine)["-drive"]
    assert "driver=raw" in work and "filename=/c/work,,.raw" in work
    assert f"if={bus}" in work and "cache=unsafe" in work
    assert "werror=stop,rerror=stop" in work


def test_there_is_no_network_unless_asked_for() -> None:
    assert options(MACHINE)["-nic"] == ["none"]
    assert options(MACHINE._replace(network=True))["-nic"] == ["user,model=virtio-net-pci"]


@pytest.mark.parametrize("network", [False, True])
def test_qemu_is_in_its_sandbox_and_dies_with_its_parent(network: bool) -> None:
    machine = MACHINE._replace(network=network)
    (sandbox,) = options(machine)["-sandbox"]
    what = ("obsolete", "elevateprivileges", "spawn", "resourcecontrol")
    assert sandbox == ",".join(["on", *(f"{each}=deny" for each in what)])
    assert " --pdeathsig KILL -- " in " ".join(qemu_command(machine, Path("/c/console.log")))


def test_commas_in_a_path_do_not_become_options() -> None:
    machine = MACHINE._replace(data_disk=Path("/c/a,readonly=on/data.vmdk"))
    assert "file.filename=/c/a,,readonly=on/data.vmdk," in options(machine)["-drive"][1]


def test_without_a_kernel_it_boots_from_disks_that_old_guests_know() -> None:
    found = options(MACHINE._replace(kernel=None, initrd=None))
    assert "-kernel" not in found
    assert all("if=ide" in drive for drive in found["-drive"])


@pytest.fixture
def blank(tmp_path: Path) -> Machine:
    """A machine whose disks are empty: its firmware finds nothing to boot."""
    disks = []
    for name in ("system.vmdk", "data.vmdk"):
        raw = tmp_path / "raw"
        raw.write_bytes(bytes(1 << 20))
        create_vmdk(raw, tmp_path / name, "monolithicFlat")
        disks.append(tmp_path / name)
    return Machine(disks[0], disks[1], 1, 64, accelerator.TCG)


def test_a_machine_that_never_ends_is_ended(blank: Machine, tmp_path: Path) -> None:
    with pytest.raises(GuestTimeout, match="within 1 s"):
        boot(blank, console=tmp_path / "console", scratch=tmp_path, timeout_s=1)


def test_a_machine_that_qemu_will_not_start_is_explained(
    blank: Machine, tmp_path: Path
) -> None:
    with pytest.raises(ToolError, match="QEMU ended with status 1"):
        boot(blank._replace(memory_mib=1 << 40), console=tmp_path / "c", scratch=tmp_path)


def test_a_qemu_without_a_sandbox_is_not_used(
    blank: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = tmp_path / "bin" / "qemu-system-x86_64"
    qemu.parent.mkdir()
    said = "-sandbox support is not enabled in this QEMU binary"
    qemu.write_text(f"#!/bin/sh\ncase \"$*\" in *-sandbox*) echo '{said}' >&2; exit 1;; esac\n")
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", str(qemu.parent), prepend=":")
    with pytest.raises(ToolError, match=said) as caught:
        boot(blank, console=tmp_path / "console", scratch=tmp_path)
    assert caught.value.remedy == "install a QEMU that was built with seccomp"


def test_without_pasta_there_is_no_network_and_what_to_install_is_said(
    blank: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "PASTA", "no-such-pasta")
    with pytest.raises(ToolError, match="'no-such-pasta' is not installed"):
        boot(blank._replace(network=True), console=tmp_path / "console", scratch=tmp_path)


def test_no_kernel_means_emulation(tmp_path: Path) -> None:
    assert accelerator.choose(None, tmp_path) == accelerator.TCG


def test_kvm_is_not_believed_without_a_guest_that_ran(tmp_path: Path) -> None:
    not_a_kernel = tmp_path / "vmlinuz"
    not_a_kernel.write_bytes(b"nothing that runs")
    assert accelerator.probe_kvm(not_a_kernel) is False


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that are probed, on a machine with KVM: it works with those named so."""
    (tmp_path / "kvm").write_text("")
    monkeypatch.setattr(accelerator, "DEVICE", tmp_path / "kvm")
    probed: list[str] = []

    def probe(kernel: Path, aside: Optional[Path]) -> bool:
        probed.append(kernel.name)
        return "works" in kernel.name

    monkeypatch.setattr(accelerator, "probe_kvm", probe)
    return probed


def test_the_answer_about_kvm_is_remembered_for_each_kernel(
    tmp_path: Path, asked: list[str]
) -> None:
    kernels = [tmp_path / name for name in ("works", "copy-of-it", "old")]
    for kernel, content in zip(kernels, (b"one kernel", b"one kernel", b"another one")):
        kernel.write_bytes(content)
    for _ in range(3):
        found = [accelerator.choose(kernel, tmp_path / "cache") for kernel in kernels]
        assert found == [accelerator.KVM, accelerator.KVM, accelerator.TCG]
    assert asked == ["works", "old"]
    kernels[2].write_bytes(b"another now")
    accelerator.choose(kernels[2], tmp_path / "cache")
    assert asked == ["works", "old", "old"]


def test_so_many_answers_are_kept_and_no_more(tmp_path: Path, asked: list[str]) -> None:
    for number in range(50):
        (tmp_path / f"{number}").write_bytes(b"%d" % number)
        accelerator.choose(tmp_path / f"{number}", tmp_path / "cache")
    assert (tmp_path / "cache" / "kvm-probe.json").stat().st_size < 2000
    assert accelerator.choose(tmp_path / "49", tmp_path / "cache") == accelerator.TCG
    assert len(asked) == 50


@pytest.mark.parametrize("said", ["", "[]", '{"key": "x", "works": true}', "{", "\xff"])
def test_a_cache_that_says_anything_else_is_no_answer(
    tmp_path: Path, asked: list[str], said: str
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kvm-probe.json").write_text(said, encoding="latin-1")
    (tmp_path / "works").write_bytes(b"a kernel")
    assert accelerator.choose(tmp_path / "works", tmp_path / "cache") == accelerator.KVM
    assert asked == ["works"]


def test_a_cache_that_cannot_be_written_costs_a_probe_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "vmlinuz").write_text("")
    monkeypatch.setattr(accelerator, "DEVICE", tmp_path / "vmlinuz")
    monkeypatch.setattr(accelerator.process, "find", lambda _: str(tmp_path / "file"))
    monkeypatch.setattr(accelerator, "probe_kvm", lambda *_: True)
    assert accelerator.choose(tmp_path / "vmlinuz", tmp_path / "file/cache") == accelerator.KVM
